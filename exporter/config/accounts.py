"""The accounts to poll: from tables in the file, from profiles, or by the official clients' conventions."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from exporter.api.platforms import SHORT_NAMES, unusual_path
from exporter.config.account_tables import (
    ALL_PROFILES,
    AccountFile,
    AccountTable,
    PlacedTable,
    account_name,
    held_profiles,
    with_unique_names,
)
from exporter.config.endpoints import (
    check_certificates,
    has_password,
    is_loopback,
    parse_endpoint,
    parse_proxy,
    proxy_from_environment,
)
from exporter.config.own_settings import OwnSettings
from exporter.config.relative import beside
from exporter.config.tokens import (
    MEND_CREDENTIALS,
    FixedToken,
    Profile,
    ProfileToken,
    Token,
    TokenFile,
    credentials_path,
    find_profile,
    parse_token,
    read_profiles,
    refusal_remedy,
    token_path,
    where_profiles_are,
)
from exporter.config.usable import ONE_TOKEN
from exporter.errors import (
    ConfigError,
    CredentialsError,
    Problems,
    ProfileError,
    TokenError,
    TokenForbidden,
    WaitReason,
)
from exporter.permissions import exposure_warning
from exporter.redaction import Secret, looks_like_token, shown, without_secrets

CLIENT_VARIABLES: Final = ("SB_API_ENDPOINT", "SB_AUTH_TOKEN_FILE", "SB_AUTH_TOKEN")
"""Variables of the official clients, which name the account of a configuration without any."""
_INVALID_FILE: Final = "the file that configures the account is invalid"
MEND_FILE: Final = "correct the file, see what `sbg-exporter check` says, and reload the configuration"


def _check_label(account: "AccountConfig") -> None:
    """Refuse the name of a profile that cannot be an account's; names in the file have been checked already."""
    try:
        account_name(account.name)
    except ValueError as error:
        raise ConfigError(f"{account.where}: name: {error}; {account.renaming}") from None


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """One account to poll, with everything resolved.

    Attributes:
        name: the ``account`` label.
        endpoint: the API's base URL, without a slash at its end.
        division: free text that distinguishes one user's divisions.
        token: the source of the token.
        ca_file: certificates to trust instead of the system's.
        proxy: the proxy's URL, which may contain credentials.
        where: where it is configured, for errors.
        proxy_file: the configuration file with the proxy's password; None if it has none, or from the environment.
        entry: the table, without its own settings, or the profile's name that it comes from. Two accounts are equal if
            they are polled through the same connection, wherever they are configured and however often.
        own: the settings that it has of its own; a reload changes them without a new connection.
    """

    name: str
    endpoint: str
    division: str
    token: Token
    ca_file: Path | None
    proxy: Secret | None
    where: str = field(default="", compare=False)
    proxy_file: Path | None = field(default=None, compare=False)
    entry: AccountTable | str = field(default="", compare=False, repr=False)
    own: OwnSettings = field(default=OwnSettings(), compare=False)

    def token_remedy(self) -> str:
        """How to replace the token, as it is now."""
        return refusal_remedy(self.token)

    @property
    def exposure_warnings(self) -> Iterator[str]:
        """A line for each file that contains a secret of the account and that other users can read."""
        proxy_file, kind = self.proxy_file, "configuration file with a proxy's password in it"
        for warning in (self.token.exposure_warning(), proxy_file and exposure_warning(proxy_file, kind)):
            if warning:
                yield str(warning)

    @property
    def needs_tls(self) -> bool:
        """Whether a connection to the endpoint or to its proxy is encrypted."""
        through_tls = self.proxy is not None and self.proxy.judged_by(lambda url: url.startswith("https:"))
        return self.endpoint.startswith("https:") or through_tls

    @property
    def renaming(self) -> str:
        """What to do to give it another name."""
        in_file = isinstance(self.entry, AccountTable)
        return "rename the account" if in_file else "configure it in a file under another name"

    @property
    def endpoint_warning(self) -> str:
        """What is unusual about the endpoint, in a line; empty if nothing is."""
        question = unusual_path(self.endpoint)
        return f"{self.where}: {question}" if question else ""

    def setup_problem(self, environ: Mapping[str, str]) -> str:
        """Read the account's files, and say in a line what is wrong with them now; an empty line if nothing is.

        They may be written or repaired later, so this is no reason to refuse the configuration.
        """
        try:
            self.token.read()
            if self.ca_file is not None and self.needs_tls:
                check_certificates(self.ca_file, f"{self.where}: ca_file")
            elif self.needs_tls and environ.get("SSL_CERT_FILE"):
                check_certificates(Path(environ["SSL_CERT_FILE"]), f"{self.where}: SSL_CERT_FILE")
        except TokenError as error:
            to_write = isinstance(self.token, TokenFile) and not self.token.is_pasted
            hint = "; write only the token to it" if to_write and not isinstance(error, TokenForbidden) else ""
            return f"{self.where}: {error}{hint}"
        except ConfigError as error:
            return str(error)
        return ""


