"""``init``: the first configuration and token file, or those of a further account, then ``check``."""

import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import click

from exporter.api.platforms import PLATFORMS, Platform
from exporter.commands import check
from exporter.commands._account_source import account_source
from exporter.commands._click import Command
from exporter.commands._output import as_typed, say
from exporter.commands._prompt import Prompt
from exporter.commands._settings import home_folder, load_configuration
from exporter.config.accounts import CLIENT_VARIABLES, AccountConfig
from exporter.config.first_file import (
    LISTENS_HERE,
    account_file,
    check_account_name,
    default_config_file,
    file_name,
    find_platform,
    first_file,
)
from exporter.config.loading import ACCOUNTS_FOLDER, account_files, account_names, default_state_file, load
from exporter.config.settings import PREFIX
from exporter.config.tokens import parse_token, unlike_a_token
from exporter.errors import ConfigError, OutputError, Stopping, TokenError
from exporter.logs import NonBlockingStream, logger
from exporter.redaction import Secret
from exporter.signals import stop_event

_PRIVATE: Final = 0o600
_READABLE: Final = 0o644
"""The mode of root's configuration: the service that reads it may run as any user. The token is not in it."""
_PRIVATE_FOLDER: Final = 0o700
_READABLE_FOLDER: Final = 0o755
_ANOTHER: Final = "pass --config for another configuration"
_EDIT_IT: Final = "edit it, or choose another name with --account"


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter init
  sbg-exporter init --platform cavatica < token
  sbg-exporter init --platform https://cgc-api.sbgenomics.com/v2 --account imaging < token""",
)
@click.option("--platform", metavar="NAME", help=f"{', '.join(each.name for each in PLATFORMS)}, or an API's URL")
@click.option("--account", metavar="NAME", help="the account's name in metrics (default: the platform's)")
@click.option("--config", metavar="FILE", help="file to write, or to add to (default: where all commands look for it)")
@click.option("--offline", is_flag=True, help="do not contact the platform afterwards")
@click.pass_obj
def command(
    errors: NonBlockingStream, /, *, platform: str | None, account: str | None, config: str | None, offline: bool
) -> int:
    """Write a configuration and a token file, or add an account, then check all accounts.

    Asks for the platform and the token; the token is not shown, and is read from standard input if that is no terminal.
    The configuration is ~/.config/sbg-exporter/config.toml, for root /etc/sbg-exporter/config.toml; all commands find
    it there without --config. The token file next to it has mode 0600.

    If there is a configuration already, this adds an account to it, in files of its own in the folder accounts.d next
    to it. It asks for the account's name, too, which --account sets. Existing files are never changed: to correct an
    account, edit its file, or write another token to its token file.
    """
    stop = stop_event()
    given = config or os.environ.get(f"{PREFIX}CONFIG")
    usual = default_config_file(os.environ, home_folder())
    file = Path(given) if given else usual
    prompt = Prompt(errors.write, stop)
    if _is_there(file):
        there = _accounts(file)
        new = _further_account(file, platform, account, prompt, there)
    else:
        there, new = (), _first_account(file, platform, account, prompt)
    token = _token(new.platform, prompt)
    _refuse_token_in_use(token, new.platform, there)
    if stop.is_set():
        raise Stopping("interrupted before anything was written")
    _write(new.file, new.text, new.token_file, token)
    sys.stdout.write(f"wrote {new.file}\nwrote {new.token_file} (mode 0600)\n")
    if LISTENS_HERE in new.text:
        say('Only this machine can read the metrics; set listen = ":10037" for a Prometheus on another one.')
    sys.stdout.flush()
    failed = check.check(
        load_configuration({"config": str(file)}),
        stop,
        logger("auto", "error", errors),
        offline=offline,
        report=check.LINES,
        awaited=check.awaited_on(errors),
    )
    for line in _next_steps(new, file, failed, "" if file == usual and not given else f" --config {file}"):
        say(line)
    return 1 if failed else 0


