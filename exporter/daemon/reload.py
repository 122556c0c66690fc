"""Reads the configuration again, on SIGHUP and ``POST /-/reload``, and changes what differs from the one in use."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from exporter.clock import Clock
from exporter.config.changes import (
    AccountChanges,
    changed_own_settings,
    changed_settings,
    put_back,
    settings_for_restart,
)
from exporter.config.loading import Configuration
from exporter.daemon.systemd import Reloading
from exporter.errors import ConfigError, same_user_as
from exporter.logs import Log
from exporter.metrics.snapshot import ReloadStatus
from exporter.redaction import shown

_HOW_A_RENAME_COUNTS: Final = "; counters go on under a new name if an added account is the same user"

_OK: Final = 200
_INVALID: Final = 400
_CRASHED: Final = 500
_STOPPING: Final = 503


class Applied(NamedTuple):
    """What came of a valid configuration.

    Attributes:
        accounts: which accounts were added, changed and removed.
        refused: why something needs a restart, for which its key alone is no reason; one line each.
    """

    accounts: AccountChanges
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """How a reload ended.

    Attributes:
        status: the HTTP status that says the same.
        lines: what has changed, or what is wrong.
    """

    status: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The response to ``POST /-/reload``."""
        return "".join(f"{line}\n" for line in self.lines)


class Reloader:
    """Reloads, one at a time. Safe to share between threads."""

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[], Configuration],
        apply: Callable[[Configuration], Applied],
        *,
        missing: Callable[[], Collection[str]] = tuple,
        clock: Clock,
        log: Log,
    ) -> None:
        """A reloader.

        Args:
            configuration: the one in use, read just now.
            read: reads it again; raises ConfigError with a line for each problem.
            apply: changes what differs.
            missing: which accounts the start did not find in the configuration and are still not in it.
            clock: for the time of a success.
            log: receives what has changed, or what is wrong.
        """
        self._started_with = self._current = configuration
        self._read = read
        self._apply = apply
        self._missing = missing
        self._clock = clock
        self._log = log
        self._lock = threading.Lock()
        self._signals = threading.Lock()
        self._busy = self._again = self._closed = False
        self.announced: Reloading = nullcontext
        """Makes the context of each reload."""
        self.status = ReloadStatus(successful=True, succeeded_at=clock.time())
        """How the configuration was last read."""

    @property
    def enabled(self) -> bool:
        """Whether ``POST /-/reload`` is allowed."""
        return self._current.settings.enable_lifecycle

    def reload(self) -> ReloadResult:
        """Reload now, or as soon as the reloads before have ended."""
        with self._lock:
            if self._closed:
                return ReloadResult(_STOPPING, ("the exporter is stopping",))
            with self.announced():
                return self._attempt()

    def _attempt(self) -> ReloadResult:
        try:
            return self._reload()
        except ConfigError as error:
            problems = tuple(map(shown, error.problems))
            for problem in problems:
                self._log.error("configuration.rejected", reason=problem, consequence="nothing has changed")
            return self._failed(ReloadResult(_INVALID, problems))
        except Exception:  # noqa: BLE001  # a reload that fails must not end anything
            self._log.exception("configuration.reload_failed")
            return self._failed(ReloadResult(_CRASHED, ("unexpected error, see the log",)))

    def close(self) -> None:
        """Wait for the reload in progress, and do none any more: the daemon is stopping."""
        with self._lock:
            self._closed = True

    def on_hangup(self) -> None:
        """Reload. However many signals come meanwhile, one more reload follows, which sees what they were sent for."""
        with self._signals:
            self._again = True
            if self._busy:
                return
            self._busy = True
        while self._wanted():
            self.reload()

    def _wanted(self) -> bool:
        with self._signals:
            self._busy, self._again = self._again, False
            return self._busy

    def _failed(self, result: ReloadResult) -> ReloadResult:
        since = self._clock.time() if self.status.failing_since is None else self.status.failing_since
        self.status = replace(self.status, successful=False, failing_since=since, problems=result.lines)
        return result

    def _reload(self) -> ReloadResult:
        before, wanted = self._current, self._read()
        _check(before, wanted)
        applied = self._apply(wanted)
        self._current = wanted
        settings = (*changed_settings(before.settings, wanted.settings), *changed_own_settings(before, wanted))
        restart = settings_for_restart(self._started_with, wanted)
        refused = (*(f"{key} needs a restart" for key in restart), *applied.refused)
        accounts = _without_mended(applied.accounts, before, wanted)
        now = self._clock.time()
        removed = {**self.status.removed, **dict.fromkeys(accounts.removed, now)}
        removed = {name: at for name, at in removed.items() if name not in wanted.names}
        self.status = ReloadStatus(successful=True, succeeded_at=now, waiting=refused, removed=removed)
        if accounts.removed:
            self._log.warning(
                "accounts.removed",
                accounts=", ".join(accounts.removed),
                consequence="their series end; their ledgers stay in the state file",
                next_step=put_back(wanted, accounts.removed),
            )
        if missing := self._missing():
            warn_of_missing(self._log, wanted, missing)
        names = {"added": accounts.added, "changed": accounts.changed_in_words, "removed": accounts.removed}
        duplicates = tuple(f"{name}: {same_user_as(owner)}" for name, owner in accounts.duplicates.items())
        unusable = tuple(_unusable(wanted, (*accounts.added, *accounts.changed)))
        self._log.info(
            "configuration.reloaded",
            **{f"accounts_{what}": _listed(which) for what, which in names.items()},
            accounts_not_polled=_listed((*duplicates, *unusable)),
            settings_changed=_listed(settings),
        )
        for reason in refused:
            self._log.warning("configuration.restart_needed", reason=reason)
        for warning in wanted.warnings:
            if warning not in before.warnings:
                self._log.warning("token.exposed", reason=warning)
        done = [f"accounts {what}: {', '.join(which)}" for what, which in names.items() if which]
        if accounts.added and accounts.removed:
            done[-1] += _HOW_A_RENAME_COUNTS
        if settings:
            done.append(f"settings changed: {', '.join(settings)}")
        if not done and not refused:
            done.append("nothing has changed")
        absent = (f"still missing since the start: {', '.join(missing)}",) if missing else ()
        return ReloadResult(_OK, (*done, *absent, *duplicates, *unusable, *refused))


