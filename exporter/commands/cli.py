"""The command line: what was typed becomes a configuration and a call. Errors become one line each and an exit code."""

import argparse
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TextIO, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from exporter import __version__
from exporter.config.settings import PREFIX, Configuration, Settings, listen_address, load, seconds, suggestion
from exporter.errors import ConfigError, ExporterError, Problems, Stopping
from exporter.logs import Log, NonBlockingStream, logger
from exporter.redaction import Redactor

if TYPE_CHECKING:
    from exporter.simulator.settings import SimulatorSettings

ENDED_AS_ASKED: Final = 0
CANNOT_GO_ON: Final = 1
CONFIGURATION_WRONG: Final = 2

_RUN_HELP: Final = """\
Every flag is also a variable, --poll-interval SBG_EXPORTER_POLL_INTERVAL, and a key of the TOML file, poll_interval.
Flags go before variables, variables before the file. Durations are seconds, or such as 30s, 5m, 1h. Accounts are
[[accounts]] tables of the file, or the one in SB_API_ENDPOINT with SB_AUTH_TOKEN_FILE or SB_AUTH_TOKEN. The keys of
such a table: name, api_endpoint, auth_token_file (or auth_token, or profile), division, ca_file, proxy,
allow_plain_http.

examples:
  sbg-exporter run --config /etc/sbg-exporter/config.toml
  SB_API_ENDPOINT=https://cavatica-api.sbgenomics.com/v2 SB_AUTH_TOKEN_FILE=token sbg-exporter
"""
_CHECK_HELP: Final = """\
Takes the flags, variables and file of run. Each account is asked who it is and listed once; nothing is counted.

examples:
  sbg-exporter check --config /etc/sbg-exporter/config.toml
  sbg-exporter check --offline --config /etc/sbg-exporter/config.toml
"""
_ONCE_HELP: Final = """\
Takes the flags, variables and file of run, and the same state file: what it counts is counted for good.

examples:
  sbg-exporter once --config /etc/sbg-exporter/config.toml
  sbg-exporter once --config /etc/sbg-exporter/config.toml --textfile /var/lib/node_exporter/sbg.prom
"""
_SIMULATE_HELP: Final = """\
example, in two terminals:
  sbg-exporter simulate --listen 127.0.0.1:8089 --seed 7
  SB_API_ENDPOINT=http://127.0.0.1:8089/v2 SB_AUTH_TOKEN=0123456789abcdef0123456789abcdef sbg-exporter
"""
_DEMO_HELP: Final = """\
example:
  sbg-exporter demo --listen 127.0.0.1:10037 --seed 7
"""
_STATE_HELP: Final = """\
ACCOUNT is the name that the configuration gives it, or its endpoint, user name and division, as far as needed to tell
it from others. Exit codes: 0 done or sound, 1 it cannot be done or is not sound, 2 something is typed wrongly.

examples:
  sbg-exporter state show --config /etc/sbg-exporter/config.toml
  sbg-exporter state backup /var/backups/sbg-exporter.db --config /etc/sbg-exporter/config.toml
"""
_STATE_SHOW_HELP: Final = """\
Also while the daemon runs. Nobody is asked.

example:
  sbg-exporter state show --json --state-file /var/lib/sbg-exporter/state.db
"""
_STATE_CHECK_HELP: Final = """\
Also while the daemon runs: the database's own check, the values in it, and whether the counters are what the tracked
jobs make. A line for each problem.

example:
  sbg-exporter state check --state-file /var/lib/sbg-exporter/state.db
"""
_STATE_BACKUP_HELP: Final = """\
Also while the daemon runs. The copy is one file, checked, and a state file itself. To put it back: stop the daemon,
remove state.db-wal and state.db-shm where they are left, copy it to state.db, start the daemon.

example:
  sbg-exporter state backup /var/backups/sbg-exporter.db --config /etc/sbg-exporter/config.toml
"""
_STATE_EXPORT_HELP: Final = """\
To move an account from one daemon to another: stop both, export here, import there, start there; then forget it here,
take it out of the configuration, and start here. What is exported while the daemon runs lacks what is counted later.

examples:
  sbg-exporter state export cavatica --output cavatica.ledger --config /etc/sbg-exporter/config.toml
  sbg-exporter state export https://cgc-api.sbgenomics.com/v2 alice | ssh other sbg-exporter state import -
"""
_STATE_IMPORT_HELP: Final = """\
FILE is what sbg-exporter state export wrote, - standard input. The daemon must be stopped. Counters, creation times,
job records and the configured name come as they were; a file that is damaged changes nothing.

example:
  sbg-exporter state import cavatica.ledger --config /etc/sbg-exporter/config.toml
"""
_STATE_FORGET_HELP: Final = """\
The daemon must be stopped. A daemon that watches the account later begins anew: its counters at 0, unfinished jobs
count in full, finished ones are history.

example:
  sbg-exporter state forget cavatica --yes --config /etc/sbg-exporter/config.toml
"""