def _next_steps(new: "_New", file: Path, failed: Collection[str], where: str) -> Iterator[str]:
    """What to do after a check in which the accounts *failed*; the options *where* lead to the configuration *file*."""
    again = f"`sbg-exporter check{where}` tests it again."
    if new.account in failed:
        yield (
            f"Next: correct what is wrong above: the platform in {new.file}, the token in {new.token_file}; if the"
            f" platform cannot be reached, check the network and whether it needs a proxy. Then {again}"
            " Another `sbg-exporter init` would add a further account."
        )
        return
    if failed:
        yield f"The new account can be polled. Correct what is wrong above with {', '.join(failed)}; {again}"
    if new.file == file:
        yield f"Next: `sbg-exporter{where}` starts the exporter, with a page at http://localhost:10037/."
    else:
        yield f"Next: a running exporter polls {new.account}, too, after a reload (SIGHUP).{_of_a_service(file)}"


def _of_a_service(file: Path) -> str:
    """What to know of the service that uses the configuration *file*: whose user it is decides what it can read."""
    if file.is_relative_to("/etc"):
        return (
            " Under systemd, it cannot read this token file: first add a LoadCredential= line for it and restart, or"
            " move it to a folder of tokens."
        )
    return " A unit of your own user: `systemctl --user reload sbg-exporter`."


class _New(NamedTuple):
    """An account, and the files to write for it."""

    account: str
    platform: Platform
    file: Path
    text: str
    token_file: Path


def _first_account(file: Path, platform: str | None, account: str | None, prompt: Prompt) -> _New:
    """The account of a new configuration *file*; what is not given is asked.

    Raises:
        ConfigError: what is given cannot be used, or standard input ended.
        OutputError: a file exists already.
        Stopping: the process is ending.
    """
    _refuse_existing(file, f"edit it, or {_ANOTHER}")
    chosen = _platform(platform, prompt)
    name = account if account is not None else chosen.name
    check_account_name(name)
    _refuse_name_in_folder(name, file)
    text = first_file(chosen, name, file, default_state_file(os.environ, home_folder()))
    return _New(name, chosen, file, text, _token_file_in(file.parent, name))


def _further_account(
    file: Path, platform: str | None, account: str | None, prompt: Prompt, there: Sequence[AccountConfig]
) -> _New:
    """An account to add to the configuration *file*; what is not given is asked.

    Raises:
        ConfigError: the configuration is invalid, what is given cannot be used, or standard input ended.
        OutputError: a file exists already, or the name is neither given nor can be asked.
        Stopping: the process is ending.
    """
    if account is None and not prompt.is_terminal:
        raise OutputError(f"{_exists(file)}; edit it, or pass --account NAME to add an account to it, or {_ANOTHER}")
    try:
        names = account_names(file, home_folder())
    except ConfigError as error:  # a file of another account may have the new one's name
        raise ConfigError(
            *(f"{problem}; correct this first; nothing was written" for problem in error.problems)
        ) from None
    if not names and any(os.environ.get(name) for name in CLIENT_VARIABLES):
        raise OutputError(
            f"{file} has no account, so that the exporter polls the one in the variables SB_*; write that one"
            " to the file first, in a table [[accounts]], because one that is added takes its place"
        )
    if account is not None:
        _check_new_name(account, names, there)
    prompt.say(f"{_exists(file)}; this adds an account to {', '.join(names) or 'it'}\n" if prompt.is_terminal else "")
    chosen = _platform(platform, prompt)
    same = [each for each in there if each.endpoint == chosen.endpoint]
    if same and prompt.is_terminal:
        prompt.say(f"{as_typed(_on_this_platform(same))}\n")
    name = account if account is not None else _name(chosen, names, there, prompt)
    folder = file.parent / ACCOUNTS_FOLDER
    own = folder / f"{file_name(name)}.toml"
    _refuse_existing(own, _EDIT_IT)
    return _New(name, chosen, own, account_file(chosen, name), _token_file_in(folder, name))