@dataclass(frozen=True, slots=True)
class PendingAccount:
    """An account whose endpoint is not known, because its profile is missing or incomplete.

    Attributes:
        problem: what is wrong, in a line.
        resolve: reads the profile again; raises ConfigError while the account cannot be set up.
        remedy: what to do.
        waits: why it is not polled for now, as a clause.
        entry, own, where: see :class:`AccountConfig`.
    """

    name: str
    problem: str = field(compare=False)
    remedy: str = field(compare=False)
    resolve: Callable[[], AccountConfig] = field(repr=False, compare=False)
    entry: AccountTable | str = field(default="", repr=False)
    own: OwnSettings = field(default=OwnSettings(), compare=False)
    where: str = field(default="", compare=False)
    waits: str = field(default=WaitReason.TOKEN.explanation, compare=False)

    @property
    def is_unusable_file(self) -> bool:
        """Whether it stands for a file that cannot be used; its name is then a guess."""
        return self.waits == _INVALID_FILE


AccountEntry = AccountConfig | PendingAccount


@dataclass(slots=True)
class ResolvedAccounts:
    """What the tables and profiles gave.

    Attributes:
        accounts: with an endpoint, in the order of the configuration.
        pending: without one for now.
        setup_problems: account to what is wrong with its files now.
        lines: everything that is wrong, in the order of the configuration.
        environ: the environment.
        refused: whether some of it can only be repaired in the configuration.
        file_problems: what is wrong with files of one account, which stops these accounts only.
        places: where each name stands.
    """

    accounts: list[AccountConfig] = field(default_factory=list)
    pending: list[PendingAccount] = field(default_factory=list)
    setup_problems: dict[str, str] = field(default_factory=dict)
    lines: Problems = field(default_factory=Problems)
    refused: bool = False
    file_problems: list[str] = field(default_factory=list)
    places: dict[str, list[str]] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def usable(self) -> bool:
        """Whether at least one account can be polled now."""
        return any(account.name not in self.setup_problems for account in self.accounts)

    def refuse(self, *lines: str) -> None:
        """Note what is wrong with the configuration itself."""
        self.lines.extend(lines)
        self.refused = True

    def add(  # noqa: PLR0917  # what to add, and from what
        self, entry: AccountTable | str, where: str, remedy: str, resolve: "_Resolve", cached: "_Known", fresh: "_Known"
    ) -> None:
        """Add the account that *resolve* makes of *entry*, a table or a profile's name, or note what is wrong."""
        name, own = (entry, OwnSettings()) if isinstance(entry, str) else (entry.name, entry.own)
        entry = entry if isinstance(entry, str) else entry.without_own

        def resolved(known: _Known) -> AccountConfig:
            account = replace(resolve(known), entry=entry, own=own)
            _check_label(account)
            return account

        try:
            account = resolved(cached)
        except ProfileError as error:
            if looks_like_token(name):
                self.refuse(f"{error}; expected the name of a profile, but this looks like a token")
                return
            self._place(name, where)
            remedy = MEND_CREDENTIALS if isinstance(error, CredentialsError) else remedy
            self.pending.append(PendingAccount(name, str(error), remedy, partial(resolved, fresh), entry, own, where))
            self._note(name, str(error))
        except ConfigError as error:
            self.refuse(*error.problems)
        else:
            self._place(account.name, where)
            self.accounts.append(account)
            self._note(account.name, account.setup_problem(self.environ))

    def add_unusable(self, name: str, where: str, problems: Sequence[str]) -> None:
        """Add the account *name*, whose file has *problems*; a reload reads it again."""
        error, where = ConfigError(*problems), shown(where)
        self._place(name, where)
        self.pending.append(
            PendingAccount(name, str(error), MEND_FILE, partial(_raise, problems), where=where, waits=_INVALID_FILE)
        )
        self.setup_problems[name] = str(error)
        self.lines.extend(error.problems)
        self.file_problems.extend(error.problems)

    def without_used_names(self, profiles: Sequence[str]) -> list[str]:
        """*profiles* whose names no account has so far; the others, of which no configuration says that, are unusable.

        A profile that is added for another program stops no account.
        """
        used = [name for name in profiles if name in self.places]
        for name in used:
            where = f"profiles: {name}"
            advice = "give that account another name, or rename the profile"
            taken = ", ".join(self.places[name])
            self.add_unusable(
                f"profile {name}", where, [f"{where}: the name {name!r} is used already ({taken}); {advice}"]
            )
        return [name for name in profiles if name not in used]

    def refuse_unusable_names(self, files: Sequence[Path]) -> None:
        """Note which names are used twice, and which texts contain a token: in one of *files*, its account is unusable.

        This is known only now, when all tokens have been read.
        """
        numbers = {str(file): f"{file.parent.name} #{number}" for number, file in enumerate(files, 1)}
        for account in [*self.accounts]:
            texts = (account.name, account.division, account.endpoint)
            if all(without_secrets(text) == text for text in texts):
                continue
            problem = f"{account.where}: its name, division or api_endpoint contains a token; use another text"
            if account.where in numbers:
                self._remove(account)
                clean = without_secrets(account.name) == account.name
                self.add_unusable(account.name if clean else numbers[account.where], account.where, [problem])
            else:
                self.refuse(problem)
        for name, places in self.places.items():
            if len(places) > 1:
                self.refuse(
                    f"accounts: the name {name!r} is used {len(places)} times ({', '.join(places)});"
                    " give each account its own name"
                )

    def _remove(self, account: AccountConfig) -> None:
        self.accounts.remove(account)
        self.places[account.name].remove(account.where)
        self.setup_problems.pop(account.name, None)

    def _place(self, name: str, where: str) -> None:
        self.places.setdefault(name, []).append(where)

    def _note(self, name: str, problem: str) -> None:
        if problem:
            self.setup_problems[name] = problem
            self.lines.append(problem)


