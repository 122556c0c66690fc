"""Tells Prometheus what became of the bulk file jobs on the Seven Bridges platforms."""

__version__ = "0.1.0"
