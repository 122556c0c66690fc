"""Asks the platform, has it counted, and publishes what was committed."""