def warn_of_missing(log: Log, configuration: Configuration, names: Collection[str]) -> None:
    """Warn of the accounts *names*, which the start did not find in the configuration."""
    log.warning(
        "accounts.removed",
        accounts=", ".join(names),
        reason="polled until the exporter stopped, and not configured since it started",
        consequence="none of their failed jobs is reported; their ledgers stay in the state file",
        next_step=put_back(configuration, names),
    )


def _without_mended(changes: AccountChanges, before: Configuration, wanted: Configuration) -> AccountChanges:
    """*changes* without the removal of what stood for a file that could not be used, and now is an account's."""
    files = {entry.where for entry in wanted.entries}
    mended = {entry.name for entry in before.pending if entry.is_unusable_file and entry.where in files}
    return replace(changes, removed=tuple(name for name in changes.removed if name not in mended))


def _unusable(configuration: Configuration, new: Collection[str]) -> Iterator[str]:
    """A line for each account with a missing or unusable file; those that are not *new* may go on without it."""
    for name, problem in configuration.setup_problems.items():
        yield f"{name} cannot be polled: {problem}" if name in new else f"{name}: {problem}"


def _check(before: Configuration, wanted: Configuration) -> None:
    """Refuse what a start accepts: a reload with an invalid file changes nothing.

    Raises:
        ConfigError: a file of an account cannot be used, or all of them are gone with their folder.
    """
    if wanted.file_problems:
        raise ConfigError(*wanted.file_problems)
    folder = before.accounts_folder
    if folder is not None and wanted.file == before.file and wanted.accounts_folder is None:
        raise ConfigError(
            f"{folder}: this folder with accounts is missing; put it back, or make an empty one to remove the accounts"
        )


def _listed(names: Iterable[str]) -> str | None:
    return ", ".join(names) or None