def _accounts(file: Path) -> tuple[AccountConfig, ...]:
    """The accounts in a configuration *file*, also if a variable is invalid; none if it is, which is reported later."""
    without_variables = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for environ in (os.environ, without_variables):
        with suppress(ConfigError):
            return load({"config": str(file)}, environ, home_folder()).accounts
    return ()


def _on_this_platform(accounts: Sequence[AccountConfig]) -> str:
    """What to do instead, if the new account is meant to correct one of *accounts*."""
    if len(accounts) == 1:
        [only] = accounts
        which, where = f"Account {only.name} is", f"its token ({account_source(only).token_from})"
    else:
        names = ", ".join(each.name for each in accounts)
        which, where = f"Accounts {names} are", "the token of one (`sbg-exporter check --verbose` shows where it is)"
    return f"{which} on this platform already. To replace {where}, end this with Ctrl-C and write the new one there."


def _refuse_name_in_folder(name: str, file: Path) -> None:
    """Do nothing unless the folder of accounts, which the new configuration *file* brings back, has this account.

    Raises:
        ConfigError: it has, or cannot be read.
    """
    folder = file.parent / ACCOUNTS_FOLDER
    there = account_files(folder) if os.path.isdir(folder) else []  # noqa: PTH112  # never raises
    for where in (each.file for each in there if name == (each.name or each.file.stem)):
        raise ConfigError(
            f"--account: {where} has an account {name} already; to use it, an empty {file} is enough (`touch"
            f" {shlex.quote(str(file))}`), or choose another name with --account"
        )


def _refuse_token_in_use(token: Secret, platform: Platform, there: Iterable[AccountConfig]) -> None:
    """Do nothing if no account of *there* has the *token*: a token is of one user on one platform.

    Raises:
        OutputError: one has it, so that it needs a correction, not another account.
    """
    for each in there:
        if not _has(each, token):
            continue
        wrong = "" if each.endpoint == platform.endpoint else f", for another platform ({each.endpoint})"
        raise OutputError(
            f"account {each.name} has this token already{wrong}; to correct that account, edit {each.where};"
            " nothing was written"
        )


def _has(account: AccountConfig, token: Secret) -> bool:
    try:
        return account.token.read() == token
    except ConfigError:  # the file is missing or unusable
        return False


def _token_file_in(folder: Path, account: str) -> Path:
    token_file = folder / f"{file_name(account)}.token"
    _refuse_existing(token_file, _EDIT_IT)
    return token_file


def _check_new_name(name: str, names: Collection[str], there: Iterable[AccountConfig]) -> None:
    """Do nothing if an account that is added may have this *name*, which is none of *names*, those of *there* included.

    Raises:
        ConfigError: it may not.
    """
    check_account_name(name)
    if name in names:
        tokens = [account_source(each).token_from for each in there if each.name == name]
        instead = "".join(f"; to replace its token, write the new one there: {each}" for each in tokens)
        raise ConfigError(f"--account: there is an account {name} already{instead}; else choose another name")


def _is_there(file: Path) -> bool:
    """Whether *file* is a configuration to add to, and not something else in its place.

    Raises:
        OutputError: that cannot be found out.
    """
    try:
        return file.is_file()
    except (OSError, ValueError) as error:
        raise OutputError(f"--config: unusable path: {error}") from None


def _exists(file: Path) -> str:
    return f"{file} exists already and is not changed"


def _refuse_existing(file: Path, instead: str) -> None:
    """Raise an error that ends with *instead* if *file* exists.

    Raises:
        OutputError: it does, or that cannot be found out.
    """
    try:
        exists = os.path.lexists(file)
    except (OSError, ValueError) as error:
        raise OutputError(f"--config: unusable path: {error}") from None
    if exists:
        raise OutputError(f"{_exists(file)}; {instead}")


