"""Where an account's settings come from, without any secret: for ``check --verbose`` and ``--json``."""

from typing import NamedTuple

from exporter.api.transport import without_credentials
from exporter.config.accounts import AccountConfig, AccountEntry


class AccountSource(NamedTuple):
    """Where an account is configured, and through what it is polled; None is what is not set or not known.

    Attributes:
        configured_in: the file and the table, the profile or the variable.
        token_from: the token's file, profile or variable; never the token.
        proxy: the proxy's URL without credentials.
        ca_file: the file with certificate authorities.
    """

    configured_in: str
    token_from: str | None = None
    proxy: str | None = None
    ca_file: str | None = None


def account_source(entry: AccountEntry) -> AccountSource:
    """Where the settings of *entry* come from."""
    if not isinstance(entry, AccountConfig):
        return AccountSource(entry.where)
    return AccountSource(
        entry.where,
        entry.token.source,
        None if entry.proxy is None else entry.proxy.judged_by(without_credentials),
        None if entry.ca_file is None else str(entry.ca_file),
    )
