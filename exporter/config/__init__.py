"""Settings, accounts and tokens: from flags, environment and TOML file to one configuration."""
