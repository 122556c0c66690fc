"""``once``: one full listing of every account, then the exposition, with the state file and counters of ``run``."""

import errno
import os
import sys
import tempfile
import threading
from pathlib import Path

import click

from exporter.commands._click import Command
from exporter.commands._parallel import poll_each
from exporter.commands._settings import configured_logger, load_configuration, settings_options
from exporter.config.loading import Configuration
from exporter.daemon import assembly
from exporter.errors import OutputError
from exporter.logs import Log, NonBlockingStream
from exporter.metrics.exposition import Exposition, Format
from exporter.redaction import Redactor
from exporter.signals import stop_event
from exporter.storage.files import atomic_write


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter once --config /etc/sbg-exporter/config.toml
  sbg-exporter once --config /etc/sbg-exporter/config.toml --textfile /var/lib/node_exporter/sbg.prom""",
)
@click.option("--textfile", metavar="PATH", help="file to write for node_exporter's textfile collector")
@settings_options()
@click.pass_obj
def command(errors: NonBlockingStream, /, *, textfile: str | None, **flags: object) -> int:
    """List every account once and print its metrics.

    Takes the options, variables and file of `run`, and uses the same state file and counters.
    """
    configuration, redactor = load_configuration(flags), Redactor()
    path = None if textfile is None else Path(textfile)
    return once(configuration, path, stop_event(), configured_logger(configuration, errors, redactor), redactor)


def once(
    configuration: Configuration, textfile: Path | None, stop: threading.Event, log: Log, redactor: Redactor
) -> int:
    """List every account once and write the exposition, to standard output or to *textfile*.

    Returns:
        0 when every account was listed in full and all counts are on disk, else 1. The exposition is written in both
        cases.

    Raises:
        StateError: the state file cannot be used.
        OutputError: *textfile* cannot be written.
        Stopping: *stop* was set before every account was listed.
    """
    if textfile is not None:
        _check_writable(textfile)  # before any request is sent and counted
    with assembly.build(configuration, stop, log, redactor) as components:
        poll_each(components, lambda poller: poller.poll_until_listed(), stop)
        if textfile is None:
            sys.stdout.buffer.write(components.exposition.page(Format.TEXT, gzip=False))
            sys.stdout.buffer.flush()
        else:
            write_textfile(components.exposition, textfile)
        failed = (
            any(snapshot.status.last_error for snapshot in components.registry.snapshots)
            or components.store.write_failures > 0
        )
        return 1 if failed else 0


def write_textfile(exposition: Exposition, path: Path) -> None:
    """Write *path* for node_exporter's textfile collector: the text format without the process's own metrics.

    A temporary file in the same folder is renamed, so that the collector never reads half of it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with atomic_write(path, mode=0o644) as temporary:
            temporary.write_bytes(exposition.without_process_metrics(Format.TEXT))
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_writable(path: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"--textfile: {path} cannot be written: {error.strerror}")
