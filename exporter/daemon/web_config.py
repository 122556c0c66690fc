"""Keeps the web configuration current: a changed file applies to the next connection and request, without a restart."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from exporter.clock import Clock
from exporter.config.web_config import WebConfig, file_versions, load_web_config
from exporter.errors import ConfigError, Stopping
from exporter.logs import Log

_CHECK_SECONDS: Final = 5.0


class CurrentWebConfig:
    """The web configuration as it is now. Calling it returns it; safe to share between threads."""

    def __init__(self, file: Path | None, config: WebConfig, log: Log) -> None:
        """*config* is what *file* contained at the start; None: there is no file, and nothing will change."""
        self._file = file
        self._config = config
        self._log = log
        self._versions = config.versions
        self._check: Callable[[], None] = lambda: None
        """Begins to check the files."""

    def __call__(self) -> WebConfig:
        """Return the latest configuration that was valid."""
        return self._config

    def refresh(self) -> None:
        """Read the files again if one of them has changed. Invalid ones are logged once and change nothing."""
        versions = file_versions(self._config.files)
        if self._file is None or versions == self._versions:
            return
        self._versions = versions
        try:
            config = load_web_config(self._file)
            _refuse_to_weaken(self._config, config)
        except ConfigError as error:
            self._log.error("web_config.invalid", reason=str(error), consequence="the previous one stays in use")
            return
        self._config = config
        self._versions = config.versions
        self._log.info("web_config.reloaded", authentication=config.authentication)
        for warning in config.warnings:
            self._log.warning("web_config.warning", reason=warning)

    def use(self, file: Path | None, config: WebConfig) -> None:
        """Replace the file by another one, which contains *config*; the same one is refreshed by itself.

        Raises:
            ConfigError: that needs a restart.
        """
        _refuse_to_weaken(self._config, config)
        if file == self._file:
            return
        self._file, self._config, self._versions = file, config, config.versions
        for warning in config.warnings:
            self._log.warning("web_config.warning", reason=warning)
        self._check()

    @contextmanager
    def refreshed(self, clock: Clock) -> Iterator[None]:
        """Call :meth:`refresh` every few seconds while the context lasts and *clock* does not stop."""
        ended, begun = threading.Event(), threading.Event()

        def work() -> None:
            while not ended.is_set():
                try:
                    clock.pause(_CHECK_SECONDS)
                except Stopping:
                    return
                self.refresh()

        def check() -> None:
            if self._file is not None and not begun.is_set():
                begun.set()
                threading.Thread(target=work, name="web-config", daemon=True).start()

        self._check = check
        check()
        try:
            yield
        finally:
            ended.set()


def _refuse_to_weaken(old: WebConfig, new: WebConfig) -> None:
    """Refuse to turn protection off while running: a file that is half written must not open the port.

    Raises:
        ConfigError: a restart is needed.
    """
    parts = (
        ("TLS", old.tls is not None, new.tls is not None),
        ("required client certificates", old.certificate_required, new.certificate_required),
        ("client_allowed_sans", bool(old.allowed_sans), bool(new.allowed_sans)),
        ("basic authentication", bool(old.users), bool(new.users)),
    )
    if lost := [name for name, had, has in parts if had and not has]:
        raise ConfigError(f"turning off {' and '.join(lost)} needs a restart")
    if old.tls is None and new.tls is not None:
        raise ConfigError("turning on TLS needs a restart")
