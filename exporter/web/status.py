"""The page at ``/``: what a person sees who opens the exporter in a browser. No scripts, nothing from outside.

It is read by someone who was woken up: what is wrong comes first, since when, in which account and job, and why; then
the jobs, then the accounts, those with trouble before the others. However many there are, jobs are cut off at a bound
and say so. On a narrow screen each row of a table becomes a card.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from heapq import nlargest, nsmallest
from html import escape
from itertools import chain, repeat
from typing import Final

from exporter import __version__
from exporter.counting.values import JobRecord, JobTotals
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, PollStatus, error_codes

_STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --text: #1b1f24; --quiet: #57606a; --line: #d0d7de;
  --link: #0757b5; --bad: #b42318; --warn: #8a4b00; --good: #1a6e34; --bar: #2a6fc9; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2126; --text: #e6e9ed; --quiet: #9da7b3;
  --line: #363c44; --link: #7ab7ff; --bad: #ff8a80; --warn: #f0b35a; --good: #6fd08c; --bar: #5b9df0; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
  padding: 1rem 1.5rem; max-width: 90rem; overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: baseline; justify-content: space-between; }
h1 { font-size: 1.125rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; line-height: 1.3; }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.25rem; padding: 0; margin: 0; list-style: none; }
nav a { display: inline-block; padding: .25rem 0; } a { color: var(--link); } p { margin: .5rem 0; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; } tr:target { background: var(--card); }
#overview { font-size: 1.625rem; margin-top: 1.25rem; }
.problems { padding: 0; list-style: none; max-width: 70rem; }
.problems li { background: var(--card); border-left: .3rem solid var(--bad); padding: .5rem .75rem; margin: .5rem 0; }
.problems .warning { border-color: var(--warn); } .problems li { color: inherit; font-weight: inherit; }
dl { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 0; }
dl div { background: var(--card); border-radius: .4rem; padding: .5rem .9rem; flex: 1 1 8.5rem; }
dt { color: var(--quiet); font-size: .875rem; }
dd { margin: 0; font-size: 1.375rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; }
caption, .quiet { color: var(--quiet); font-size: .875rem; } caption { text-align: left; padding-bottom: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); }
thead th { font-size: .875rem; vertical-align: bottom; overflow-wrap: normal; }
tbody th { font-weight: 600; min-width: 12.5rem; } td { min-width: 5.5rem; } td:has(a) { min-width: 9.5rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; } .quiet { display: block; font-weight: 400; }
time, td .quiet, td .bad { white-space: nowrap; } td .why { white-space: normal; } time.quiet { display: inline-block; }
code { font-size: .95em; }
.bad { color: var(--bad); font-weight: 600; } .warning { color: var(--warn); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
progress { accent-color: var(--bar); width: 9rem; height: .9rem; margin-right: .5rem; vertical-align: middle; }
footer { margin-top: 2.5rem; }
@media (max-width: 64rem) {
  body { padding: .75rem; } table, caption, tr, th, td { display: block; }
  tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: .75rem; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tr { background: var(--card); border-radius: .4rem; padding: .5rem .75rem; }
  th, td { border: 0; padding: .15rem 0; } .n { text-align: left; }
  td { position: relative; padding-left: 7rem; min-height: 1.8rem; } progress { display: block; width: 100%; }
  td::before { content: attr(data-label); content: attr(data-label) / ""; color: var(--quiet); position: absolute;
    left: 0; width: 6.5rem; font-size: .875rem; }
}
"""
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""All that the page needs: the style above, known by its hash."""
_ERROR_CODES: Final = "https://docs.sevenbridges.com/docs/api-status-codes"
_STUCK_SECONDS: Final = 1800.0
"""From when on a job that does not move is pointed out: when the alert SbgJobStuck fires."""
_MOST_JOBS: Final = 100
_MOST_PROBLEMS: Final = 5
"""Rows, and lines of a kind, that somebody can still look through, in all accounts together."""


class _Html(str):
    """Text that needs no escaping any more."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Account:
    """An account's picture, and what of it the page shows in several places.

    Attributes:
        stale: its last good answer is too old for what was last listed to be shown.
        unfinished: its unfinished jobs; none when stale.
        stuck: those that have not moved for long, the longest first.
        failed: its jobs with failed files, the latest detection first.
        detected: the same without those that ended before counting began.
        files: comprised, completed and failed since counting began.
    """

    number: int
    snapshot: AccountSnapshot
    stale: bool
    unfinished: Sequence[JobRecord]
    stuck: Sequence[JobRecord]
    failed: Sequence[JobRecord]
    detected: Sequence[JobRecord]
    files: tuple[int, int, int]

    @classmethod
    def of(cls, number: int, snapshot: AccountSnapshot, display: DisplayOptions, now: float) -> "_Account":
        """The account of *snapshot*, the *number*-th of the configuration."""
        stale = now >= snapshot.gauges_until
        live = () if stale or snapshot.ledger is None else snapshot.ledger.live.values()
        unfinished = [job_record for job_record in live if job_record.unfinished]
        stuck = sorted(
            (job_record for job_record in unfinished if _is_stuck(job_record, now)),
            key=lambda record: record.last_progress_at,
        )
        failed = snapshot.failed_jobs(display, now)
        detected = [job_record for job_record in failed if job_record.detected_at is not None]
        return cls(number, snapshot, stale, unfinished, stuck, failed, detected, snapshot.files_counted())

    @property
    def failing(self) -> bool:
        """Whether it is asked in vain, or not asked any more."""
        up = self.snapshot.status.up
        return up is False or (up is True and self.stale)

    @property
    def link(self) -> _Html:
        """Its name, leading to its row."""
        return _Html(f'<a href="#account-{self.number}">{escape(self.snapshot.account)}</a>')


