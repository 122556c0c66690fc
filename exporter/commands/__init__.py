"""The command line: which command runs, and how errors become lines on standard error and an exit code.

Each command is a module of its own, with its options and its help. It is imported when it is used.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final, TextIO

import click

from exporter.commands._click import LazyGroup, usage_error
from exporter.commands._output import print_error, print_traceback
from exporter.errors import ConfigError, ExporterError, Stopping
from exporter.logs import NonBlockingStream

OK: Final = 0
FAILED: Final = 1
INVALID_CONFIGURATION: Final = 2

COMMANDS: Final = ("run", "check", "once", "jobs", "job", "init", "simulate", "demo", "state", "version")
"""The first one runs where no command is named. README.md's table of commands holds exactly these."""


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001  # click's signature
    if wanted:
        from exporter.commands.version import version_line  # noqa: PLC0415  # as late as all other commands

        click.echo(version_line())
        ctx.exit()


@click.group(
    cls=LazyGroup,
    package=__name__,
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="""\b
Examples:
  sbg-exporter init
  sbg-exporter check --config /etc/sbg-exporter/config.toml
  sbg-exporter --config /etc/sbg-exporter/config.toml
  sbg-exporter demo""",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="same as `version`"
)
def sbg_exporter() -> None:
    """Monitor bulk file jobs on the Seven Bridges platforms with Prometheus.

    Without a command, sbg-exporter does what `run` does and takes its options.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal's encoding lacks
    errors = NonBlockingStream(sys.stderr)
    last_error: OSError | None = None
    code = OK
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments), errors)
    except OSError as error:
        last_error = error
    except Exception:  # noqa: BLE001  # a bug; Python's own traceback would show the secrets in it
        print_traceback(errors, traceback.format_exc())
        code = FAILED
    last_error = _flush_error(sys.stdout) or last_error
    if isinstance(last_error, BrokenPipeError):  # the reader, such as `head`, has closed the pipe
        code = OK
    elif last_error is not None:
        print_error(errors, f"{last_error.filename or 'standard output'}: {last_error.strerror or last_error}")
        code = FAILED
    errors.close()
    _flush_error(sys.stderr)
    return code


def _dispatch(argv: list[str], errors: NonBlockingStream) -> int:
    # Not click's own main(): it quotes what was typed, and exits 1 when the reader closes the pipe.
    try:
        with sbg_exporter.make_context("sbg-exporter", argv, obj=errors) as context:
            return int(sbg_exporter.invoke(context))
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except click.UsageError as error:
        problems, code = [usage_error(error)], INVALID_CONFIGURATION
    except ConfigError as error:
        problems, code = list(error.problems), INVALID_CONFIGURATION
    except Stopping:
        problems, code = ["interrupted by a signal before it was done"], FAILED
    except ExporterError as error:
        problems, code = [str(error)], FAILED
    for problem in problems:
        print_error(errors, problem)
    return code


def _replace_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller closed: Python has None there."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w", closefd=False))


def _flush_error(stream: TextIO) -> OSError | None:
    """Flush *stream* and return the error, if any; Python does not try again at its end."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None
