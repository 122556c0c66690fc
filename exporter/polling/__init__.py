"""Polls the platform, reconciles the responses with the ledger, and publishes what was committed."""
