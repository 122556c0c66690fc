"""The daemon: how it is built, started, supervised and stopped."""
