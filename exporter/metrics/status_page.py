"""The page at ``/``: what a person sees who opens the exporter in a browser. No scripts, nothing from outside."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Final

from exporter import __version__
from exporter.counting.ledger import FILES, FILES_COMPLETED, FILES_FAILED, Mark
from exporter.metrics.catalogue import error_codes, failed_jobs, owner, unfinished_jobs
from exporter.metrics.snapshot import Display, Picture

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c22; --good: #2a7d2a; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff7b72; --good: #56d364; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .25rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
tbody th { font-weight: inherit; } .t { white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); font-weight: 600; }
progress { width: 8rem; vertical-align: middle; } code { font-size: .95em; }
@media (max-width: 30rem) {
  body { padding: .5rem; font-size: 14px; } th, td { padding: .25rem .3rem; } progress { width: 3rem; }
}
"""
_ERROR_CODES: Final = "https://docs.sevenbridges.com/docs/api-status-codes"


def status_page(pictures: Iterable[Picture], display: Display, now: float) -> str:
    """The page of all accounts as they are shown at *now*, Unix seconds."""
    body = "".join(part for picture in pictures for part in _account(picture, display, now))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="refresh" content="30">'
        f"<title>sbg-exporter</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>sbg-exporter {escape(__version__)}</h1>"
        '<p><a href="/metrics">Metrics</a> · <a href="/-/healthy">Health</a> · <a href="/-/ready">Readiness</a></p>'
        f"{body or '<p>No account has been tried yet.</p>'}"
        f"<p>As of {_moment(now)}.</p></main></body></html>\n"
    )


def _account(picture: Picture, display: Display, now: float) -> Iterator[str]:
    yield f"<section><h2>{escape(picture.account)}</h2>"
    yield f"<p>{'<br>'.join(_facts(picture, display, now))}</p>"
    if picture.listed is None:
        yield _nothing(_LISTED, "No complete listing yet.")
    elif now >= picture.gauges_until:
        yield _nothing(_LISTED, "The last good answer is too old.")
    else:
        rows = [(operation, state, *sums) for (operation, state), sums in sorted(picture.listed.items())]
        yield _table(_LISTED, ("Operation", "State", "#Jobs", "#Files", "#Completed", "!Failed"), rows)
    if picture.book is None:
        yield _nothing(_UNFINISHED, "Not known yet.")
        yield _nothing(_FAILED, "Not known yet.")
    else:
        unfinished, failed = unfinished_jobs(picture), failed_jobs(picture, display, now)
        yield _table(
            _UNFINISHED,
            ("Job", "Operation", "State", "!Failed", "Files done", "@Last moved"),
            [_unfinished_row(mark, now) for mark in unfinished[: display.job_series]],
            more=len(unfinished) - display.job_series,
        )
        yield _table(
            _FAILED,
            ("Job", "Operation", "Outcome", "!Failed", "#Completed", "Errors by code", "@Detected"),
            [_failed_row(mark) for mark in failed[: display.job_series]],
            more=len(failed) - display.job_series,
        )
        if failed:
            yield f'<p>Errors are counted by <a href="{_ERROR_CODES}">the platform\'s API status codes</a>.</p>'
    yield "</section>"


_LISTED: Final = "Jobs that the platform lists"
_UNFINISHED: Final = "Unfinished jobs"
_FAILED: Final = "Latest failed jobs"


def _facts(picture: Picture, display: Display, now: float) -> Iterator[str]:
    """What asking is like, a line each."""
    polling = picture.polling
    if polling.up is None:
        yield "State: not tried yet."
    elif polling.up:
        yield 'State: <span class="good">up</span>.'
    else:
        yield f'State: <span class="bad">failing</span>: {escape(polling.fault)}.'
    username = owner(picture) if display.show_username else ""
    yield f"Endpoint: <code>{escape(picture.endpoint)}</code>{f' as {escape(username)}' if username else ''}."
    if polling.last_poll is not None:
        yield f"Last poll: {_moment(polling.last_poll)}, {_ago(now - polling.last_poll)}."
    if polling.last_success is not None and not polling.up:
        yield f"Last good answer: {_moment(polling.last_success)}, {_ago(now - polling.last_success)}."
    left = polling.rate_limit_remaining
    if picture.book is not None:
        files, completed, failed = files_counted(picture)
        yield f"Counting since: {_moment(picture.book.account.since)}."
        yield f"Files counted since then: {completed} completed, {_reddened(failed)} failed, of {files}."
    yield f"Requests in this window: {polling.allowance_used} of {polling.allowance} allowed" + (
        "." if left is None else f"; the platform has {left} left for the user."
    )


