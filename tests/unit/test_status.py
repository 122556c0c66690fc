"""The status page is complete HTML that needs no scripts, no styles and nothing from elsewhere."""

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin
from xml.etree import ElementTree as ET

import pytest
import yaml
from jinja2 import DictLoader, TemplateError

from exporter import __version__
from exporter.api.models import Job
from exporter.counting.values import JobRecord, WaitClock
from exporter.errors import WaitReason
from exporter.metrics.snapshot import (
    STUCK_SECONDS,
    AccountSnapshot,
    CommitFailure,
    LostStateFile,
    MissingAccounts,
    ReloadStatus,
    Waiting,
    is_stuck,
)
from exporter.redaction import MASK, Secret
from exporter.web.page import CONTENT_SECURITY_POLICY, StatusPage
from exporter.web.status import status_view
from tests.clocks import START
from tests.factories import finished_job, job, job_id, running_job
from tests.ledgers import LedgerFixture, ledger_of
from tests.snapshots import DISPLAY, STATUS, UNTRIED, snapshot

NOW = START + 60
CODES = "https://docs.sevenbridges.com/docs/api-status-codes"
VOID = {"meta", "br", "link", "img", "input", "hr"}
FAILED, UNFINISHED = "Jobs with failed files", "Unfinished jobs"
INCOMPLETE_OR_LOST = "Incomplete and lost jobs"
NOT_AMONG_FAILED = (
    "Incomplete and lost jobs, which have no failed file, are listed by"
    " sbg-exporter jobs --outcome incomplete --outcome lost."
)
SHORT_COMMAND = "sbg-exporter jobs --outcome incomplete --outcome lost"
LISTED, ACCOUNTS = "Jobs that the platform lists", "Accounts"
EVIL = "<script>alert(\"1\")</script> & 'more'"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def raw(self) -> str:
        return "".join(each if isinstance(each, str) else each.raw for each in self.children)

    @property
    def text(self) -> str:
        return as_shown(self.raw)

    def all(self, tag: str) -> "Iterator[Element]":
        for each in self.children:
            if isinstance(each, Element):
                if each.tag == tag:
                    yield each
                yield from each.all(tag)


def as_shown(text: str) -> str:
    """Line breaks and indentation become single spaces; no-break spaces stay."""
    return re.sub(r"[ \n]+", " ", text).strip(" ")