_SIMULATOR_VALUES: Final = {
    "listen": "ADDRESS",
    "order": "ORDER",
    "token": "TOKEN",
    "speed": "FACTOR",
    "chaos": "LEVEL",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    _fill_closed_streams()
    errors = NonBlockingStream(sys.stderr)
    last_error: OSError | None = None
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments), errors)
    except SystemExit as left:  # argparse's way to end
        code = int(left.code or 0)
    except OSError as error:
        last_error = error
    last_error = _flush_error(sys.stdout) or last_error
    if isinstance(last_error, BrokenPipeError):  # whoever read our output has had enough
        code = ENDED_AS_ASKED
    elif last_error is not None:
        _print_error(errors, f"{last_error.filename or 'standard output'}: {last_error.strerror or last_error}")
        code = CANNOT_GO_ON
    errors.close()
    _flush_error(sys.stderr)
    return code


def _fill_closed_streams() -> None:
    """Python has None for a standard stream that the caller closed; what is written to it then goes nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w", closefd=False))


def _flush_error(stream: TextIO) -> OSError | None:
    """Why the rest of what *stream* was given cannot be written; it is thrown away, or Python complained at its end."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _dispatch(argv: list[str], errors: NonBlockingStream) -> int:
    """Run the command that was *argv*; the exit code."""
    if argv[:1] == ["--version"]:
        argv[0] = "version"
    if not argv or (argv[0].startswith("-") and argv[0] not in {"-h", "--help"}):
        argv.insert(0, "run")
    if complaint := _wrong_command(argv):
        _print_error(errors, complaint)
        return CONFIGURATION_WRONG
    parsed, unknown = _parser().parse_known_args(argv)
    options = vars(parsed)
    del options["version"]  # read above
    if unknown:
        for line in _unknown(unknown, " ".join(argv[: 2 if parsed.command == "state" else 1]), options):
            _print_error(errors, line)
        return CONFIGURATION_WRONG
    command = COMMANDS[options.pop("command")]
    try:
        return command({name: value for name, value in options.items() if value is not None}, errors)
    except ConfigError as error:
        for problem in error.problems:
            _print_error(errors, problem)
        return CONFIGURATION_WRONG
    except Stopping as ending:
        _print_error(errors, str(ending))
        return ENDED_AS_ASKED
    except ExporterError as error:
        _print_error(errors, str(error))
        return CANNOT_GO_ON


def _wrong_command(argv: Sequence[str]) -> str:
    """A complaint when there is no such command. It is not repeated: somebody will try to give a token like this."""
    for position, known, command in ((0, COMMANDS, ""), (1, STATE_COMMANDS, "state")):
        if command not in {"", argv[0]}:
            continue
        word = argv[position] if len(argv) > position else ""
        if word not in {*known, "-h", "--help"}:
            otherwise = f"write one of {', '.join(known)}; see {' '.join(('sbg-exporter', *command.split()))} --help"
            return f"{f'{command}: ' if command else ''}no such command; {suggestion(word, known, otherwise)}"
    return ""


def _print_error(errors: NonBlockingStream, line: str) -> None:
    errors.write(f"sbg-exporter: {line}\n")


def _unknown(arguments: Sequence[str], command: str, options: Iterable[str]) -> Iterator[str]:
    """A complaint about each, without what may be a value: somebody will try to give a token like this."""
    otherwise = f"see sbg-exporter {command} --help"
    known = [f"--{name.replace('_', '-')}" for name in options if name not in _NO_FLAGS]
    flags = [each.partition("=")[0] for each in arguments if each.startswith("-")]
    for flag in flags:
        yield f"{flag}: no such flag; {suggestion(flag, known, otherwise)}"
    if not flags:
        yield f"an argument too many; {otherwise}"


