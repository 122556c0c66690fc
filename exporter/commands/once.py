"""``once``: one full listing of every account, then the exposition, with the state file and counters of ``run``."""

import sys
import threading
from pathlib import Path

import click

from exporter.commands._click import Command
from exporter.commands._parallel import poll_each
from exporter.commands._settings import configured_logger, load_configuration, settings_options
from exporter.commands._textfile import check_writable, write
from exporter.config.loading import Configuration
from exporter.daemon import assembly
from exporter.logs import Log, NonBlockingStream
from exporter.metrics.exposition import Exposition, Format
from exporter.signals import stop_event


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  sbg-exporter once --config /etc/sbg-exporter/config.toml
  sbg-exporter once --config /etc/sbg-exporter/config.toml --textfile /var/lib/node_exporter/sbg.prom""",
)
@click.option(
    "--textfile",
    metavar="PATH",
    help="file to write for node_exporter's textfile collector, named *.prom; or a FIFO or device of any name",
)
@settings_options()
@click.pass_obj
def command(errors: NonBlockingStream, /, *, textfile: str | None, **flags: object) -> int:
    """List every account once and print its metrics.

    Takes the options, variables and file of `run`, and uses the same state file and counters.
    """
    configuration = load_configuration(flags)
    path = None if textfile is None else Path(textfile)
    return once(configuration, path, stop_event(), configured_logger(configuration, errors))


def once(configuration: Configuration, textfile: Path | None, stop: threading.Event, log: Log) -> int:
    """List every account once and write the exposition, to standard output or to *textfile*.

    Returns:
        0 when every account was listed in full and all counts are on disk, else 1. The exposition is written in both
        cases.

    Raises:
        StateError: the state file cannot be used.
        ConfigError: the name of *textfile* is unsuitable.
        OutputError: *textfile* cannot be written.
        Stopping: *stop* was set before every account was listed.
    """
    if textfile is not None:
        check_writable(textfile)  # before any request is sent and counted
    with assembly.build(configuration, stop, log) as components:
        poll_each(components, lambda poller: poller.poll_until_listed(), stop)
        if textfile is None:
            sys.stdout.buffer.write(components.exposition.page(Format.TEXT, gzip=False))
            sys.stdout.buffer.flush()
        else:
            write_textfile(components.exposition, textfile, stop)
        failed = (
            any(snapshot.status.last_error for snapshot in components.registry.snapshots)
            or components.store.write_failures > 0
        )
        return 1 if failed else 0


def write_textfile(exposition: Exposition, path: Path, stop: threading.Event) -> None:
    """Write *path* for node_exporter's textfile collector: the text format without the process's own metrics.

    A temporary file in the same folder is renamed, so that the collector never reads half of it.

    Raises:
        OutputError: it cannot be written.
        Stopping: *stop* was set while the reader of a FIFO was waited for.
    """
    write(path, exposition.without_process_metrics(Format.TEXT), stop)