def unused_variables(environ: Mapping[str, str], *, configured: bool) -> str:
    """What to know about the official clients' variables that are set and not used, in a line; empty if none are.

    *configured*: accounts are configured, so none of the variables is used.
    """
    given = [name for name in CLIENT_VARIABLES if environ.get(name)]
    if configured and "SB_API_ENDPOINT" in given:
        return f"{', '.join(given)}: not used, because accounts are configured; unset them, or remove those accounts"
    if not configured and {"SB_AUTH_TOKEN_FILE", "SB_AUTH_TOKEN"} <= set(given):
        return "SB_AUTH_TOKEN: not used, because SB_AUTH_TOKEN_FILE is set, too; unset the one that you do not mean"
    return ""


def resolve_accounts(
    tables: Sequence[PlacedTable],
    wanted_profiles: tuple[str, ...],
    files: Sequence[AccountFile] = (),
    *,
    environ: Mapping[str, str],
    home: Path,
) -> ResolvedAccounts:
    """All accounts of *tables*, *files* and profiles; without any, the one of the official clients' conventions.

    A profile that a table names is polled as the table says, and a profile of an unusable file is not polled. What is
    wrong with a file stops only its own account.
    """
    found = ResolvedAccounts(environ=environ)
    inputs = _Inputs(environ, credentials_path(home))

    def fresh() -> _Profiles:
        return read_profiles(inputs.credentials)

    known = cache(fresh)  # read on demand: a service may have no access to a home directory

    def add(table: AccountTable, where: str, file: Path | None) -> None:
        remedy = f"add profile {table.profile!r} with api_endpoint and auth_token to ~/.sevenbridges/credentials"
        found.add(table, where, remedy, partial(_from_table, table, where, file, inputs), known, fresh)

    for placed in tables:
        add(*placed)
    checked = [each.and_problems(*_further_problems(each, inputs, known)) for each in files]
    for each in with_unique_names(checked, tables, wanted_profiles):
        if each.problems or each.table is None:
            found.add_unusable(each.name, str(each.file), each.problems)
        else:
            add(each.table, str(each.file), each.file)
    try:
        held = held_profiles(tables, checked)
        for name in _wanted_profiles(found, wanted_profiles, inputs.credentials, known, held):
            remedy = f"add profile {name!r} with api_endpoint and auth_token to ~/.sevenbridges/credentials"
            where = f"profiles: {name}"
            found.add(name, where, remedy, partial(_from_profile, name, where, inputs), known, fresh)
        if not tables and not files and not wanted_profiles:
            found.add("default", "", "", partial(_from_conventions, inputs), known, fresh)
    except ProfileError as error:  # which accounts are in the file cannot be known; the others are polled
        where = error.problems[0].partition(": ")[0]
        found.add_unusable("~/.sevenbridges/credentials", where, error.problems)
    except ConfigError as error:
        found.refuse(*error.problems)
    found.refuse_unusable_names([each.file for each in files])
    return found


