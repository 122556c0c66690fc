"""Counting: pure rules that decide what an observation adds. Nothing here reads a clock, a socket or a file."""