def status_page(snapshots: Iterable[AccountSnapshot], display: DisplayOptions, now: float) -> str:
    """The page of all accounts as they are shown at *now*, Unix seconds."""
    accounts = [_Account.of(number, snapshot, display, now) for number, snapshot in enumerate(snapshots, 1)]
    headline, severity = _headline(accounts)
    most = min(display.job_series, _MOST_JOBS)
    shown = (
        _failed(accounts, display, now, most),
        _unfinished(accounts, now, most),
        _listed(accounts),
        _accounts(accounts, display, now),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{headline} · sbg-exporter</title><style>{_STYLE}</style></head><body>"
        f'<header><h1>sbg-exporter</h1><nav aria-label="Page"><ul>'
        f"{_links(_SECTIONS | _PAGES if accounts else _PAGES)}</ul></nav></header><main>"
        f'<section aria-labelledby="overview"><h2 id="overview"{_class(severity)}>{headline}</h2>'
        f"<p>As of {_moment(now)}.</p>{_problems(accounts, now)}{_figures(accounts, display) if accounts else ''}"
        f'</section>{"".join(shown) if accounts else ""}</main><footer class="quiet">sbg-exporter'
        f" {escape(__version__)}. Ages are as of the time above; load the page again for newer ones.</footer>"
        "</body></html>\n"
    )


_SECTIONS: Final = {"#failed": "Failed", "#unfinished": "Unfinished", "#accounts": "Accounts"}
_PAGES: Final = {"/": "Load again", "/metrics": "Metrics", "/-/healthy": "Health", "/-/ready": "Readiness"}


def _links(pages: Mapping[str, str]) -> str:
    return "".join(f'<li><a href="{where}">{name}</a></li>' for where, name in pages.items())


# ---- what is wrong ----


def _headline(accounts: Sequence[_Account]) -> tuple[str, str]:
    """All in one line, and its tone."""
    failing = sum(account.failing for account in accounts)
    failed = sum(len(account.detected) for account in accounts)
    stuck = sum(len(account.stuck) for account in accounts)
    found = (
        f"{_number(failing, 'account')} cannot be polled" if failing else "",
        f"{_number(failed, 'job')} with failed files" if failed else "",
        f"{_number(stuck, 'job')} without progress" if stuck else "",
    )
    if any(found):
        return ", ".join(filter(None, found)), "bad" if failing or failed else "warning"
    untried = sum(account.snapshot.status.up is None for account in accounts)
    if untried == len(accounts):
        return "No account has been tried yet", ""
    return (f"Nothing is wrong so far, {untried} not tried yet", "") if untried else ("Nothing is wrong", "good")


def _problems(accounts: Sequence[_Account], now: float) -> str:
    """Which accounts, which jobs, since when, why; the most pressing first."""
    failing = sorted(
        (each for each in accounts if each.failing), key=lambda each: each.snapshot.status.last_success or 0.0
    )
    failed = sorted((each for each in accounts if each.detected), key=lambda each: -(each.detected[0].detected_at or 0))
    stuck = sorted((each for each in accounts if each.stuck), key=lambda each: each.stuck[0].last_progress_at)
    lines = [
        *_lines("bad", failing, lambda each: _unanswered(each.snapshot.status, now)),
        *_lines("bad", failed, lambda each: _latest(each.detected, now)),
        *_lines("warning", stuck, lambda each: _longest(each.stuck, now)),
    ]
    return f'<ul class="problems" aria-label="Problems">{"".join(lines)}</ul>' if lines else ""


