"""``state``: its commands with their options and help; ``_state`` does the work."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from exporter.commands._click import Command, Group
from exporter.commands._output import print_error
from exporter.commands._settings import settings_options
from exporter.commands._state import (
    StateFileOptions,
    backup,
    check,
    export_ledger,
    forget_ledger,
    import_ledger,
    show,
    state_file_options,
)
from exporter.logs import NonBlockingStream
from exporter.signals import stop_event

_SETTINGS: Final = ("state_file", "show_username")


@click.group(
    cls=Group,
    no_args_is_help=False,
    epilog="""\b
Examples:
  sbg-exporter state show --config /etc/sbg-exporter/config.toml
  sbg-exporter state backup /var/backups/sbg-exporter.db --config /etc/sbg-exporter/config.toml""",
)
def command() -> None:
    """Inspect, back up or migrate the state file.

    Exit codes: 0 done or valid, 1 failed or invalid, 2 wrong usage.
    """


@command.command(
    "show",
    cls=Command,
    epilog="""\b
Example:
  sbg-exporter state show --json --state-file /var/lib/sbg-exporter/state.db""",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options(only=_SETTINGS)
def _show(*, as_json: bool, **flags: object) -> int:
    """Show the accounts in the state file.

    Safe while the exporter runs. No request is sent. A renamed account has its old name here until the exporter has
    polled it under the new one.
    """
    return show(_options(flags), as_json=as_json)


@command.command(
    "check",
    cls=Command,
    epilog="""\b
Example:
  sbg-exporter state check --state-file /var/lib/sbg-exporter/state.db""",
)
@settings_options(only=_SETTINGS)
def _check(**flags: object) -> int:
    """Verify the integrity of the state file.

    Safe while the exporter runs. Runs SQLite's own check, and verifies that values are valid and that counters agree
    with the tracked jobs. Prints a line for each problem, and what to do about a damaged file.
    """
    return check(_options(flags))


@command.command(
    "backup",
    cls=Command,
    epilog="""\b
Example:
  sbg-exporter state backup /var/backups/sbg-exporter.db --config /etc/sbg-exporter/config.toml""",
)
@click.argument("path", metavar="PATH")
@click.option("--force", is_flag=True, help="overwrite an existing file")
@settings_options(only=_SETTINGS)
def _backup(*, path: str, force: bool, **flags: object) -> int:
    """Copy the state file to PATH.

    Safe while the exporter runs. The copy is a single file that has been verified. To restore it: stop the exporter,
    remove state.db-wal and state.db-shm if they exist, copy the backup to state.db, and start the exporter.
    """
    return backup(_options(flags, stop_event()), Path(path), force=force)


@command.command(
    "export",
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter state export cavatica --output cavatica.ledger --config /etc/sbg-exporter/config.toml
  sbg-exporter state export https://cgc-api.sbgenomics.com/v2 alice | ssh other sbg-exporter state import -""",
)
@click.argument("account", metavar="ACCOUNT", nargs=-1, required=True)
@click.option("--output", metavar="PATH", help="file to write, with mode 0600 (default: standard output)")
@click.option("--force", is_flag=True, help="overwrite an existing file")
@settings_options(only=_SETTINGS)
@click.pass_obj
def _export(
    errors: NonBlockingStream, /, *, account: tuple[str, ...], output: str | None, force: bool, **flags: object
) -> int:
    """Write an account's whole ledger.

    ACCOUNT is the configured name, or the endpoint, user name and division as far as needed to be unique.

    To move an account to another exporter: stop both, export here, import there, and start the other one. Then forget
    the account here, remove it from the configuration, and start this one. An export while the exporter runs lacks what
    is counted afterwards.
    """
    # Without an output file there is nothing to clean up, so that a signal may end the process at once.
    options = _options(flags, threading.Event() if output is None else stop_event())
    path = None if output is None else Path(output)
    return export_ledger(options, account, path, force=force, warn=_warn_on(errors))


@command.command(
    "import",
    cls=Command,
    epilog="""\b
Example:
  sbg-exporter state import cavatica.ledger --config /etc/sbg-exporter/config.toml""",
)
@click.argument("source", metavar="FILE")
@click.option("--replace", is_flag=True, help="replace a ledger of the same account in this state file")
@settings_options(only=_SETTINGS)
@click.pass_obj
def _import(errors: NonBlockingStream, /, *, source: str, replace: bool, **flags: object) -> int:
    """Import a ledger that `state export` wrote to FILE.

    FILE may be - for standard input. Stop the exporter first. Counters, creation times, job records and the
    configured name are restored as exported. A damaged file changes nothing.
    """
    return import_ledger(_options(flags), Path(source), replace=replace, warn=_warn_on(errors))


@command.command(
    "forget",
    cls=Command,
    epilog="""\b
Example:
  sbg-exporter state forget cavatica --yes --config /etc/sbg-exporter/config.toml""",
)
@click.argument("account", metavar="ACCOUNT", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="confirm; without it the command only prints what would be deleted")
@settings_options(only=_SETTINGS)
def _forget(*, account: tuple[str, ...], yes: bool, **flags: object) -> int:
    """Delete an account's ledger.

    ACCOUNT is the configured name, or the endpoint, user name and division as far as needed to be unique.

    Stop the exporter first. If it polls the account again, counters start at 0: unfinished jobs are counted in full,
    and finished ones are existing jobs, which count only with `history = "count"`.
    """
    return forget_ledger(_options(flags), account, sure=yes)


def _warn_on(errors: NonBlockingStream) -> Callable[[str], None]:
    return lambda line: print_error(errors, f"warning: {line}")


def _options(flags: Mapping[str, object], stop: threading.Event | None = None) -> StateFileOptions:
    """The state file, and on standard error what to know about the configuration.

    Raises:
        ConfigError: it is invalid.
    """
    options = state_file_options(flags, stop)
    for warning in options.warnings:
        print_error(click.get_current_context().obj, warning)
    return options
