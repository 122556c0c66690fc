"""What is written about accounts: a table ``[[accounts]]`` each, or a file; and which names these accounts have."""

from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, GetPydanticSchema
from pydantic_core import core_schema

from exporter.config.own_settings import JobSeries, OwnSettings, PollInterval, RateShare
from exporter.redaction import MASK, Secret, looks_like_token

_LONGEST_NAME: Final = 64
ALL_PROFILES: Final = "*"
"""Stands in ``profiles`` for all that there are."""


def account_name(value: str) -> str:
    """*value*, which becomes the ``account`` label.

    Raises:
        ValueError: it cannot be one.
    """
    if not 0 < len(value) <= _LONGEST_NAME or not value.isprintable() or value != value.strip():
        raise ValueError(f"expected 1 to {_LONGEST_NAME} printable characters")
    return no_token(value)


def _is_name(value: str) -> bool:
    try:
        account_name(value)
    except ValueError:
        return False
    return True


def no_token(value: str) -> str:
    """*value*, which becomes a label of metrics.

    Raises:
        ValueError: it looks like a token.
    """
    if looks_like_token(value):
        raise ValueError("this looks like a token, and everyone who sees the metrics sees it here; use another text")
    return value


SecretText = Annotated[
    Secret,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_after_validator_function(
            partial(Secret, masked=False),
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _secret: MASK),
        )
    ),
]
"""A text that becomes a :class:`Secret` when it is read."""


class AccountTable(BaseModel):
    """One ``[[accounts]]`` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, AfterValidator(account_name)]
    api_endpoint: str | None = None
    auth_token_file: Path | None = None
    auth_token: SecretText | None = None
    profile: str | None = None
    division: Annotated[str, AfterValidator(no_token)] = ""
    ca_file: Path | None = None
    proxy: SecretText | None = None
    allow_plain_http: bool = False
    poll_interval: PollInterval | None = None
    rate_share: RateShare | None = None
    job_series: JobSeries | None = None

    @property
    def own(self) -> OwnSettings:
        """The settings that this account has of its own."""
        return OwnSettings(self.poll_interval, self.rate_share, self.job_series)

    @property
    def without_own(self) -> "AccountTable":
        """The rest: who is polled, and through which connection."""
        return self.model_copy(update=dict.fromkeys(OwnSettings._fields))


class PlacedTable(NamedTuple):
    """An account's table, and where it stands.

    Attributes:
        table: the table.
        where: where it stands, for errors.
        file: the file with it; paths in it are relative to that.
    """

    table: AccountTable
    where: str
    file: Path | None


class AccountFile(NamedTuple):
    """A file of one account.

    Attributes:
        file: its path.
        name: the account's name; empty if it is not known.
        problems: what is wrong with it, one line each; it cannot be used if there is anything.
        table: the account without what is wrong; None if too little is left.
        profile: the profile that it names; empty if that is not known.
    """

    file: Path
    name: str
    problems: tuple[str, ...] = ()
    table: AccountTable | None = None
    profile: str = ""

    def and_problems(self, *problems: str) -> "AccountFile":
        """The same file with more *problems*."""
        return self._replace(problems=(*self.problems, *problems))


def held_profiles(tables: Sequence[PlacedTable], files: Sequence[AccountFile]) -> set[str]:
    """The profiles that are polled as *tables* and *files* say, or not polled, because a file cannot be used.

    Of a file that cannot be used, the profile may be its account.
    """
    named = {each.table.profile for each in tables if each.table.profile} | {each.profile for each in files}
    return named | {each.name or each.file.stem for each in files if each.problems}


def with_unique_names(
    files: Sequence[AccountFile], tables: Sequence[PlacedTable], profiles: Collection[str]
) -> list[AccountFile]:
    """*files* with names that no other account has; where the name is another account's, that is a problem of the file.

    A name is that of the first account: of *tables* and named *profiles*, which are in the configuration file; of the
    files that can be used; of the others.
    """
    held = {*profiles} if ALL_PROFILES in profiles else held_profiles(tables, files)
    ranked = [
        *((each.table.name, each.where) for each in tables),
        *((profile, f"profiles: {profile}") for profile in profiles if profile not in held),
        *((each.name, str(each.file)) for each in sorted(files, key=lambda file: bool(file.problems)) if each.name),
    ]
    places = dict(reversed(ranked))
    used, found = set(places), []
    for number, each in enumerate(files, 1):
        owner = places.get(each.name, "")
        if owner == str(each.file):
            found.append(each)
            continue
        numbered = (f"{each.file.parent.name} #{free}" for free in count(number))
        candidates = chain(() if owner else (each.file.stem,), (each.file.name,), numbered)
        name = next(name for name in candidates if name not in used and _is_name(name))
        used.add(name)
        twice = (f"{each.file}: the name {each.name!r} is used already ({owner}); give each account its own name",)
        found.append(each.and_problems(*(twice if owner else ()))._replace(name=name))
    return found
