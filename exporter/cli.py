"""The command line: what was typed becomes a configuration and a call. Errors become one line each and an exit code."""

import argparse
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from exporter import __version__
from exporter.errors import ConfigError, ExporterError, Stopping
from exporter.settings import PREFIX, Configuration, Settings, load, seconds
from exporter.telemetry import Log, Secrets, default_stream, logger

if TYPE_CHECKING:
    from exporter.simulator.settings import SimulatorSettings

ENDED_AS_ASKED: Final = 0
CANNOT_GO_ON: Final = 1
CONFIGURATION_WRONG: Final = 2

_RUN_HELP: Final = """\
Every flag is also a variable, --poll-interval SBG_EXPORTER_POLL_INTERVAL, and a key of the TOML file, poll_interval.
Flags go before variables, variables before the file. Durations are seconds, or such as 30s, 5m, 1h. Accounts are
[[accounts]] tables of the file, or the one in SB_API_ENDPOINT with SB_AUTH_TOKEN_FILE or SB_AUTH_TOKEN.

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
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or (typed[0].startswith("-") and typed[0] not in {"-h", "--help", "--version"}):
        typed.insert(0, "run")
    parsed, unknown = _parser().parse_known_args(typed)
    options = vars(parsed)
    if unknown:
        return _unknown(unknown, parsed.command)
    command = COMMANDS[options.pop("command")]
    try:
        return command({name: value for name, value in options.items() if value is not None})
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return CONFIGURATION_WRONG
    except Stopping as ending:
        _complain(str(ending))
        return ENDED_AS_ASKED
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ENDED_AS_ASKED
    except ExporterError as error:
        _complain(str(error))
        return CANNOT_GO_ON


def _complain(line: str) -> None:
    sys.stderr.write(f"sbg-exporter: {line}\n")


def _unknown(arguments: Sequence[str], command: str) -> int:
    """Complain about each, without what may be a value: somebody will try to give a token like this."""
    flags = [each.partition("=")[0] for each in arguments if each.startswith("-")]
    for flag in flags or ["an argument too many"]:
        _complain(f"{flag if not flags else f'{flag}: no such flag'}; see sbg-exporter {command} --help")
    return CONFIGURATION_WRONG


# ---- commands ----


def _run(options: Mapping[str, object]) -> int:
    from exporter import daemon  # noqa: PLC0415  # loads the web server, which other commands need not wait for

    configuration = load(options, os.environ, _home())
    secrets = Secrets()
    return daemon.run(configuration, _stop_on_signals(), _logger(configuration, secrets), secrets)


def _check(options: Mapping[str, object]) -> int:
    from exporter.check import check  # noqa: PLC0415  # likewise

    flags = dict(options)
    offline = bool(flags.pop("offline", False))
    return check(load(flags, os.environ, _home()), _stop_on_signals(), offline=offline)


def _once(options: Mapping[str, object]) -> int:
    from exporter.once import once  # noqa: PLC0415  # likewise

    flags = dict(options)
    textfile = flags.pop("textfile", None)
    configuration, secrets = load(flags, os.environ, _home()), Secrets()
    path = None if textfile is None else Path(str(textfile))
    return once(configuration, path, _stop_on_signals(), _logger(configuration, secrets), secrets)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a container's user may have no entry and no HOME
        return Path("/")


def _simulate(options: Mapping[str, object]) -> int:
    from exporter.simulator.server import serve  # noqa: PLC0415  # likewise

    return serve(_simulator_settings(options))


def _demo(options: Mapping[str, object]) -> int:
    from exporter.demo import Demonstration, demonstrate  # noqa: PLC0415  # likewise

    chosen = dict(options)
    listen, length = str(chosen.pop("listen", "127.0.0.1:10037")), chosen.pop("seconds", None)
    try:
        demonstration = Demonstration(listen, math.inf if length is None else seconds(length))
    except ValueError as error:
        raise ConfigError(f"--seconds: {error}") from None
    settings = _simulator_settings({"rate": "20", "jobs": "40", "listen": "127.0.0.1:0", **chosen})
    return demonstrate(demonstration, settings, _stop_on_signals())


def _version(_options: Mapping[str, object]) -> int:
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


def _logger(configuration: Configuration, secrets: Secrets) -> Log:
    settings = configuration.settings
    return logger(settings.log_format, settings.log_level, default_stream(), secrets)


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
    if problems:
        raise ConfigError(*problems)
    try:
        return SimulatorSettings(**values)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error


# ---- the parser ----


class _Parser(argparse.ArgumentParser):
    """Errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        one_line = " ".join(message.removeprefix("argument ").split())
        self.exit(CONFIGURATION_WRONG, f"sbg-exporter: {one_line}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sbg-exporter",
        usage="sbg-exporter [command] [flags]",
        description="Tells Prometheus what became of the bulk file jobs on the Seven Bridges platforms.",
        epilog="Without a command it runs the daemon. sbg-exporter COMMAND --help tells of a command's flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version_line(), help="the same as the command version")
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
