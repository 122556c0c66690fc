"""The command line: what was typed becomes a configuration and a call. Errors become one line each and an exit code."""

import argparse
import os
import platform
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from exporter import __version__
from exporter.errors import ConfigError, ExporterError
from exporter.settings import PREFIX, Configuration, Settings, load
from exporter.telemetry import Log, Secrets, default_stream, logger

if TYPE_CHECKING:
    from exporter.simulator.settings import SimulatorSettings

ENDED_AS_ASKED: Final = 0
CANNOT_GO_ON: Final = 1
CONFIGURATION_WRONG: Final = 2

_RUN_HELP: Final = """\
examples:
  sbg-exporter run --config /etc/sbg-exporter/config.toml
  SB_API_ENDPOINT=https://cavatica-api.sbgenomics.com/v2 SB_AUTH_TOKEN_FILE=token sbg-exporter
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or (typed[0].startswith("-") and typed[0] not in {"-h", "--help", "--version"}):
        typed.insert(0, "run")
    options = vars(_parser().parse_args(typed))
    command = _COMMANDS[options.pop("command")]
    try:
        return command({name: value for name, value in options.items() if value is not None})
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return CONFIGURATION_WRONG
    except ExporterError as error:
        _complain(str(error))
        return CANNOT_GO_ON


def _complain(line: str) -> None:
    sys.stderr.write(f"sbg-exporter: {line}\n")


# ---- commands ----


def _run(options: Mapping[str, object]) -> int:
    from exporter import daemon  # noqa: PLC0415  # loads the web server, which other commands need not wait for

    configuration = load(options, os.environ, Path.home())
    secrets = Secrets()
    return daemon.run(configuration, _stop_on_signals(), _logger(configuration, secrets), secrets)


def _simulate(options: Mapping[str, object]) -> int:
    from exporter.simulator.server import serve  # noqa: PLC0415  # likewise

    return serve(_simulator_settings(options))


def _demo(options: Mapping[str, object]) -> int:
    from exporter.demo import Demonstration, demonstrate  # noqa: PLC0415  # likewise

    chosen = dict(options)
    demonstration = Demonstration(
        listen=str(chosen.pop("listen", "127.0.0.1:10037")), seconds=float(str(chosen.pop("seconds", "inf")))
    )
    settings = _simulator_settings({"rate": "20", "jobs": "40", "listen": "127.0.0.1:0", **chosen})
    return demonstrate(demonstration, settings, _stop_on_signals())


def _version(_options: Mapping[str, object]) -> int:
    sys.stdout.write(f"{version_line()}\n")
    return ENDED_AS_ASKED


_COMMANDS: Final = {"run": _run, "simulate": _simulate, "demo": _demo, "version": _version}


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
        try:
            values[name] = kinds.get(name, str)(str(text))
        except ValueError:
            problems.append(f"--{name}: {text!r} is not a number")
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
        self.exit(CONFIGURATION_WRONG, f"sbg-exporter: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sbg-exporter",
        description="Tells Prometheus what became of the bulk file jobs on the Seven Bridges platforms.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version_line())
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=_Parser)
    run = _command(commands, "run", "the daemon (also without a command)", _RUN_HELP)
    _add_settings(run)
    simulate = _command(commands, "simulate", "serve a simulated platform over HTTP", _SIMULATE_HELP)
    _add_simulator(simulate, ("listen", "seed", "speed", "jobs", "rate", "order", "token", "chaos"))
    demo = _command(commands, "demo", "simulate and run together, no account needed", _DEMO_HELP)
    demo.add_argument("--listen", metavar="ADDRESS", help="address of the metrics server (default: 127.0.0.1:10037)")
    demo.add_argument("--seconds", metavar="N", help="end after so many seconds (default: on Ctrl-C)", type=_positive)
    _add_simulator(demo, ("seed", "speed", "jobs", "rate", "order", "chaos"), jobs="40", rate="20")
    _command(commands, "version", "print version, Python and platform", "")
    return parser


def _command(commands: Any, name: str, help_text: str, epilog: str) -> argparse.ArgumentParser:  # noqa: ANN401  # argparse's own type is private
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting, from the one declaration in settings."""
    parser.add_argument("--config", metavar="FILE", help=f"the TOML file (also {PREFIX}CONFIG)")
    for key, field in Settings.model_fields.items():
        if key == "accounts":
            continue
        flag = f"--{key.replace('_', '-')}"
        text = (field.description or "").replace("%", "%%")
        default = _shown(field.default)
        if default:
            text += f" (default: {default})"
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=text)


def _add_simulator(parser: argparse.ArgumentParser, names: Sequence[str], **defaults: str) -> None:
    from exporter.simulator.settings import SimulatorSettings  # noqa: PLC0415  # likewise

    known = {field.name: field for field in fields(SimulatorSettings)}
    for name in names:
        field = known[name]
        text = str(field.metadata["help"]).replace("%", "%%").rstrip(".")
        default = defaults.get(name, field.default if field.default is not MISSING else None)
        if field.repr:
            text += f" (default: {default})"
        parser.add_argument(f"--{name}", metavar=name.upper(), help=text)


def _shown(default: object) -> str:
    """A default as a person would write it."""
    if isinstance(default, tuple):
        return ", ".join(f"{each:g}" for each in default)
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default is None else str(default)