def files_counted(picture: Picture) -> tuple[int, int, int]:
    """Files that jobs comprised, completed and failed since counting began, over all operations."""
    counters = {} if picture.book is None else picture.book.counters
    total, completed, failed = (
        sum(count.value for (family, _), count in counters.items() if family == name)
        for name in (FILES, FILES_COMPLETED, FILES_FAILED)
    )
    return total, completed, failed


def _unfinished_row(mark: Mark, now: float) -> tuple[object, ...]:
    state = f"{mark.state}, settling" if mark.state == "finished" else mark.state
    return mark.id, mark.operation, state, mark.last_failed, _progress(mark), _ago(now - mark.moved_at)


def _failed_row(mark: Mark) -> tuple[object, ...]:
    return (
        mark.id,
        mark.operation,
        mark.outcome or "running",
        mark.last_failed,
        mark.last_completed,
        ", ".join(f"{code} ({records})" for code, records in error_codes(mark)) or "not known",
        "before counting began" if mark.detected_at is None else _time(mark.detected_at),
    )


@dataclass(frozen=True, slots=True)
class _Markup:
    """HTML that needs no escaping any more."""

    html: str


def _progress(mark: Mark) -> _Markup:
    """A job's progress as a bar with its numbers beside it."""
    done, total = mark.last_completed + mark.last_failed, mark.last_total
    if not done and not total:
        return _Markup("not known yet")
    most = max(1, total)
    failed = f", {mark.last_failed} failed" if mark.last_failed else ""
    return _Markup(
        f'<progress max="{most}" value="{min(done, most)}" aria-label="Progress of job {escape(mark.id)}">'
        f'</progress> <span class="t">{done} of {total}{failed}</span>'
    )


_KINDS: Final = {"#": "n", "!": "n", "@": "t"}


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]], more: int = 0) -> str:
    """A table. *more* rows, if above 0, are not shown.

    Columns whose name begins with # hold numbers, with ! numbers that had better be 0, with @ times.
    """
    head = "".join(
        f'<th scope="col"{_class(_KINDS.get(column[0], ""))}>{escape(column.lstrip("".join(_KINDS)))}</th>'
        for column in columns
    )
    body = "".join(f"<tr>{_row(row, columns)}</tr>" for row in rows)
    hidden = f"<p>{more} more not shown here.</p>" if more > 0 else ""
    if not body:
        return f"<h3>{escape(title)}</h3>{hidden or '<p>None.</p>'}"
    return (
        f'<h3>{escape(title)}</h3><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{hidden}"
    )


def _row(row: tuple[object, ...], columns: tuple[str, ...]) -> str:
    """A row's cells; the first one names it."""
    first, *rest = row
    return f'<th scope="row">{_cell(first)}</th>' + "".join(
        f"<td{_class(_KINDS.get(column[0], ''), 'bad' if column[0] == '!' and cell else '')}>{_cell(cell)}</td>"
        for cell, column in zip(rest, columns[1:], strict=True)
    )


def _nothing(title: str, why: str) -> str:
    return f"<h3>{escape(title)}</h3><p>{escape(why)}</p>"


def _class(*names: str) -> str:
    return f' class="{" ".join(filter(None, names))}"' if any(names) else ""


def _cell(cell: object) -> str:
    return cell.html if isinstance(cell, _Markup) else escape(str(cell))


def _reddened(number: int) -> str:
    return f'<span class="bad">{number}</span>' if number else "0"


def _moment(at: float) -> str:
    return f'<span class="t">{_time(at)}</span>'


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _ago(seconds: float) -> str:
    """How long ago, in the largest whole unit."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{max(0.0, seconds):.0f} s ago"