# ---- asking ----


def _platform(given: str | None, prompt: Prompt) -> Platform:
    if given is not None:
        return find_platform(given.strip())
    if not prompt.is_terminal:
        names = ", ".join(each.name for each in PLATFORMS)
        raise ConfigError(
            f"--platform: missing; standard input is no terminal, so pass one of {names}, or an API's URL"
        )
    prompt.say("Which platform?\n")
    for number, each in enumerate(PLATFORMS, 1):
        prompt.say(f"  {number}  {each.name:<9} {each.title:<22} {each.web}\n")
    while True:
        answer = prompt.line(f"1 to {len(PLATFORMS)}, a name, or an API's URL: ")
        if answer.isdecimal() and answer.isascii():
            if 1 <= int(answer) <= len(PLATFORMS):
                return PLATFORMS[int(answer) - 1]
            prompt.say(f"expected a number from 1 to {len(PLATFORMS)}\n")
            continue
        try:
            return find_platform(answer)
        except ConfigError as error:
            prompt.say(f"{error.problems[0].removeprefix('--platform: ')}\n")


def _name(platform: Platform, names: Collection[str], there: Iterable[AccountConfig], prompt: Prompt) -> str:
    """The name of an account that is added: by default the platform's, unless an account has it."""
    default = "" if platform.name in names else platform.name
    while True:
        answer = prompt.line(f"The new account's name{f' (default: {default})' if default else ''}: ") or default
        try:
            _check_new_name(answer, names, there)
        except ConfigError as error:
            prompt.say(f"{error.problems[0].removeprefix('--account: ')}\n")
        else:
            return answer


def _token(platform: Platform, prompt: Prompt) -> Secret:
    """The token; a person is asked again until it can be one.

    Raises:
        TokenError: what was sent cannot be a token of the platform.
    """
    question = f"Token, from {platform.where_token_is} (not shown): "
    while True:
        try:
            return _possible(parse_token(prompt.secret(question), "the token"), platform)
        except TokenError as error:
            if not prompt.is_terminal:
                raise
            prompt.say(f"{error.problems[0]}\n")


def _possible(token: Secret, platform: Platform) -> Secret:
    """*token*, if it may be one of the platform: of other platforms than the known ones, the form is not documented.

    Raises:
        TokenError: it cannot be one.
    """
    problem = unlike_a_token(token) if platform in PLATFORMS else ""
    if problem:
        raise TokenError(f"the token: {problem}")
    return token


# ---- writing ----


def _write(file: Path, text: str, token_file: Path, token: Secret) -> None:
    """Write both files, or none.

    Raises:
        OutputError: a file cannot be written, or exists by now.
    """
    made = _missing_folders(file.parent)
    root = os.geteuid() == 0
    try:
        for folder in reversed(made):
            _make(folder, _READABLE_FOLDER if root else _PRIVATE_FOLDER)
        _create(token_file, f"{token.reveal()}\n", _PRIVATE)
        try:
            _create(file, text, _READABLE if root else _PRIVATE)
        except BaseException:
            token_file.unlink()
            raise
    except OSError as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        where = error.filename2 or error.filename or file
        raise OutputError(
            f"{where} cannot be written: {error.strerror}; choose another place with --config; nothing was written"
        ) from error


def _missing_folders(folder: Path) -> list[Path]:
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _make(folder: Path, mode: int) -> None:
    """Make *folder* with *mode* also under a stricter umask: a service that may not enter it has no account."""
    folder.mkdir(mode=mode, exist_ok=True)
    folder.chmod(mode | stat.S_IMODE(folder.stat().st_mode))  # it may have its parent's set-group-ID bit


def _create(path: Path, text: str, mode: int) -> None:
    """Create *path* with *mode*: whole or not at all, and never over an existing file."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        _link(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        path.touch(mode=0o600, exist_ok=False)
        temporary.replace(path)