_Profiles = Mapping[str, Profile]
_Known = Callable[[], _Profiles]
_Resolve = Callable[[_Known], AccountConfig]


class _Inputs(NamedTuple):
    """The environment, and the credentials file of the official clients."""

    environ: Mapping[str, str]
    credentials: Path


def _wanted_profiles(
    found: ResolvedAccounts, named: tuple[str, ...], credentials: Path, known: _Known, held: Collection[str]
) -> Iterable[str]:
    """The profiles to add to what was *found*, none of which is among *held*."""
    if ALL_PROFILES not in named:
        return [name for name in named if name not in held]
    if not known():
        raise ProfileError(f"profiles: none in {where_profiles_are(credentials)}; add [name] sections to it")
    return found.without_used_names([name for name in known() if name not in held])


def _raise(problems: Sequence[str]) -> NoReturn:
    raise ConfigError(*problems)


def _further_problems(file: AccountFile, inputs: _Inputs, known: _Known) -> tuple[str, ...]:
    """What is wrong with a file besides the problems that are known already."""
    if file.table is None:
        return ()
    try:
        _from_table(file.table, str(file.file), file.file, inputs, known)
    except ProfileError:
        return ()
    except ConfigError as error:
        return error.problems
    return ()


def _from_table(
    table: AccountTable,
    where: str,
    file: Path | None,
    inputs: _Inputs,
    known: _Known,
) -> AccountConfig:
    folder, problems = Path() if file is None else file.parent, Problems()
    token: Token
    with problems.collected():
        if table.api_endpoint or table.profile is None:
            parse_endpoint(_given(table.api_endpoint, where), where, allow_plain_http=table.allow_plain_http)
    with problems.collected():
        if table.proxy is not None:
            parse_proxy(table.proxy, f"{where}: proxy")
    with problems.collected():
        token = _token_of(table, where, file, inputs)
    if problems:
        raise ConfigError(*problems)
    endpoint = table.api_endpoint
    if table.profile is not None and not endpoint:
        endpoint = _of_profile(table.profile, where, inputs, known, allow_plain_http=table.allow_plain_http)
    account = _account_config(
        where,
        table.name,
        endpoint,
        token,
        inputs.environ,
        division=table.division,
        ca_file=None if table.ca_file is None else beside(folder, table.ca_file),
        proxy=table.proxy,
        allow_plain_http=table.allow_plain_http,
    )
    is_secret = table.proxy is not None and has_password(table.proxy)
    return replace(account, proxy_file=file) if is_secret else account


