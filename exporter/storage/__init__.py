"""The state file: a SQLite database with the ledgers of all accounts."""