def _lines(severity: str, accounts: Sequence[_Account], what: Callable[[_Account], str]) -> Iterator[str]:
    for account in accounts[:_MOST_PROBLEMS]:
        yield f'<li class="{severity}">{account.link}: {what(account)}.</li>'
    if more := accounts[_MOST_PROBLEMS:]:
        yield f'<li class="{severity}">The same in {_number(len(more), "more account")}.</li>'


def _unanswered(status: PollStatus, now: float) -> str:
    said = "not polled lately" if status.up else "cannot be polled"
    return f"{said}, {_last_answer(status, now)}{': ' if status.last_error else ''}{escape(status.last_error)}"


def _latest(failed: Sequence[JobRecord], now: float) -> str:
    record = failed[0]
    return (
        f"{_number(len(failed), 'job')} with failed files, the latest detected {_age(record.detected_at or now, now)}:"
        f" {_named(record)}, {_failed_files(record)} files failed ({escape(_codes(record))})"
    )


def _longest(stuck: Sequence[JobRecord], now: float) -> str:
    return (
        f"{_number(len(stuck), 'job')} without progress, the longest since {_age(stuck[0].last_progress_at, now)}:"
        f" {_named(stuck[0])}, {escape(_state(stuck[0]))}"
    )


def _named(record: JobRecord) -> str:
    return f"{escape(record.operation)} <code>{escape(record.id)}</code>"


def _last_answer(status: PollStatus, now: float) -> str:
    last = status.last_success
    return "no good answer yet" if last is None else f"last good answer {_age(last, now)}"


def _is_stuck(record: JobRecord, now: float) -> bool:
    return now - record.last_progress_at >= _STUCK_SECONDS


def _figures(accounts: Sequence[_Account], display: DisplayOptions) -> str:
    up = sum(account.snapshot.status.up is True and not account.failing for account in accounts)
    figures = {
        "Accounts up": f"{up} of {len(accounts)}",
        "Unfinished jobs": _grouped(sum(len(account.unfinished) for account in accounts)),
        f"Jobs with failed files, {_span(display.failed_job_window)}": _grouped(
            sum(len(account.detected) for account in accounts)
        ),
        "Files completed, as counted": _grouped(sum(account.files[1] for account in accounts)),
        "Files failed, as counted": _grouped(sum(account.files[2] for account in accounts)),
    }
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in figures.items())}</dl>"


# ---- the jobs ----


def _failed(accounts: Sequence[_Account], display: DisplayOptions, now: float, most: int) -> str:
    jobs = [(account, record) for account in accounts for record in account.failed]
    shown = nlargest(most, jobs, key=lambda job: (job[1].detected_at or 0.0, job[1].id))
    rows = (
        (
            _code(record.id),
            account.link,
            record.operation,
            record.outcome or "running",
            _toned("bad", _failed_files(record)),
            _codes(record),
            "before counting began" if record.detected_at is None else _both(record.detected_at, now),
        )
        for account, record in shown
    )
    unknown = sum(account.snapshot.ledger is None for account in accounts)
    return _section(
        "failed",
        "Jobs with failed files",
        _table(
            f"Running, or ended within {_span(display.failed_job_window)}; the latest detection first.",
            ("Job", "Account", "Operation", "Outcome", "Failed files", "Errors by code", "Detected"),
            rows,
            hidden=len(jobs) - len(shown),
        ),
        f'<p class="quiet">Errors are counted by <a href="{_ERROR_CODES}">the platform\'s API status codes</a>.</p>'
        if shown
        else "",
        _left_out(unknown, "it is not known yet whose ledger it is"),
    )