_NO_FLAGS: Final = {"command", "state_command", "account", "path", "source"}


# ---- commands ----


def _run(options: Mapping[str, object], errors: NonBlockingStream) -> int:
    from exporter.daemon import run  # noqa: PLC0415  # loads the web server, which other commands need not wait for

    configuration = load(options, os.environ, _home())
    redactor = Redactor()
    return run.run(configuration, _stop_on_signals(), _logger(configuration, errors, redactor), redactor)


def _check(options: Mapping[str, object], errors: NonBlockingStream) -> int:
    from exporter.commands.check import check  # noqa: PLC0415  # likewise

    flags, redactor = dict(options), Redactor()
    offline = bool(flags.pop("offline", False))
    configuration = load(flags, os.environ, _home())
    return check(
        configuration, _stop_on_signals(), logger("auto", "error", errors, redactor), redactor, offline=offline
    )


def _once(options: Mapping[str, object], errors: NonBlockingStream) -> int:
    from exporter.commands.once import once  # noqa: PLC0415  # likewise

    flags = dict(options)
    textfile = flags.pop("textfile", None)
    configuration, redactor = load(flags, os.environ, _home()), Redactor()
    path = None if textfile is None else Path(str(textfile))
    return once(configuration, path, _stop_on_signals(), _logger(configuration, errors, redactor), redactor)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a container's user may have no entry and no HOME
        return Path("/")


def _simulate(options: Mapping[str, object], _errors: NonBlockingStream) -> int:
    from exporter.simulator.server import serve  # noqa: PLC0415  # likewise

    return serve(_simulator_settings(options))


def _demo(options: Mapping[str, object], errors: NonBlockingStream) -> int:
    from exporter.commands.demo import Demonstration, demonstrate  # noqa: PLC0415  # likewise

    chosen, problems = dict(options), Problems()
    listen, length = str(chosen.pop("listen", "127.0.0.1:10037")), chosen.pop("seconds", None)
    with problems.collected():
        listen_address(listen)
    demonstration = Demonstration(listen, math.inf)
    try:
        if length is not None:
            demonstration = Demonstration(listen, seconds(length))
    except ValueError as error:
        problems.append(f"--seconds: {error}")
    with problems.collected():
        settings = _simulator_settings({"rate": "20", "jobs": "40", "listen": "127.0.0.1:0", **chosen})
    if problems:
        raise ConfigError(*problems)
    redactor = Redactor()
    log = logger("console", "warning", errors, redactor)
    return demonstrate(demonstration, settings, _stop_on_signals(), log, redactor)


def _state(options: Mapping[str, object], errors: NonBlockingStream) -> int:
    from exporter.commands import state  # noqa: PLC0415  # likewise

    given: Mapping[str, Any] = options
    settings = {name: given[name] for name in ("config", *_STATE_SETTINGS) if name in given}
    configuration = load({**settings, **_NO_ACCOUNTS}, os.environ, _home())
    # Only these have something to tidy up. The others may die where they are: SQLite writes all or nothing.
    stop = _stop_on_signals() if {"path", "output"} & given.keys() else threading.Event()
    file_options = state.StateFileOptions(configuration.state_file, configuration.settings.show_username, stop)
    force = "force" in given

    def warn(line: str) -> None:
        _print_error(errors, f"warning: {line}")

    match given["state_command"]:
        case "show":
            return state.show(file_options, as_json="json" in given)
        case "check":
            return state.check(file_options)
        case "backup":
            return state.backup(file_options, Path(given["path"]), force=force)
        case "export":
            output = Path(given["output"]) if "output" in given else None
            return state.export_ledger(file_options, given["account"], output, force=force, warn=warn)
        case "import":
            return state.import_ledger(file_options, Path(given["source"]), replace="replace" in given, warn=warn)
        case _:
            return state.forget_ledger(file_options, given["account"], sure="yes" in given)


