"""What can be used of tables with invalid values, so that one report has the problems of everything else as well."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from exporter.config.endpoints import parse_endpoint
from exporter.errors import ConfigError

_TOKEN_KEYS: Final = ("auth_token_file", "auth_token", "profile")
ONE_TOKEN: Final = f"set exactly one of {', '.join(_TOKEN_KEYS[:-1])} and {_TOKEN_KEYS[-1]}"
_NEEDED: Final = ("name", "api_endpoint", *_TOKEN_KEYS)


def usable_table(table: object, wrong: Collection[str]) -> dict[str, object] | None:
    """An account's table without its *wrong* keys; None if it says without them too little about the account."""
    if not isinstance(table, dict) or any(get_close_matches(key, _NEEDED, n=1, cutoff=0.75) for key in wrong):
        return None
    return {key: value for key, value in table.items() if key not in wrong}


def usable_tables(tables: object, wrong: Iterable[tuple[int | str, ...]]) -> dict[int, dict[str, object]]:
    """Position to table, for each of *tables* that can be used; *wrong* are the places of what is invalid in them."""
    if not isinstance(tables, list | tuple):
        return {}
    keys: dict[object, set[str]] = {position: set() for position in range(len(tables))}
    unusable = set[object]()
    for place in wrong:
        if len(place) > 1:
            keys[place[0]].add(str(place[1]))
        else:
            unusable.update(place)
    found = {position: usable_table(table, keys[position]) for position, table in enumerate(tables)}
    return {position: table for position, table in found.items() if table is not None and position not in unusable}


def other_problems(table: object, wrong: Collection[str], where: str) -> Iterator[str]:
    """What else is wrong with an account's table that cannot be used because of its *wrong* keys."""
    if not isinstance(table, Mapping):
        return
    if len([key for key in _TOKEN_KEYS if key in table and key not in wrong]) > 1:
        yield f"{where}: {ONE_TOKEN}"
    endpoint = table.get("api_endpoint")
    if isinstance(endpoint, str):
        try:
            parse_endpoint(endpoint, where, allow_plain_http=table.get("allow_plain_http") is True)
        except ConfigError as error:
            yield from error.problems