def _unfinished(accounts: Sequence[_Account], now: float, most: int) -> str:
    jobs = [(account, record) for account in accounts for record in account.unfinished]
    shown = nsmallest(most, jobs, key=lambda job: (job[1].last_progress_at, job[1].id))
    rows = (
        (
            _code(record.id),
            account.link,
            record.operation,
            _state(record),
            _progress(record),
            _age(record.submitted_on or record.first_seen, now),
            _toned("warning" if _is_stuck(record, now) else "", _age(record.last_progress_at, now)),
        )
        for account, record in shown
    )
    unknown = sum(account.stale or account.snapshot.ledger is None for account in accounts)
    return _section(
        "unfinished",
        "Unfinished jobs",
        _table(
            "Those that have not moved for longest first.",
            ("Job", "Account", "Operation", "State", "Files done", "Submitted", "Last moved"),
            rows,
            hidden=len(jobs) - len(shown),
        ),
        _left_out(unknown, _NO_GOOD_ANSWER),
    )


def _listed(accounts: Sequence[_Account]) -> str:
    """Sums over all accounts: the accounts' own are in their rows."""
    totals: dict[tuple[str, str], JobTotals] = {}
    unknown = 0
    for account in accounts:
        if account.stale or account.snapshot.listed is None:
            unknown += 1
            continue
        for key, more in account.snapshot.listed.items():
            totals[key] = JobTotals(*map(sum, zip(totals.get(key, JobTotals()), more, strict=True)))
    rows = (
        (
            operation,
            state,
            *map(_grouped, (each.jobs, each.total, each.completed)),
            _toned("bad" if each.failed else "", _grouped(each.failed)),
        )
        for (operation, state), each in sorted(totals.items())
    )
    return _section(
        "listed",
        "Jobs that the platform lists",
        _table(
            "By operation and state, all accounts together.",
            ("Operation", "State", "#Jobs", "#Files", "#Completed", "#Failed"),
            rows,
        ),
        _left_out(unknown, _NO_GOOD_ANSWER),
    )


_NO_GOOD_ANSWER: Final = "no complete listing yet, or the last good answer is too old"


def _state(record: JobRecord) -> str:
    return f"{record.state}, settling" if record.state == "finished" else record.state


def _codes(record: JobRecord) -> str:
    return ", ".join(f"{code} ({records})" for code, records in error_codes(record)) or (
        "codes come at its end" if record.unfinished else "codes not known"
    )


def _failed_files(record: JobRecord) -> str:
    return (
        f"{_grouped(record.last_failed)} of"
        f" {_grouped(max(record.last_total, record.last_completed + record.last_failed))}"
    )


def _progress(record: JobRecord) -> _Html | str:
    """A job's progress as a bar with its numbers beside it."""
    done, total = record.last_completed + record.last_failed, record.last_total
    if not done and not total:
        return "not known yet"
    most = max(1, total)
    failed = f', <span class="bad">{_grouped(record.last_failed)} failed</span>' if record.last_failed else ""
    return _Html(
        f'<progress max="{most}" value="{min(done, most)}" aria-label="Progress of job {escape(record.id)}"></progress>'
        f"{_grouped(done)} of {_grouped(total)}{failed}"
    )


# ---- the accounts ----


def _accounts(accounts: Sequence[_Account], display: DisplayOptions, now: float) -> str:
    order = sorted(accounts, key=lambda account: (not account.failing, not account.detected, account.number))
    return _section(
        "accounts",
        "Accounts",
        _table(
            "Those with trouble first.",
            ("Account", "State", "Last poll", "Requests", "Jobs listed", "Files counted"),
            (
                (
                    _name(account, display),
                    _health(account, now),
                    _asking(account.snapshot.status, now),
                    _requests(account.snapshot.status),
                    _jobs(account),
                    _files(account, now),
                )
                for account in order
            ),
            [f"account-{account.number}" for account in order],
        ),
    )


def _name(account: _Account, display: DisplayOptions) -> _Html:
    username = account.snapshot.owner if display.show_username else ""
    where = escape(account.snapshot.endpoint.removeprefix("https://"))
    return _with(escape(account.snapshot.account), f"{f'{escape(username)} at ' if username else ''}{where}")


def _health(account: _Account, now: float) -> _Html:
    status = account.snapshot.status
    if status.up is None:
        return _Html("not tried yet")
    if not account.failing:
        return _toned("good", "up")
    said = _toned("bad", "not polled lately" if status.up else "failing")
    why = f'<span class="why">{escape(status.last_error)}</span>' if status.last_error else ""
    return _with(said, _last_answer(status, now), why)


def _asking(status: PollStatus, now: float) -> _Html:
    """How it is asked."""
    watched = bool(status.incremental_polling) and status.full_listing_interval is not None
    return _with(
        "none yet" if status.last_poll is None else _age(status.last_poll, now),
        f"every {_span(status.interval)}",
        f"watched; all listed every {_span(status.full_listing_interval or 0)}" if watched else "",
        f"each job looked at within {_span(status.detection_delay or 0)}" if watched else "",
    )