STATE_COMMANDS: Final = ("show", "check", "backup", "export", "import", "forget")
_STATE_SETTINGS: Final = ("state_file", "show_username")
_NO_ACCOUNTS: Final[Mapping[str, object]] = {
    "accounts": ({"name": "none", "api_endpoint": "http://localhost/v2", "auth_token": "none"},),
    "profiles": (),
}
"""In place of the configured accounts, where nobody is asked: whoever looks at the state need not read their tokens."""


def _version(_options: Mapping[str, object], _errors: NonBlockingStream) -> int:
    sys.stdout.write(f"{version_line()}\n")
    return ENDED_AS_ASKED


COMMANDS: Final = {
    "run": _run,
    "check": _check,
    "once": _once,
    "simulate": _simulate,
    "demo": _demo,
    "state": _state,
    "version": _version,
}
"""Command to what does it; the README's table holds exactly these."""


def version_line() -> str:
    """Version, Python and platform."""
    return f"sbg-exporter {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})"


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    return stop


def _logger(configuration: Configuration, errors: NonBlockingStream, redactor: Redactor) -> Log:
    settings = configuration.settings
    return logger(settings.log_format, settings.log_level, errors, redactor)


def _simulator_settings(options: Mapping[str, object]) -> "SimulatorSettings":
    from exporter.simulator.settings import SimulatorSettings  # noqa: PLC0415  # likewise

    kinds: dict[str, type] = {"seed": int, "jobs": int, "chaos": int, "speed": float, "rate": float}
    values: dict[str, Any] = {}
    problems = []
    for name, text in options.items():
        kind = kinds.get(name, str)
        try:
            values[name] = kind(str(text))
        except ValueError:
            problems.append(f"--{name}: not a {'whole ' if kind is int else ''}number; write one such as 2")
    try:
        settings = SimulatorSettings(**values)
    except ValueError as error:
        problems += [f"--{each}" for each in error.args]
    if problems:
        raise ConfigError(*problems)
    return settings


# ---- the parser ----


