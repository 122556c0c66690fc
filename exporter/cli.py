"""The command line: what was typed becomes a configuration and a call. Errors become one line each and an exit code."""

import argparse
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TextIO, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from exporter import __version__
from exporter.errors import ConfigError, ExporterError, Problems, Stopping
from exporter.settings import PREFIX, Configuration, Settings, advice, listen_address, load, seconds
from exporter.telemetry import Log, PatientStream, Secrets, logger

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
    errors = PatientStream(sys.stderr)
    fault: OSError | None = None
    try:
        code = _ended(list(sys.argv[1:] if arguments is None else arguments), errors)
    except SystemExit as left:  # argparse's way to end
        code = int(left.code or 0)
    except OSError as error:
        fault = error
    fault = _unwritten(sys.stdout) or fault
    if isinstance(fault, BrokenPipeError):  # whoever read our output has had enough
        code = ENDED_AS_ASKED
    elif fault is not None:
        _complain(errors, f"{fault.filename or 'standard output'}: {fault.strerror or fault}")
        code = CANNOT_GO_ON
    errors.close()
    _unwritten(sys.stderr)
    return code


def _fill_closed_streams() -> None:
    """Python has None for a standard stream that the caller closed; what is written to it then goes nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w", closefd=False))


def _unwritten(stream: TextIO) -> OSError | None:
    """Why the rest of what *stream* was given cannot be written; it is thrown away, or Python complained at its end."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _ended(typed: list[str], errors: PatientStream) -> int:
    """Run the command that was *typed*; the exit code."""
    if typed[:1] == ["--version"]:
        typed[0] = "version"
    if not typed or (typed[0].startswith("-") and typed[0] not in {"-h", "--help"}):
        typed.insert(0, "run")
    if typed[0] not in {*COMMANDS, "-h", "--help"}:
        # It is not repeated: somebody will try to give a token like this.
        otherwise = f"write one of {', '.join(COMMANDS)}; see sbg-exporter --help"
        _complain(errors, f"no such command; {advice(typed[0], COMMANDS, otherwise)}")
        return CONFIGURATION_WRONG
    parsed, unknown = _parser().parse_known_args(typed)
    options = vars(parsed)
    del options["version"]  # read above
    if unknown:
        for line in _unknown(unknown, parsed.command, options):
            _complain(errors, line)
        return CONFIGURATION_WRONG
    command = COMMANDS[options.pop("command")]
    try:
        return command({name: value for name, value in options.items() if value is not None}, errors)
    except ConfigError as error:
        for problem in error.problems:
            _complain(errors, problem)
        return CONFIGURATION_WRONG
    except Stopping as ending:
        _complain(errors, str(ending))
        return ENDED_AS_ASKED
    except ExporterError as error:
        _complain(errors, str(error))
        return CANNOT_GO_ON


def _complain(errors: PatientStream, line: str) -> None:
    errors.write(f"sbg-exporter: {line}\n")


def _unknown(arguments: Sequence[str], command: str, options: Iterable[str]) -> Iterator[str]:
    """A complaint about each, without what may be a value: somebody will try to give a token like this."""
    otherwise = f"see sbg-exporter {command} --help"
    known = [f"--{name.replace('_', '-')}" for name in options if name != "command"]
    flags = [each.partition("=")[0] for each in arguments if each.startswith("-")]
    for flag in flags:
        yield f"{flag}: no such flag; {advice(flag, known, otherwise)}"
    if not flags:
        yield f"an argument too many; {otherwise}"


# ---- commands ----


def _run(options: Mapping[str, object], errors: PatientStream) -> int:
    from exporter import daemon  # noqa: PLC0415  # loads the web server, which other commands need not wait for

    configuration = load(options, os.environ, _home())
    secrets = Secrets()
    return daemon.run(configuration, _stop_on_signals(), _logger(configuration, errors, secrets), secrets)


def _check(options: Mapping[str, object], errors: PatientStream) -> int:
    from exporter.check import check  # noqa: PLC0415  # likewise

    flags, secrets = dict(options), Secrets()
    offline = bool(flags.pop("offline", False))
    configuration = load(flags, os.environ, _home())
    return check(configuration, _stop_on_signals(), logger("auto", "error", errors, secrets), secrets, offline=offline)


def _once(options: Mapping[str, object], errors: PatientStream) -> int:
    from exporter.once import once  # noqa: PLC0415  # likewise

    flags = dict(options)
    textfile = flags.pop("textfile", None)
    configuration, secrets = load(flags, os.environ, _home()), Secrets()
    path = None if textfile is None else Path(str(textfile))
    return once(configuration, path, _stop_on_signals(), _logger(configuration, errors, secrets), secrets)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a container's user may have no entry and no HOME
        return Path("/")


def _simulate(options: Mapping[str, object], _errors: PatientStream) -> int:
    from exporter.simulator.server import serve  # noqa: PLC0415  # likewise

    return serve(_simulator_settings(options))


def _demo(options: Mapping[str, object], errors: PatientStream) -> int:
    from exporter.demo import Demonstration, demonstrate  # noqa: PLC0415  # likewise

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
    secrets = Secrets()
    log = logger("console", "warning", errors, secrets)
    return demonstrate(demonstration, settings, _stop_on_signals(), log, secrets)


def _version(_options: Mapping[str, object], _errors: PatientStream) -> int:
    sys.stdout.write(f"{version_line()}\n")
    return ENDED_AS_ASKED


COMMANDS: Final = {
    "run": _run,
    "check": _check,
    "once": _once,
    "simulate": _simulate,
    "demo": _demo,
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


def _logger(configuration: Configuration, errors: PatientStream, secrets: Secrets) -> Log:
    settings = configuration.settings
    return logger(settings.log_format, settings.log_level, errors, secrets)


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
    _command(commands, "version", "print version, Python and platform", "")
    return parser


def _command(commands: Any, name: str, help_text: str, epilog: str) -> argparse.ArgumentParser:  # noqa: ANN401  # argparse's own type is private
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        prog=f"sbg-exporter {name}",
        usage=f"sbg-exporter {name} [flags]",
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting, from the one declaration in settings."""
    parser.add_argument("--config", metavar="FILE", help=f"the TOML file (also {PREFIX}CONFIG)")
    for key, field in Settings.model_fields.items():
        if key == "accounts":
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
        unit, size = next((u, n) for u, n in (("h", 3600), ("m", 60), ("s", 1)) if default % n == 0 and default > n)
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
