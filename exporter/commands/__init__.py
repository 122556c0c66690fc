"""The commands of ``sbg-exporter``."""