class _Parser(argparse.ArgumentParser):
    """Errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        one_line = " ".join(message.removeprefix("argument ").split())
        self.exit(CONFIGURATION_WRONG, f"sbg-exporter: {one_line}; see {self.prog} --help\n")

    def print_help(self, file: object = None) -> None:  # noqa: ARG002  # the parent's signature
        sys.stdout.write(self.format_help())  # the parent's own way says nothing when it cannot be written


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sbg-exporter",
        usage="sbg-exporter [command] [flags]",
        description="Tells Prometheus what became of the bulk file jobs on the Seven Bridges platforms.",
        epilog="Without a command it runs the daemon. sbg-exporter COMMAND --help tells of a command's flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="the same as the command version")
    commands = parser.add_subparsers(
        dest="command", title="commands", metavar="command", required=True, parser_class=_Parser
    )
    run = _command(commands, "run", "run the daemon: watch the accounts and serve /metrics", _RUN_HELP)
    _add_settings(run)
    check = _command(commands, "check", "validate the configuration and ask every account", _CHECK_HELP)
    check.add_argument("--offline", action="store_true", default=None, help="validate only, ask nobody")
    _add_settings(check)
    once = _command(commands, "once", "list every account once and print its metrics", _ONCE_HELP)
    once.add_argument("--textfile", metavar="PATH", help="write for node_exporter's textfile collector instead")
    _add_settings(once)
    simulate = _command(commands, "simulate", "serve a simulated platform over HTTP", _SIMULATE_HELP)
    _add_simulator(simulate, ("listen", "seed", "speed", "jobs", "rate", "order", "token", "chaos"))
    demo = _command(commands, "demo", "simulate and run together, no account needed", _DEMO_HELP)
    demo.add_argument("--listen", metavar="ADDRESS", help="address of the metrics server (default: 127.0.0.1:10037)")
    demo.add_argument("--seconds", metavar="N", help="end after so many seconds (default: on Ctrl-C)")
    _add_simulator(demo, ("seed", "speed", "jobs", "rate", "order", "chaos"), jobs="40", rate="20")
    _add_state(_command(commands, "state", "look at the state file, copy it, move a ledger", _STATE_HELP, "COMMAND"))
    _command(commands, "version", "print version, Python and platform", "")
    return parser


def _add_state(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(
        dest="state_command", title="commands", metavar="command", required=True, parser_class=_Parser
    )
    show = _command(commands, "show", "tell what the state file holds", _STATE_SHOW_HELP, of="state")
    show.add_argument("--json", action="store_true", default=None, help="for programs")
    check = _command(commands, "check", "find out whether the state file is sound", _STATE_CHECK_HELP, of="state")
    backup = _command(commands, "backup", "copy the state file", _STATE_BACKUP_HELP, "PATH", of="state")
    backup.add_argument("path", metavar="PATH", help="where to")
    export = _command(commands, "export", "write an account's whole ledger", _STATE_EXPORT_HELP, "ACCOUNT", of="state")
    export.add_argument("account", metavar="ACCOUNT", nargs="+", help="whose")
    export.add_argument("--output", metavar="PATH", help="where to, for its owner alone (default: standard output)")
    for each in (backup, export):
        each.add_argument("--force", action="store_true", default=None, help="overwrite what is there")
    bring = _command(commands, "import", "take in a ledger that was exported", _STATE_IMPORT_HELP, "FILE", of="state")
    bring.add_argument("source", metavar="FILE", help="what was exported; - is standard input")
    bring.add_argument("--replace", action="store_true", default=None, help="in place of one that has counted here")
    forget = _command(commands, "forget", "delete an account's ledger", _STATE_FORGET_HELP, "ACCOUNT", of="state")
    forget.add_argument("account", metavar="ACCOUNT", nargs="+", help="whose")
    forget.add_argument("--yes", action="store_true", default=None, help="without this it only says what would be lost")
    for each in (show, check, backup, export, bring, forget):
        _add_settings(each, only=_STATE_SETTINGS)


def _command(
    commands: Any,  # noqa: ANN401  # argparse's own type is private
    name: str,
    help_text: str,
    epilog: str,
    operand: str = "",
    *,
    of: str = "",
) -> argparse.ArgumentParser:
    full = f"{of} {name}".lstrip()
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        prog=f"sbg-exporter {full}",
        usage=" ".join(f"sbg-exporter {full} {operand} [flags]".split()),
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _add_settings(parser: argparse.ArgumentParser, only: Collection[str] = Settings.model_fields) -> None:
    """A flag for every setting, from the one declaration in settings; *only* for those that a command looks at."""
    parser.add_argument("--config", metavar="FILE", help=f"the TOML file (also {PREFIX}CONFIG)")
    for key, field in Settings.model_fields.items():
        if key == "accounts" or key not in only:
            continue
        flag = f"--{key.replace('_', '-')}"
        text = (field.description or "").replace("%", "%%")
        default = _shown(field)
        if default:
            text += f" (default: {default})"
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, metavar=_placeholder(key, field), help=text)


def _placeholder(key: str, field: FieldInfo) -> str:
    """What stands for a setting's value in help."""
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    if _is_duration(field):
        return "DURATION"
    return {
        "listen": "ADDRESS",
        "state_file": "FILE",
        "rate_share": "SHARE",
        "job_series": "N",
        "profiles": "NAMES",
    }.get(key, "SECONDS")


def _is_duration(field: FieldInfo) -> bool:
    return any(isinstance(each, BeforeValidator) and each.func is seconds for each in field.metadata)


def _shown(field: FieldInfo) -> str:
    """A default as a person would write it."""
    default = field.default
    if isinstance(default, tuple):
        return " ".join(f"{each:g}" for each in default)
    if isinstance(default, bool):
        return "yes" if default else "no"
    if _is_duration(field):
        unit, size = next(((u, n) for u, n in (("h", 3600), ("m", 60)) if default % n == 0 and default > n), ("s", 1))
        return f"{default / size:g}{unit}"
    return "" if default is None else str(default)


def _add_simulator(parser: argparse.ArgumentParser, names: Sequence[str], **defaults: str) -> None:
    from exporter.simulator.settings import SimulatorSettings  # noqa: PLC0415  # likewise

    known = {field.name: field for field in fields(SimulatorSettings)}
    for name in names:
        field = known[name]
        text = str(field.metadata["help"]).replace("%", "%%").rstrip(".")
        default = defaults.get(name, field.default)
        if field.repr:
            text += f" (default: {default})"
        parser.add_argument(f"--{name}", metavar=_SIMULATOR_VALUES.get(name, "N"), help=text[:1].lower() + text[1:])
