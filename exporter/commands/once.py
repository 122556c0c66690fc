"""``once``: list every account in full once, then write the metrics. It uses the same state file and counters."""

import errno
import os
import sys
import tempfile
import threading
from pathlib import Path

from exporter.config.settings import Configuration
from exporter.daemon import assembly
from exporter.errors import OutputError
from exporter.logs import Log
from exporter.metrics.exposition import Exposition, Format
from exporter.polling.poller import Poller
from exporter.redaction import Redactor
from exporter.storage.files import atomic_write


def once(
    configuration: Configuration, textfile: Path | None, stop: threading.Event, log: Log, redactor: Redactor
) -> int:
    """List every account once and write the metrics to standard output or to *textfile*.

    Returns:
        0 if every account was listed completely and all counts are on disk, else 1. The metrics are written either way.

    Raises:
        StateError: the state file cannot be used.
        OutputError: *textfile* cannot be written.
        Stopping: *stop* was set before every account was listed.
    """
    if textfile is not None:
        _check_writable(textfile)  # before any request, so that a wrong path costs none
    with assembly.build(configuration, stop, log, redactor) as components:
        components.poll_each(Poller.poll_until_listed, stop)
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
    """Write the page for node_exporter's textfile collector: without the series that a collector of its own provides.

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