def _requests(status: PollStatus) -> _Html:
    left = status.rate_limit_remaining
    return _with(
        f"{status.allowance_used} of {status.allowance} allowed",
        "" if left is None else f"platform has {left} left",
    )


def _jobs(account: _Account) -> _Html | str:
    if account.snapshot.listed is None:
        return "no complete listing yet"
    if account.stale:
        return "too old to show"
    states = Counter[str]()
    for (_, state), totals in account.snapshot.listed.items():
        states[state] += totals.jobs
    return ", ".join(f"{_grouped(jobs)}\u00a0{state}" for state, jobs in states.most_common()) or "none"


def _files(account: _Account, now: float) -> _Html | str:
    if account.snapshot.ledger is None:
        return "not known yet"
    files, completed, failed = account.files
    return _with(
        f"{_grouped(completed)} of {_grouped(files)} completed, "
        + _toned("bad" if failed else "", f"{_grouped(failed)}\u00a0failed"),
        f"since {_age(account.snapshot.ledger.account.counting_since, now)}",
    )


# ---- HTML ----


def _section(name: str, title: str, *parts: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{"".join(parts)}</section>'


def _table(
    caption: str,
    columns: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    anchors: Sequence[str] = (),
    *,
    hidden: int = 0,
) -> str:
    """A table whose rows are named by their first cell; *hidden* ones are not among them.

    Columns whose name begins with # hold numbers. The roles say what the elements say already: where they are shown as
    cards, some browsers forget it.
    """
    heads = [(column.lstrip("#"), _class("n" if column[0] == "#" else "")) for column in columns]
    head = "".join(f'<th scope="col" role="columnheader"{kind}>{name}</th>' for name, kind in heads)
    opened = [f'<td role="cell" data-label="{name}"{kind}>' for name, kind in heads[1:]]
    body = "".join(
        f'<tr role="row"{anchor}><th scope="row" role="rowheader">{_cell(first)}</th>'
        + "".join(f"{tag}{_cell(cell)}</td>" for tag, cell in zip(opened, cells, strict=True))
        + "</tr>"
        for (first, *cells), anchor in zip(rows, chain((f' id="{each}"' for each in anchors), repeat("")), strict=False)
    )
    rest = f"<p>{_grouped(hidden)} more not shown here.</p>" if hidden else ""
    if not body:
        return rest or "<p>None.</p>"
    return (
        f'<table role="table"><caption>{caption}</caption><thead><tr role="row">{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{rest}"
    )


def _cell(cell: str) -> str:
    return cell if isinstance(cell, _Html) else escape(cell)


def _with(first: str, *quiet: str) -> _Html:
    """HTML, with smaller lines below it."""
    return _Html(first + "".join(f'<span class="quiet">{line}</span>' for line in quiet if line))


def _toned(severity: str, html: str) -> _Html:
    return _Html(f'<span class="{severity}">{html}</span>' if severity else html)


def _code(text: str) -> _Html:
    return _Html(f"<code>{escape(text)}</code>")


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _left_out(accounts: int, why: str) -> str:
    return f'<p class="quiet">{_number(accounts, "account")} left out: {why}.</p>' if accounts else ""


def _number(number: int, noun: str) -> str:
    return f"{_grouped(number)} {noun}{'' if number == 1 else 's'}"


def _grouped(number: int) -> str:
    return f"{number:,}"


def _moment(at: float, severity: str = "") -> str:
    return f'<time datetime="{_utc(at, "T", "Z")}"{_class(severity)}>{_utc(at)}</time>'


def _both(at: float, now: float) -> _Html:
    return _Html(f"{_age(at, now)} {_moment(at, 'quiet')}")


def _age(at: float, now: float) -> _Html:
    """How long ago; the moment itself is for machines and for whoever points at it."""
    return _Html(f'<time datetime="{_utc(at, "T", "Z")}" title="{_utc(at)}">{_span(now - at)} ago</time>')


def _utc(at: float, between: str = " ", after: str = " UTC") -> str:
    return datetime.fromtimestamp(at, UTC).strftime(f"%Y-%m-%d{between}%H:%M:%S{after}")


def _span(seconds: float) -> str:
    """So long, in the largest unit of which there are two."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