class Strict(HTMLParser):
    """Builds the tree; an element without its own closing tag is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]
        self.declarations: list[str] = []

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def tree(
    *snapshots: AccountSnapshot,
    now: float = NOW,
    job_series: int = 50,
    show_username: bool = True,
    refreshing: bool = True,
    reload: ReloadStatus | None = None,
    missing: MissingAccounts | None = None,
    lost: LostStateFile | None = None,
) -> Element:
    """The page of *snapshots*, parsed, after the checks that every page must pass."""
    display = replace(DISPLAY, job_series=job_series, show_username=show_username)
    page = StatusPage(display, lost=lost).render(snapshots, now, refreshing=refreshing, reload=reload, missing=missing)
    parser = Strict()
    parser.feed(page)
    parser.close()
    [root] = parser.open
    assert parser.declarations == ["doctype html"]
    [html] = [each for each in root.children if isinstance(each, Element)]
    assert (html.tag, html.attributes) == ("html", {"lang": "en"})
    assert next(html.all("meta")).attributes.get("charset") == "utf-8"
    for tag in ("script", "img", "iframe", "object", "form", "base"):
        assert not list(html.all(tag))
    assert [each.attributes["rel"] for each in html.all("link")] == ["icon"]
    everything = list(elements(html))
    ids = [each.attributes["id"] for each in everything if "id" in each.attributes]
    assert len(set(ids)) == len(ids)
    for each in everything:
        assert not [name for name in each.attributes if name.startswith("on") or name == "style"]
        assert each.attributes.get("aria-labelledby", "overview") in ids
    for link in html.all("a"):
        to = link.attributes["href"]
        assert (
            to in {".", "?refresh=off", "metrics", "-/healthy", "-/ready", CODES}
            or to.removeprefix("?refresh=off#") in ids
        )
        assert to == CODES or urljoin("https://proxy.example/exporters/sbg/", to).startswith(
            "https://proxy.example/exporters/sbg/"  # a proxy may serve the page below a path
        )
    [style] = html.all("style")
    assert "url(" not in style.raw
    assert "@import" not in style.raw
    assert f"'sha256-{b64encode(sha256(style.raw.encode()).digest()).decode()}'" in CONTENT_SECURITY_POLICY
    return html


def elements(under: Element) -> Iterator[Element]:
    for each in under.children:
        if isinstance(each, Element):
            yield each
            yield from elements(each)


def section(page: Element, title: str) -> Element:
    [found] = [each for each in page.all("section") if next(each.all("h2")).text == title]
    return found


def rows(page: Element, title: str) -> list[list[str]]:
    """The cells of the table below a heading; the words instead of it where there is none."""
    below = section(page, title)
    if not list(below.all("table")):
        return [[each.text for each in below.all("p")]]
    return [
        [cell.text for cell in row.children if isinstance(cell, Element)]
        for body in below.all("tbody")
        for row in body.all("tr")
    ]


def account(page: Element, name: str = "cavatica") -> list[str]:
    """State, last poll, requests, jobs and files of an account, lines joined by a slash."""
    for body in section(page, ACCOUNTS).all("tbody"):
        for row in body.all("tr"):
            first, *rest = [lines(cell) for cell in row.children if isinstance(cell, Element)]
            if first.partition(" / ")[0] == name:
                return rest
    raise AssertionError(f"no account {name}")


def lines(cell: Element) -> str:
    quiet = [each for each in cell.all("span") if "quiet" in each.attributes["class"].split()]
    first = "".join(each if isinstance(each, str) else each.raw for each in cell.children if each not in quiet)
    return " / ".join((as_shown(first), *(each.text for each in quiet))).replace("\u00a0", " ")


def overview(page: Element) -> tuple[str, list[str]]:
    """The headline, and the problems line by line."""
    first = next(page.all("section"))
    return next(first.all("h2")).text, [
        line.text for each in first.all("ul") for line in each.children if isinstance(line, Element)
    ]


def figures(page: Element) -> dict[str, str]:
    return {name.text: value.text for name, value in zip(page.all("dt"), page.all("dd"), strict=True)}


# -------------------------------------------------------------------------------------------------------- what is wrong


def test_page_says_that_no_account_has_been_polled_yet() -> None:
    page = tree()

    assert overview(page) == ("No account has been polled yet", [])
    assert [each.text for each in page.all("h2")] == ["No account has been polled yet"]
    assert overview(tree(snapshot(None, status=UNTRIED))) == ("No account has been polled yet", [])


def test_page_without_problems_says_so() -> None:
    page = tree(snapshot(ledger_of()))

    assert overview(page) == ("No problems", [])
    assert next(page.all("title")).text == "No problems · sbg-exporter"
    assert "As of 2026-09-21 14:14:20 UTC." in page.text


def test_headline_counts_accounts_not_polled_yet() -> None:
    page = tree(snapshot(ledger_of(), account="one"), snapshot(None, account="two", status=UNTRIED))

    assert overview(page) == ("No problems; 1 account not polled yet", [])
    assert figures(page)["Accounts up"] == "1 of 2"


def test_problems_come_first_with_account_job_age_and_reason() -> None:
    failing, still, broken = LedgerFixture(), LedgerFixture(), LedgerFixture()
    failing.observe_listing(running_job(START + 1), at=START + 10)
    failing.observe_listing(finished_job(START + 1, failed=3, errors=(("4007", 2), ("none", 1))), at=START + 30)
    still.observe_listing(running_job(START + 2, done=4), at=START - 4000)
    refused = replace(STATUS, up=False, last_error="the token is refused", last_success=START - 300)

    page = tree(
        snapshot(still.ledger, account="still"),
        snapshot(failing.ledger, account="failing"),
        snapshot(broken.ledger, account="broken", status=refused),
        snapshot(ledger_of(), account="well"),
    )

    assert overview(page) == (
        "1 account cannot be polled, 1 job with failed files, 1 job without progress",
        [
            "broken: cannot be polled, last successful poll 6 min ago: the token is refused.",
            (
                "failing: 1 job with failed files, the latest detected 30 s ago:"
                f" copy {job_id(START + 1)}, 3 of 10 files failed; errors: 4007 (2), no code (1)."
            ),
            f"still: 1 job without progress, the longest since 68 min ago: copy {job_id(START + 2)}, running.",
        ],
    )
    assert [row[0].partition(" ")[0] for row in rows(page, ACCOUNTS)] == ["broken", "failing", "still", "well"]
    assert figures(page) == {
        "Accounts up": "3 of 4",
        "Unfinished jobs": "1",
        "Jobs with failed files, 24 h": "1",
        "Completed files counted": "11",
        "Failed files counted": "3",
    }


def test_latest_failure_and_longest_silence_come_first() -> None:
    def failed(at: float) -> LedgerFixture:
        counted = LedgerFixture()
        counted.observe_listing(running_job(at, failed=1), at=at)
        return counted

    def silent(since: float) -> AccountSnapshot:
        status = replace(STATUS, up=False, last_error="no answer", last_success=since)
        return snapshot(ledger_of(), account=f"silent since {since - START:.0f}", status=status)

    _, said = overview(
        tree(
            snapshot(failed(START + 10).ledger, account="first"),
            snapshot(failed(START + 20).ledger, account="second"),
            silent(START + 20),
            silent(START + 10),
        )
    )

    assert [line.partition(":")[0] for line in said] == ["silent since 10", "silent since 20", "second", "first"]


def test_account_not_polled_recently_is_a_problem_despite_its_last_success() -> None:
    page = tree(snapshot(ledger_of()), now=START + 660.5)

    assert overview(page) == (
        "1 account cannot be polled",
        ["cavatica: not polled recently, last successful poll 10 min ago."],
    )
    assert account(page)[0] == "not polled recently / last successful poll 10 min ago"


def test_failing_account_shows_reason_and_age_but_no_stale_jobs() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START + 1, done=4), at=START + 30)
    failing = replace(STATUS, up=False, last_error="the platform did not answer", last_poll=START + 7300, username=None)

    page = tree(snapshot(counted.ledger, status=failing), now=START + 7330)

    assert overview(page)[1] == [
        "cavatica: cannot be polled, last successful poll 2 h ago: the platform did not answer.",
    ]
    assert account(page)[0] == "failing / last successful poll 2 h ago / the platform did not answer"
    assert account(page)[3] == "stale"
    assert "rosalind at" in page.text, "the ledger remembers whose it is"
    not_shown = "1 account not shown: no full listing yet, or the last successful poll is too old."
    assert rows(page, UNFINISHED) == rows(page, LISTED) == [["None.", not_shown]]


def test_rejected_configuration_says_why_and_since_when() -> None:
    lines = tuple(f"config.toml: key{number}: unknown key" for number in range(7))
    rejected = ReloadStatus(successful=False, succeeded_at=START, failing_since=NOW - 600, problems=lines)
    good = snapshot(ledger_of(), status=STATUS)

    alone = tree(good, reload=rejected)
    beside = tree(replace(good, status=replace(STATUS, up=False)), reload=replace(rejected, problems=lines[:1]))

    told = "The new configuration was rejected 10 min ago; the one before is in use: "
    assert overview(alone)[0] == "Configuration rejected"
    line, *reasons = overview(alone)[1]
    assert reasons == [*lines[:5], "2 more problems in the log."]
    assert " ".join(line.split()) == told + " ".join(reasons)
    assert overview(beside)[0] == "1 account cannot be polled, configuration rejected"
    assert overview(tree(good, reload=ReloadStatus(successful=True, succeeded_at=START)))[0] == "No problems"


def test_what_waits_for_a_restart_is_said_also_while_the_configuration_is_rejected() -> None:
    waiting = ReloadStatus(successful=True, succeeded_at=START, waiting=("listen needs a restart",))
    rejected = replace(waiting, successful=False, failing_since=NOW - 600, problems=("no",))
    good = snapshot(ledger_of(), status=STATUS)

    told = "Changed in the configuration, but not in use: listen needs a restart."
    assert overview(tree(good, reload=waiting)) == ("Restart needed", [told])
    headline, lines = overview(tree(good, reload=rejected))
    assert headline == "Configuration rejected, restart needed"
    assert told in lines


def test_accounts_that_the_start_did_not_find_come_first() -> None:
    gone = MissingAccounts(("bob", "carol"), NOW - 600, "put them back")
    good = snapshot(ledger_of(), status=STATUS)
    failing = replace(good, status=replace(STATUS, up=False))

    told = (
        "No longer configured: bob, carol. Polled until the exporter stopped; it started 10 min ago without them."
        " None of their failed jobs is reported. Next step: put them back."
    )
    assert overview(tree(good, missing=gone)) == ("2 accounts no longer configured", [told])
    headline, lines = overview(tree(failing, missing=gone))
    assert headline == "2 accounts no longer configured, 1 account cannot be polled"
    assert lines[0] == told
    [line] = overview(tree(good, missing=replace(gone, names=("bob",))))[1]
    assert "started 10 min ago without it. None of its failed jobs" in line
    assert overview(tree(good))[0] == "No problems"


def test_lost_state_file_is_named_for_a_day_after_the_start() -> None:
    lost = LostStateFile("/s.db", NOW - 600, "put the file back")
    good = snapshot(ledger_of(), status=STATUS)

    page = tree(good, lost=lost)
    failing = tree(replace(good, status=replace(STATUS, up=False)), lost=lost)
    next_day = tree(good, now=NOW + 24 * 3600, lost=lost)

    told = "Counting began again at 0 10 min ago, because the state file /s.db was gone."
    assert overview(page) == ("No problems, but the state file was lost", [])
    assert told in " ".join(page.text.split())
    assert "Next step: put the file back." in page.text
    assert overview(failing)[0] == "1 account cannot be polled"
    assert told in " ".join(failing.text.split())
    assert "was gone" not in next_day.text


def test_accounts_that_a_reload_removed_are_named_for_a_day() -> None:
    """As where a volume is not mounted, whose mount point is an empty folder."""
    removed = {"bob": NOW - 600, "carol": NOW - 300, "dave": NOW - 90_000}
    reload = ReloadStatus(successful=True, succeeded_at=START, removed=removed)
    good = snapshot(ledger_of(), status=STATUS)

    page = tree(good, reload=reload)
    one = tree(good, reload=replace(reload, removed={"bob": NOW - 600}))

    assert overview(page) == ("No problems", [])
    assert "Removed by a reload 5 min ago or before: bob, carol. If that is not meant, put them back" in " ".join(
        page.text.split()
    )
    assert "Removed by a reload 10 min ago: bob. If that is not meant, put it back" in " ".join(one.text.split())
    assert "Removed" not in tree(good, now=NOW + 90_000, reload=reload).text


def test_a_next_step_that_ends_the_error_is_said_once() -> None:
    waiting = Waiting(WaitReason.TOKEN, NOW, None, "no token", "restore the token of alice")
    error = "the token belongs to bob; restore the token of alice"
    down = snapshot(ledger_of(), status=replace(STATUS, up=False, last_error=error, waiting=waiting))

    [line] = overview(tree(down))[1]

    assert line.count("restore the token of alice") == 1


def test_error_that_ends_in_a_question_has_no_full_stop_after_it() -> None:
    error = "config.toml: pol_interval: unknown key; did you mean poll_interval?"
    down = snapshot(ledger_of(), status=replace(STATUS, up=False, last_error=error))

    [line] = overview(tree(down))[1]

    assert line.rstrip().endswith("did you mean poll_interval?")


def test_state_file_that_cannot_be_written_comes_first_and_says_what_that_means() -> None:
    """Polls succeed, so the account is up; but what they find is not counted."""
    failure = CommitFailure(NOW - 300, "state file /s.db could not be written: the disk is full")
    unwritten = snapshot(ledger_of(), status=replace(STATUS, commit_failure=failure))
    down = snapshot(ledger_of(), account="two", status=replace(STATUS, up=False))

    alone, beside = tree(unwritten), tree(down, unwritten)

    told = (
        "state file /s.db could not be written: the disk is full. The first commit failed 5 min ago. Nothing new has"
        " been counted since then"
    )
    rest = ", and no alert reports failures. Once the file can be written, the exporter counts what it missed."
    assert overview(alone) == ("The state file cannot be written", [told + rest])
    assert next(next(alone.all("section")).all("h2")).attributes["class"] == "bad"
    assert account(alone)[0] == "up"
    assert account(alone)[4].endswith(" / nothing new counted since 5 min ago")
    assert overview(beside)[0] == "The state file cannot be written, 1 account cannot be polled"
    assert overview(beside)[1][0] == f"{told} for 1 account{rest}"


def test_state_file_that_cannot_be_written_is_shown_while_the_platform_does_not_respond() -> None:
    """Who only reads that the account cannot be polled may restart the exporter, and lose the counters."""
    failure = CommitFailure(NOW - 300, "state file /s.db could not be written: it was moved to /away.db")
    down = replace(STATUS, up=False, last_error="502 Bad Gateway", commit_failure=failure)

    headline, lines = overview(tree(snapshot(ledger_of(), status=down)))

    assert headline == "The state file cannot be written, 1 account cannot be polled"
    assert lines[0].startswith("state file /s.db could not be written: it was moved to /away.db. The first commit")
    assert "502 Bad Gateway" in lines[1]


@pytest.mark.parametrize(("state", "stuck"), [("submitted", False), ("running", True)])
def test_job_that_waits_for_its_start_is_not_stuck(state: str, *, stuck: bool) -> None:
    record = JobRecord("1", "copy", state, last_progress_at=NOW - STUCK_SECONDS - 1)

    assert is_stuck(record, NOW) is stuck


def test_account_that_waits_says_why_and_for_how_long() -> None:
    wait = Waiting(WaitReason.YIELDING, START, NOW + 240, next_step="none; polling continues by itself")
    yielding = replace(STATUS, waiting=wait)
    refused = replace(STATUS, up=False, last_error="refused", waiting=Waiting(WaitReason.TOKEN, START, None))

    page = tree(snapshot(ledger_of(), status=yielding))
    both = tree(snapshot(ledger_of(), status=yielding), snapshot(ledger_of(), account="two", status=refused))

    assert overview(page) == (
        "1 account waiting",
        [
            (
                "cavatica: not polled since 60 s ago, because other programs of the user have used up the rate limit."
                " Next step: none; polling continues by itself. Next request in 4 min."
            )
        ],
    )
    assert account(page)[0] == "up / waiting 4 min: other programs of the user have used up the rate limit"
    assert overview(both)[0] == "1 account cannot be polled, 1 account waiting"
    assert account(both, "two")[0].endswith("/ waiting: the account has no usable token of its user")
    invalid = replace(refused, waiting=Waiting(WaitReason.TOKEN, START, None, "its file is invalid"))
    assert account(tree(snapshot(ledger_of(), status=invalid)))[0].endswith("/ waiting: its file is invalid")


def test_account_that_fails_after_a_restart_says_when_it_was_last_counted() -> None:
    """Not that it was never polled: an earlier process did."""
    status = replace(STATUS, up=False, last_success=None, last_error="refused")
    written = replace(ledger_of(), wait_clock=WaitClock(START, START, START - 600, None))
    own = replace(ledger_of(), wait_clock=WaitClock(START, START, START + 1, None))

    page = tree(snapshot(written, status=status), snapshot(own, account="two", status=status))

    told = "no successful poll since the exporter began to poll it 60 s ago; its jobs were last counted 11 min ago"
    assert overview(page)[1] == [
        f"cavatica: cannot be polled, {told}: refused.",
        "two: cannot be polled, no successful poll yet: refused.",
    ]
    assert account(page)[0] == f"failing / {told} / refused"


def test_account_that_fails_says_what_to_do_and_when_it_is_tried_again() -> None:
    waiting = Waiting(WaitReason.TOKEN, START, NOW + 130, next_step="write a valid token")
    refused = replace(STATUS, up=False, last_error="the token is refused", waiting=waiting, last_success=START)

    assert overview(tree(snapshot(ledger_of(), status=refused))) == (
        "1 account cannot be polled",
        [
            (
                "cavatica: cannot be polled, last successful poll 60 s ago: the token is refused."
                " Next step: write a valid token. Next attempt in 2 min."
            )
        ],
    )


def test_longest_wait_comes_first_and_accounts_that_wait_come_before_the_others() -> None:
    def waiting(name: str, since: float) -> AccountSnapshot:
        wait = Waiting(WaitReason.MAINTENANCE, since, None)
        return snapshot(ledger_of(), account=name, status=replace(STATUS, waiting=wait))

    page = tree(snapshot(ledger_of(), account="well"), waiting("late", START + 50), waiting("early", START + 10))
    many = tree(*(waiting(f"a{each}", START) for each in range(8)))

    assert [line.partition(":")[0] for line in overview(page)[1]] == ["early", "late"]
    assert "not polled since 50 s ago, because the platform is under maintenance." in overview(page)[1][0]
    assert [row[0].partition(" ")[0] for row in rows(page, ACCOUNTS)] == ["late", "early", "well"]
    assert overview(many)[1][5:] == ["The same in 3 more accounts: see accounts."]


def test_wait_that_should_have_ended_is_not_negative() -> None:
    late = replace(STATUS, waiting=Waiting(WaitReason.ALLOWANCE, START, NOW - 5))

    assert account(tree(snapshot(ledger_of(), status=late)))[0].startswith("up / waiting 0 s: ")


def test_account_without_a_successful_poll_says_so() -> None:
    refused = replace(UNTRIED, up=False, last_error="refused", last_poll=START)

    assert overview(tree(snapshot(None, status=refused)))[1] == [
        "cavatica: cannot be polled, no successful poll yet: refused."
    ]


def test_failures_from_before_counting_began_are_no_problem() -> None:
    counted = LedgerFixture()
    counted.observe_listing(finished_job(START - 1000, failed=2), at=START + 20)

    page = tree(snapshot(counted.ledger))

    assert overview(page) == ("No problems since counting began; before: 1 job with failed files", [])
    assert rows(page, FAILED) == [
        [job_id(START - 1000), "cavatica", "copy", "partial", "2 of 10", "error codes unknown", "before counting began"]
    ]
    assert (
        "1 of these finished before counting began, and is in none of the overview's numbers."
        in section(page, FAILED).text
    )


@pytest.mark.parametrize("failed", [0, 1])
def test_jobs_with_failed_files_are_followed_by_the_command_that_lists_incomplete_and_lost_ones(failed: int) -> None:
    """Also where there are none: without failed files, those are the jobs to look for."""
    counted = LedgerFixture()
    counted.observe_listing(running_job(START - 60, failed=failed), at=START + 20)

    text = section(tree(snapshot(counted.ledger)), FAILED).text

    assert NOT_AMONG_FAILED in text
    assert "before counting began" not in text


def ended_short(*, copies: int = 1) -> LedgerFixture:
    """A ledger in which *copies* jobs are incomplete, and one is lost."""
    counted = LedgerFixture(complete=True)
    short = [
        job("finished", 10, 7, 0, job_id=job_id(START + 2, each), started=START, finished=START + 5)
        for each in range(copies)
    ]
    gone = running_job(START + 1, done=4, serial=copies)
    counted.observe(*short, gone, at=START + 10)
    counted.observe(*short, at=START + 20, unknown=[gone.id])
    counted.observe(*short, at=START + 80)
    counted.observe(at=START + 400, unknown=[gone.id])
    return counted


def test_incomplete_and_lost_jobs_have_a_table_that_says_why_and_since_when() -> None:
    counted = ended_short()

    page = tree(snapshot(counted.ledger), now=START + 430)

    incomplete, lost = job_id(START + 2), job_id(START + 1, 1)
    gone = "gone from the platform before it finished"
    assert rows(page, INCOMPLETE_OR_LOST) == [
        [lost, "cavatica", "copy", "lost", "4 of 10", gone, "30 s ago 2026-09-21 14:20:00 UTC"],
        [
            incomplete,
            "cavatica",
            "copy",
            "incomplete",
            "7 of 10",
            "3 of 10 files missing, none reported as failed",
            "7 min ago 2026-09-21 14:13:30 UTC",
        ],
    ]
    assert overview(page) == (
        "2 incomplete or lost jobs",
        [f"cavatica: 2 incomplete or lost jobs, the latest noticed 30 s ago: copy {lost}, lost: {gone}."],
    )
    assert NOT_AMONG_FAILED not in page.text
    assert section(page, INCOMPLETE_OR_LOST).text.endswith(f"Older ones are listed by {SHORT_COMMAND}.")


def test_table_of_incomplete_and_lost_jobs_is_there_only_if_there_are_any() -> None:
    counted = ended_short()
    later = START + 400 + DISPLAY.failed_job_window

    titles = [
        [each.text for each in tree(snapshot(ledger), now=now).all("h2")]
        for ledger, now in (
            (ledger_of(), NOW),
            (counted.ledger, later - 1),
            (counted.ledger, later),
        )
    ]

    assert [INCOMPLETE_OR_LOST in each for each in titles] == [False, True, False]


def test_table_of_incomplete_and_lost_jobs_keeps_to_job_series() -> None:
    counted = ended_short(copies=4)
    shown = snapshot(counted.ledger)

    some, none = tree(shown, now=START + 430, job_series=2), tree(shown, now=START + 430, job_series=0)

    assert [row[3] for row in rows(some, INCOMPLETE_OR_LOST)] == ["lost", "incomplete"]
    assert f"and 3 more: {SHORT_COMMAND} --account cavatica" in section(some, INCOMPLETE_OR_LOST).text
    assert rows(none, INCOMPLETE_OR_LOST)[0][0] == f"5 more: {SHORT_COMMAND} --account cavatica"


def test_job_that_was_lost_before_its_files_were_counted_shows_no_zeros() -> None:
    counted = LedgerFixture(complete=True)
    counted.observe(job("submitted", None, None, None), at=START + 10)
    for at in (START + 20, START + 330):
        counted.observe(at=at, unknown=["42"])

    page = tree(snapshot(counted.ledger), now=START + 430)

    assert [row[3:5] for row in rows(page, INCOMPLETE_OR_LOST)] == [["lost", "not known"]]


def test_jobs_incomplete_before_counting_began_are_no_problem() -> None:
    counted = LedgerFixture()
    early = job("finished", 10, 7, 0, job_id=job_id(START - 1000), started=START - 900, finished=START - 800)
    counted.observe_listing(early, at=START + 20)

    page = tree(snapshot(counted.ledger))

    assert overview(page) == ("No problems since counting began; before: 1 incomplete or lost job", [])
    assert [row[-1] for row in rows(page, INCOMPLETE_OR_LOST)] == ["before counting began"]


# ------------------------------------------------------------------------------------------------------------- the jobs


def test_account_not_polled_yet_shows_no_zeros() -> None:
    page = tree(snapshot(None, status=UNTRIED))

    assert account(page) == [
        "not polled yet",
        "none yet / every 30 s",
        "0 of 250 allowed",
        "no full listing yet",
        "not known yet",
    ]
    assert "of the rate limit" not in page.text
    for title in (FAILED, UNFINISHED, LISTED):
        assert "1 account not shown" in rows(page, title)[0][1]


def test_an_account_without_jobs_says_none() -> None:
    page = tree(snapshot(ledger_of()))

    assert account(page) == [
        "up",
        "30 s ago / every 30 s",
        "4 of 250 allowed / 991 left of the rate limit",
        "none",
        "0 of 0 completed, 0 failed / since 60 s ago",
    ]
    assert rows(page, ACCOUNTS)[0][0] == "cavatica rosalind at api.example.org/v2"
    assert rows(page, UNFINISHED) == rows(page, LISTED) == [["None."]]
    assert rows(page, FAILED) == [["None.", NOT_AMONG_FAILED]]


def test_account_polled_incrementally_shows_its_intervals() -> None:
    status = replace(STATUS, incremental_polling=True, full_listing_interval=21_600.0, detection_delay=90.0)

    assert account(tree(snapshot(ledger_of(), status=status)))[1] == (
        "30 s ago / every 30 s / incremental; full listing every 6 h / unfinished jobs checked within 90 s"
    )


@pytest.mark.parametrize(
    ("skew", "shown"),
    [
        (None, ""),
        (60.0, ""),
        (-60.0, ""),
        (7200.0, " / this machine's clock is 2 h behind the platform's"),
        (-61.0, " / this machine's clock is 61 s ahead of the platform's"),
    ],
)
def test_wrong_clock_of_this_machine_is_shown(skew: float | None, shown: str) -> None:
    status = replace(STATUS, clock_skew=skew)

    assert account(tree(snapshot(ledger_of(), status=status)))[1] == f"30 s ago / every 30 s{shown}"


def test_account_that_is_polled_less_often_than_configured_says_why() -> None:
    status = replace(STATUS, interval=120.0, allowance=10, slowed=True)

    shown = account(tree(snapshot(ledger_of(), status=status)))[1]

    assert shown == "30 s ago / every 2 min: its share of the rate limit is 10 requests in 5 min"


def test_platform_whose_clock_alone_is_wrong_is_named_instead_of_this_machine() -> None:
    def on(platform: str, skew: float | None) -> AccountSnapshot:
        status = replace(STATUS, clock_skew=skew)
        return replace(
            snapshot(ledger_of(), account=platform, status=status), endpoint=f"https://{platform}.example/v2"
        )

    page = tree(on("wrong", 3600.0), on("right", 1.0), on("unknown", None))
    twice = tree(
        on("wrong", -3600.0), on("a", 1.0), replace(on("b", 1.0), endpoint="https://a.example/v2"), on("c", 0.0)
    )

    platform = "30 s ago / every 30 s / the platform's clock is 60 min"
    assert account(page, "wrong")[1] == f"{platform} ahead of this machine's, with which 1 other platform agrees"
    assert account(twice, "wrong")[1] == f"{platform} behind this machine's, with which 2 other platforms agree"
    assert account(page, "right")[1] == "30 s ago / every 30 s"
    listed = "This machine's clock and that of the platform differ by 60 min: accounts says which one is wrong."
    assert overview(page) == ("A clock is wrong", [listed])
    assert overview(tree(on("right", 60.0), on("unknown", None))) == ("No problems", [])
    assert " by 60 min and less, in 2 accounts: " in overview(tree(on("a", 3600.0), on("b", -61.0)))[1][0]


def test_unfinished_and_failed_jobs_are_shown_with_details() -> None:
    counted = LedgerFixture()
    counted.observe_listing(
        running_job(START + 1, done=3, failed=1),
        finished_job(START + 2, failed=3, serial=1, errors=(("5001", 1), ("none", 2))),
        at=START + 30,
    )

    page = tree(snapshot(counted.ledger), now=NOW)

    assert rows(page, LISTED) == [["copy", "finished", "1", "10", "7", "3"], ["copy", "running", "1", "10", "3", "1"]]
    assert rows(page, UNFINISHED) == [
        [job_id(START + 1), "cavatica", "copy", "running", "4 of 10, 1 failed", "59 s ago", "30 s ago"]
    ]
    detected = "30 s ago 2026-09-21 14:13:50 UTC"
    assert rows(page, FAILED) == [
        [
            job_id(START + 2, 1),
            "cavatica",
            "copy",
            "partial",
            "3 of 10",
            "no code (2), 5001 no privilege on the file (1)",
            detected,
        ],
        [
            job_id(START + 1),
            "cavatica",
            "copy",
            "running",
            "1 of 10",
            "error codes appear when the job finishes",
            detected,
        ],
    ]
    assert account(page)[3:] == ["1 running, 1 finished", "10 of 20 completed, 4 failed / since 60 s ago"]


def test_several_accounts_share_the_tables() -> None:
    one, two = LedgerFixture(), LedgerFixture()
    one.observe_listing(running_job(START + 1, done=1), at=START + 20)
    two.observe_listing(running_job(START + 2, done=2), finished_job(START + 3, serial=1), at=START + 10)

    page = tree(snapshot(one.ledger, account="one"), snapshot(two.ledger, account="two"))

    assert [row[1] for row in rows(page, UNFINISHED)] == ["two", "one"], "the one that moved last comes last"
    assert rows(page, LISTED) == [["copy", "finished", "1", "10", "10", "0"], ["copy", "running", "2", "20", "3", "0"]]


def test_tables_are_readable_without_styles() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START + 1, done=4), finished_job(START, failed=1), at=START + 30)

    page = tree(snapshot(counted.ledger))

    assert [each.text for each in page.all("h1")] == ["sbg-exporter"]
    assert f"sbg-exporter {__version__}" in next(page.all("footer")).text
    tables = list(page.all("table"))
    assert len(tables) == 4
    for table in tables:
        assert len(list(table.all("caption"))) == 1
        [head] = table.all("thead")
        columns = list(head.all("th"))
        assert {each.attributes["scope"] for each in columns} == {"col"}
        for body in table.all("tbody"):
            for row in body.all("tr"):
                cells = [each for each in row.children if isinstance(each, Element)]
                assert (cells[0].tag, cells[0].attributes["scope"]) == ("th", "row")
                assert [each.attributes["data-label"] for each in cells[1:]] == [each.text for each in columns[1:]]


@pytest.mark.parametrize(
    ("total", "done", "bar"), [(10, 4, ("10", "4")), (0, 1, ("1", "1")), (2, 5, ("2", "2")), (5000, 0, ("5000", "0"))]
)
def test_progress_bar_stays_within_its_bounds(total: int, done: int, bar: tuple[str, str]) -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START, total=total, done=done), at=START + 30)

    page = tree(snapshot(counted.ledger))

    [shown] = page.all("progress")
    assert shown.attributes == {
        "max": bar[0],
        "value": bar[1],
        "aria-label": f"Progress of job {job_id(START)}",
    }
    assert f"{done} of {total:,}" in page.text


def test_job_without_known_files_shows_no_progress() -> None:
    counted = LedgerFixture()
    counted.observe_listing(Job(job_id(START), "copy", "submitted", 0, 0, 0), at=START + 30)

    page = tree(snapshot(counted.ledger))

    assert rows(page, UNFINISHED)[0][3:5] == ["submitted", "not known yet"]
    assert not list(page.all("progress"))


def test_finished_job_with_missing_files_is_settling() -> None:
    counted = LedgerFixture()
    counted.observe_listing(Job(job_id(START), "copy", "finished", 10, 4, 0, START + 2, START + 9), at=START + 30)

    page = tree(snapshot(counted.ledger))
    [row] = rows(page, UNFINISHED)

    assert row[3:5] == ["finished, settling", "4 of 10"]
    [state] = [each for each in page.all("span") if each.text == "finished, settling"]
    assert state.attributes["title"].startswith("finished with fewer files than expected")


def test_problems_are_coloured_by_severity() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START, done=4), at=START + 30)
    counted.observe_listing(running_job(START, done=4), finished_job(START, failed=3, serial=1), at=START + 60)
    late = tree(snapshot(counted.ledger, gauges_until=START + 9000), now=START + 3630)

    def toned(name: str) -> set[str]:
        return {each.text for tag in ("span", "h2") for each in late.all(tag) if each.attributes.get("class") == name}

    assert toned("bad") == {"1 job with failed files, 1 job without progress", "3 of 10", "3", "3\u00a0failed"}
    assert toned("warning") == {"60 min ago"}


def test_stuck_jobs_alone_are_a_warning() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START, done=4), at=START + 30)

    heading = next(tree(snapshot(counted.ledger, gauges_until=START + 9000), now=START + 3630).all("h2"))

    assert (heading.text, heading.attributes["class"]) == ("1 job without progress", "warning")


def test_job_that_was_not_looked_at_for_long_is_not_called_stuck() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START, done=4), at=START + 30)
    late = snapshot(counted.ledger, status=replace(STATUS, detection_delay=3600.0), gauges_until=START + 9000)

    page = tree(late, now=START + 3630)

    assert "without progress" not in next(page.all("h2")).text


def test_error_codes_are_explained_if_there_are_any() -> None:
    counted = LedgerFixture()
    before = tree(snapshot(counted.ledger))
    counted.observe_listing(finished_job(START, failed=3), at=START + 30)
    after = tree(snapshot(counted.ledger))

    assert CODES not in [link.attributes["href"] for link in before.all("a")]
    assert CODES in [link.attributes["href"] for link in after.all("a")]
    assert "sbg-exporter job ID names the files that failed" in after.text


# --------------------------------------------------------------------------------------------------------------- bounds


def test_jobs_beyond_job_series_are_counted() -> None:
    counted = LedgerFixture()
    counted.observe_listing(*(running_job(START + each, failed=1, serial=each) for each in range(5)), at=START + 30)

    some = tree(snapshot(counted.ledger), job_series=2)
    none = tree(snapshot(counted.ledger), job_series=0)

    assert [row[0] for row in rows(some, UNFINISHED)] == [job_id(START), job_id(START + 1, 1)]
    assert section(some, UNFINISHED).text.endswith("and 3 more: sbg-exporter jobs --unfinished --account cavatica")
    assert rows(none, UNFINISHED) == [["5 more: sbg-exporter jobs --unfinished --account cavatica"]]
    assert rows(none, FAILED) == [["5 more: sbg-exporter jobs --failed --account cavatica", NOT_AMONG_FAILED]]


def test_one_account_s_jobs_leave_room_for_those_of_the_others() -> None:
    many, few = LedgerFixture(), LedgerFixture()
    many.observe_listing(*(running_job(START + each, failed=1, serial=each) for each in range(80)), at=START + 30)
    few.observe_listing(running_job(START, failed=1, serial=99), at=START + 40)
    others = [snapshot(few.ledger, account=f"few {each}") for each in range(4)]

    page = tree(snapshot(many.ledger, account="many of them"), *others)

    for title, option in ((FAILED, "--failed"), (UNFINISHED, "--unfinished")):
        shown = [row[1] for row in rows(page, title)]
        assert (shown.count("many of them"), len(shown)) == (10, 14)
        command = f"sbg-exporter jobs {option} --account 'many of them'"
        assert f"and 70 more of many of them: {command}" in section(page, title).text


def test_accounts_come_before_the_jobs() -> None:
    titles = [each.text for each in tree(snapshot(ledger_of())).all("h2")]

    assert titles == ["No problems", ACCOUNTS, FAILED, UNFINISHED, LISTED]


def test_an_accounts_own_job_series_bounds_its_jobs_only() -> None:
    counted = LedgerFixture()
    counted.observe_listing(*(running_job(START + each, failed=1, serial=each) for each in range(5)), at=START + 30)
    display = replace(DISPLAY, job_series=2, own_job_series={"all": 4, "none": 0})

    view = status_view([snapshot(counted.ledger, account=name) for name in ("all", "none", "usual")], display, NOW)

    for table in (view.failed_jobs, view.unfinished_jobs):
        shown = [row.account.name for row in table.rows]
        assert [shown.count(name) for name in ("all", "none", "usual")] == [4, 0, 2]
        assert {each.account.name: each.jobs for each in table.hidden if each.account} == {
            "all": 1,
            "none": 5,
            "usual": 3,
        }


def test_a_page_of_very_many_accounts_keeps_its_bounds() -> None:
    counted = LedgerFixture()
    counted.observe_listing(*(running_job(START + each, failed=1, serial=each) for each in range(3)), at=START - 3600)
    failing = replace(STATUS, up=False, last_error="no answer")

    page = tree(
        *(snapshot(counted.ledger, account=f"a{each}", status=failing) for each in range(300)), job_series=1_000_000
    )

    assert len(rows(page, FAILED)) == len(rows(page, UNFINISHED)) == 100
    assert section(page, FAILED).text.count("more of a") == 5
    assert "and 3 more of a100: sbg-exporter jobs --failed --account a100" in section(page, FAILED).text
    assert "and 785 more of other accounts: sbg-exporter jobs --failed" in section(page, FAILED).text
    headline, said = overview(page)
    assert headline == "300 accounts cannot be polled, 900 jobs with failed files, 900 jobs without progress"
    assert said[5::6] == ["The same in 295 more accounts: see accounts."] * 3
    assert len(rows(page, ACCOUNTS)) == 300


# ------------------------------------------------------------------------------------------------ refreshes by itself


def refreshes(page: Element) -> list[str]:
    return [each.attributes["content"] for each in page.all("meta") if each.attributes.get("http-equiv") == "refresh"]


def targets(page: Element) -> dict[str, str]:
    return {each.text: each.attributes["href"] for each in page.all("a")}


@pytest.mark.parametrize(("intervals", "seconds"), [((30.0, 90.0), "60"), ((90.0, 120.0), "90"), ((3600.0,), "300")])
def test_page_refreshes_as_often_as_accounts_are_polled_but_leaves_time_to_read(
    intervals: tuple[float, ...], seconds: str
) -> None:
    accounts = [
        snapshot(ledger_of(), account=f"a{interval}", status=replace(STATUS, interval=interval))
        for interval in intervals
    ]

    assert refreshes(tree(*accounts)) == [seconds]


def test_page_without_anything_to_read_refreshes_soon() -> None:
    assert refreshes(tree()) == refreshes(tree(snapshot(None, status=UNTRIED))) == ["10"]
    assert refreshes(tree(snapshot(None, status=UNTRIED), snapshot(ledger_of(), account="b"))) == ["60"]


def test_refreshing_can_be_stopped_and_stays_so_when_the_page_is_loaded_again() -> None:
    on, off = tree(snapshot(ledger_of())), tree(snapshot(ledger_of()), refreshing=False)

    assert "This page refreshes every 60 s. Stop refreshing" in on.text
    assert (targets(on)["Stop refreshing"], targets(on)["Update now"]) == ("?refresh=off", ".")
    assert refreshes(off) == []
    assert "This page does not refresh by itself. Refresh every 60 s" in off.text
    assert (targets(off)["Refresh every 60 s"], targets(off)["Update now"]) == (".", "?refresh=off")


def test_icon_is_part_of_the_page_and_shows_problems() -> None:
    failing = replace(STATUS, up=False, last_error="no answer")
    waiting = replace(STATUS, waiting=Waiting(WaitReason.ALLOWANCE, START, None))

    icons = [
        next(tree(snapshot(ledger_of(), status=status)).all("link")).attributes["href"]
        for status in (STATUS, UNTRIED, waiting, failing)
    ]

    assert len(set(icons)) == 4
    for each in icons:
        kind, _, image = each.partition(",")
        assert kind == "data:image/svg+xml"
        assert ET.fromstring(unquote(image)).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  # ours
    assert "img-src data:;" in CONTENT_SECURITY_POLICY


# --------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (86400, "24 h"), (172800, "2 d")],
)
def test_ages_use_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    page = tree(snapshot(ledger_of()), now=START + 30.5 + seconds)

    assert account(page)[1].startswith(f"{text} ago / ")


def test_every_age_has_its_timestamp() -> None:
    counted = LedgerFixture()
    counted.observe_listing(running_job(START, done=4, failed=1), at=START + 30)

    times = list(tree(snapshot(counted.ledger)).all("time"))

    assert {each.attributes["title"] for each in times if each.text.endswith("ago")} >= {"2026-09-21 14:13:20 UTC"}
    for each in times:
        written = each.attributes.get("title", each.text)
        assert each.attributes["datetime"] == written.replace(" UTC", "Z").replace(" ", "T")


def test_the_username_can_be_hidden() -> None:
    assert "rosalind" not in tree(snapshot(ledger_of()), show_username=False).text


@pytest.mark.parametrize("now", [NOW, START + 9000])
def test_no_outside_text_becomes_markup(now: float) -> None:
    counted = LedgerFixture(username=EVIL)
    counted.observe_listing(
        Job(f"1{EVIL}", EVIL, EVIL, 4, 1, 1),
        Job(f"2{EVIL}", "copy", "finished", 4, 0, 2, START, START + 1, errors=(("<b>", 2),)),
        at=START + 30,
    )
    counted.observe(job("finished", 4, 1, 0, job_id=f"3{EVIL}", operation=EVIL, finished=START + 1), at=START + 30)
    counted.observe(job("finished", 4, 1, 0, job_id=f"3{EVIL}", operation=EVIL, finished=START + 1), at=START + 95)
    failing = replace(STATUS, up=False, last_error=EVIL, username=EVIL)
    shown = snapshot(counted.ledger, account=EVIL, status=failing, gauges_until=START + 10_000)

    page = tree(replace(shown, endpoint=f"https://{EVIL}/"), now=now)

    headline, said = overview(page)
    assert ("1 job without progress" in headline) is (now > NOW)
    assert all(line.count(EVIL) >= 2 for line in said)
    assert page.text.count(EVIL) >= 15
    assert rows(page, INCOMPLETE_OR_LOST)[0][0] == f"3{EVIL}"
    assert "<b> (2)" in page.text
    assert not list(page.all("b"))


@pytest.mark.parametrize("template", ["{% if %}", "{{ page.now | no_such_filter }}", "{{ no_such_name }}"])
def test_broken_template_fails_when_the_page_is_built(template: str) -> None:
    with pytest.raises(TemplateError):
        StatusPage(DISPLAY, DictLoader({"status.html.j2": template}))


def test_stuck_jobs_are_those_of_the_alert() -> None:
    rules = yaml.safe_load((Path(__file__).parents[2] / "deploy/prometheus/sbg-exporter.rules.yml").read_text())
    [alert] = [rule for group in rules["groups"] for rule in group["rules"] if rule.get("alert") == "SbgJobStuck"]

    assert re.findall(r"progress_timestamp_seconds:max > (\d+)", alert["expr"]) == [f"{STUCK_SECONDS:.0f}"]


@pytest.mark.fault(
    "a password that is a word of the page's markup, such as `class`",
    action="masks it in names and messages alone",
    shown="the whole page",
    recovery="none needed",
    part="The metrics server and other outputs",
)
def test_a_secret_is_masked_in_texts_and_not_in_markup() -> None:
    Secret("aria-labelledby")  # stands in the markup, and nowhere else

    page = StatusPage(DISPLAY).render([snapshot(None, account="aria-labelledby")], NOW)

    assert page.count('aria-labelledby="') == page.count("<section ")
    assert not re.search(r"aria-labelledby(?!=)", page)
    assert MASK in page


def test_a_secret_with_characters_of_markup_is_masked() -> None:
    Secret("p&ss<w0rd>")

    assert "ss&lt;w0rd" not in StatusPage(DISPLAY).render([snapshot(None, account="is p&ss<w0rd>")], NOW)