def _token_of(table: AccountTable, where: str, file: Path | None, inputs: _Inputs) -> Token:
    match table.auth_token_file, table.auth_token, table.profile:
        case Path() as path, None, None:
            return TokenFile(token_path(path, Path() if file is None else file.parent, inputs.environ))
        case None, Secret() as given, None:
            return FixedToken(parse_token(given, f"{where}: auth_token"), file)
        case None, None, str() as name:
            return ProfileToken(inputs.credentials, name, f"profile {name}")
        case _:
            raise ConfigError(f"{where}: {ONE_TOKEN}")


def _from_profile(name: str, where: str, inputs: _Inputs, known: _Known) -> AccountConfig:
    token = ProfileToken(inputs.credentials, name, "auth_token")
    return _account_config(where, name, _of_profile(name, where, inputs, known), token, inputs.environ)


def _from_conventions(inputs: _Inputs, known: _Known) -> AccountConfig:
    """The one account that the official clients would use: their variables, else their default profile."""
    endpoint, path = (inputs.environ.get(f"SB_{name}") for name in ("API_ENDPOINT", "AUTH_TOKEN_FILE"))
    text = Secret(inputs.environ["SB_AUTH_TOKEN"], masked=False) if inputs.environ.get("SB_AUTH_TOKEN") else None
    if endpoint and (path or text):
        token: Token
        if path:
            token = TokenFile(token_path(Path(path), Path(), inputs.environ))
        else:
            token = FixedToken(parse_token(text or Secret(""), "SB_AUTH_TOKEN"))
        return _account_config("SB_API_ENDPOINT", None, endpoint, token, inputs.environ)
    if endpoint:  # the default profile may be for another platform
        raise ConfigError("SB_API_ENDPOINT: no token; set SB_AUTH_TOKEN_FILE or SB_AUTH_TOKEN")
    if path or text:
        raise ConfigError(
            f"SB_AUTH_TOKEN{'_FILE' if path else ''}: no platform; set SB_API_ENDPOINT,"
            " for example to https://cavatica-api.sbgenomics.com/v2"
        )
    if "default" in known():
        return _from_profile("default", "profile default", inputs, known)
    raise ConfigError(
        "accounts: none configured; run `sbg-exporter init`, write an [[accounts]] table to a file and pass it with"
        " --config, or set SB_API_ENDPOINT and SB_AUTH_TOKEN_FILE"
    )


def _of_profile(name: str, where: str, inputs: _Inputs, known: _Known, *, allow_plain_http: bool | None = None) -> str:
    """The endpoint of a profile.

    Raises:
        ProfileError: the profile is missing, or has no usable endpoint.
    """
    try:
        profile = find_profile(name, inputs.credentials, known())
    except ProfileError as error:
        raise type(error)(f"{where}: {error}") from None
    try:
        endpoint = _given(profile.api_endpoint, where)
        return parse_endpoint(endpoint, where, allow_plain_http=allow_plain_http)[0]
    except ConfigError as error:
        raise ProfileError(*error.problems) from None


def _given(endpoint: str | None, where: str) -> str:
    if not endpoint:
        raise ConfigError(
            f"{where}: api_endpoint is missing; set it, for example to https://cavatica-api.sbgenomics.com/v2"
        )
    return endpoint


def _account_config(
    where: str,
    name: str | None,
    endpoint: str | None,
    token: Token,
    environ: Mapping[str, str],
    *,
    division: str = "",
    ca_file: Path | None = None,
    proxy: Secret | None = None,
    allow_plain_http: bool | None = None,
) -> AccountConfig:
    url, host = parse_endpoint(_given(endpoint, where), where, allow_plain_http=allow_plain_http)
    if proxy is not None:
        proxy = parse_proxy(proxy, f"{where}: proxy")
    elif not is_loopback(host):
        proxy = proxy_from_environment(environ, url)
    return AccountConfig(name or SHORT_NAMES.get(host, host), url, division, token, ca_file, proxy, where)
