"""The status page is whole HTML that needs no scripts, no styles and nothing from outside."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import pytest

from exporter import __version__
from exporter.metrics.snapshot import Picture
from exporter.metrics.status_page import status_page
from exporter.platform.jobs import Job
from tests.pictures import DISPLAY, POLLING, START, UNTRIED, Ledger, finished, job_id, picture, running

NOW = START + 60
CODES = "https://docs.sevenbridges.com/docs/api-status-codes"
VOID = {"meta", "br", "link", "img", "input", "hr"}
EVIL = "<script>alert(\"1\")</script> & 'more'"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    def all(self, tag: str) -> "Iterator[Element]":
        for each in self.children:
            if isinstance(each, Element):
                if each.tag == tag:
                    yield each
                yield from each.all(tag)


class Strict(HTMLParser):
    """Builds the tree; whatever is not closed by its own tag is an error."""

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


def tree(*pictures: Picture, now: float = NOW, job_series: int = 50, show_username: bool = True) -> Element:
    """The page of *pictures*, parsed, after the checks that every page must pass."""
    display = replace(DISPLAY, job_series=job_series, show_username=show_username)
    page = status_page(pictures, display, now)
    parser = Strict()
    parser.feed(page)
    parser.close()
    [root] = parser.open
    assert parser.declarations == ["doctype html"]
    [html] = [each for each in root.children if isinstance(each, Element)]
    assert (html.tag, html.attributes) == ("html", {"lang": "en"})
    assert next(html.all("meta")).attributes.get("charset") == "utf-8"
    for tag in ("script", "link", "img", "iframe", "object", "form", "base"):
        assert not list(html.all(tag))
    for link in html.all("a"):
        assert link.attributes["href"] in {"/metrics", "/-/healthy", "/-/ready", CODES}
    for style in html.all("style"):
        assert "url(" not in style.text
        assert "@import" not in style.text
    assert not [name for each in html.all("*") for name in each.attributes if name.startswith("on")]
    return html


def section(page: Element, account: str) -> Element:
    [found] = [each for each in page.all("section") if next(each.all("h2")).text == account]
    return found


def rows(under: Element, title: str) -> list[list[str]]:
    """The cells below a heading; the words instead of a table where there is none."""
    children = [each for each in under.children if isinstance(each, Element)]
    at = next(place for place, each in enumerate(children) if each.tag == "h3" and each.text == title)
    below = children[at + 1]
    if below.tag == "p":
        return [[below.text]]
    return [
        [cell.text for cell in row.children if isinstance(cell, Element)]
        for body in below.all("tbody")
        for row in body.all("tr")
    ]


def test_before_any_account_was_tried_it_says_so() -> None:
    assert "No account has been tried yet." in tree().text


def test_an_account_that_was_not_reached_yet_shows_nothing_as_zero() -> None:
    shown = section(tree(picture(None, polling=UNTRIED)), "cavatica")

    assert "State: not tried yet." in shown.text
    assert "Last poll" not in shown.text
    assert "the platform has" not in shown.text
    assert rows(shown, "Jobs that the platform lists") == [["No complete listing yet."]]
    assert rows(shown, "Unfinished jobs") == rows(shown, "Latest failed jobs") == [["Not known yet."]]


def test_an_account_without_jobs_says_none() -> None:
    shown = section(tree(picture(Ledger().book)), "cavatica")

    assert "State: up." in shown.text
    assert "Endpoint: https://api.example.org/v2 as rosalind." in shown.text
    assert "Last poll: 2026-09-21 14:13:50 UTC, 30 s ago." in shown.text
    assert "Requests in this window: 4 of 250 allowed; the platform has 991 left for the user." in shown.text
    assert rows(shown, "Unfinished jobs") == rows(shown, "Latest failed jobs") == [["None."]]


def test_unfinished_and_failed_jobs_are_shown_with_what_is_known_of_them() -> None:
    counted = Ledger()
    counted.see(finished(START - 1000, failed=2, serial=9), at=START + 20)
    counted.see(
        running(START + 1, done=3, failed=1),
        finished(START + 2, failed=3, serial=1, errors=(("4007", 1), ("none", 2))),
        finished(START - 1000, failed=2, serial=9),
        at=START + 30,
    )

    shown = section(tree(picture(counted.book), now=NOW), "cavatica")

    assert rows(shown, "Jobs that the platform lists") == [
        ["copy", "finished", "2", "20", "15", "5"],
        ["copy", "running", "1", "10", "3", "1"],
    ]
    assert rows(shown, "Unfinished jobs") == [
        [job_id(START + 1), "copy", "running", "1", " 4 of 10, 1 failed", "30 s ago"]
    ]
    detected = "2026-09-21 14:13:50 UTC"
    assert rows(shown, "Latest failed jobs") == [
        [job_id(START + 2, 1), "copy", "partial", "3", "7", "none (2), 4007 (1)", detected],
        [job_id(START + 1), "copy", "running", "1", "3", "not known", detected],
        [job_id(START - 1000, 9), "copy", "partial", "2", "8", "not known", "before counting began"],
    ]


def test_tables_are_readable_without_styles() -> None:
    counted = Ledger()
    counted.see(running(START + 1, done=4), finished(START, failed=1), at=START + 30)

    page = tree(picture(counted.book))

    assert [each.text for each in page.all("h1")] == [f"sbg-exporter {__version__}"]
    tables = list(page.all("table"))
    assert len(tables) == 3
    for table in tables:
        [head] = table.all("thead")
        columns = list(head.all("th"))
        assert {each.attributes["scope"] for each in columns} == {"col"}
        for body in table.all("tbody"):
            for row in body.all("tr"):
                cells = [each for each in row.children if isinstance(each, Element)]
                assert len(cells) == len(columns)
                assert (cells[0].tag, cells[0].attributes["scope"]) == ("th", "row")
    assert [[cell.text for cell in head.all("th")] for table in tables[1:] for head in table.all("thead")] == [
        ["Job", "Operation", "State", "Failed", "Files done", "Last moved"],
        ["Job", "Operation", "Outcome", "Failed", "Completed", "Errors by code", "Detected"],
    ]
    [bar] = page.all("progress")
    assert bar.attributes == {
        "max": "10",
        "value": "4",
        "aria-label": f"Progress of job {job_id(START + 1)}",
    }


@pytest.mark.parametrize(("total", "done", "bar"), [(0, 1, ("1", "1")), (2, 5, ("2", "2"))])
def test_a_progress_bar_stays_within_its_bounds_whatever_the_platform_says(
    total: int, done: int, bar: tuple[str, str]
) -> None:
    counted = Ledger()
    counted.see(running(START, total=total, done=done), at=START + 30)

    page = tree(picture(counted.book))

    [shown] = page.all("progress")
    assert (shown.attributes["max"], shown.attributes["value"]) == bar
    assert f"{done} of {total}" in page.text


def test_a_job_of_which_no_file_is_known_yet_is_not_shown_as_nothing_of_nothing() -> None:
    counted = Ledger()
    counted.see(Job(job_id(START), "copy", "submitted", 0, 0, 0), at=START + 30)

    page = tree(picture(counted.book))

    assert rows(section(page, "cavatica"), "Unfinished jobs") == [
        [job_id(START), "copy", "submitted", "0", "not known yet", "30 s ago"]
    ]
    assert not list(page.all("progress"))


def test_a_finished_job_with_files_unaccounted_for_is_settling() -> None:
    counted = Ledger()
    counted.see(Job(job_id(START), "copy", "finished", 10, 4, 0, START + 2, START + 9), at=START + 30)

    [row] = rows(section(tree(picture(counted.book)), "cavatica"), "Unfinished jobs")

    assert row[2:5] == ["finished, settling", "0", " 4 of 10"]


def test_failed_files_stand_out_and_times_do_not_wrap() -> None:
    counted = Ledger()
    counted.see(running(START + 1, done=4), finished(START, failed=3), at=START + 30)

    page = tree(picture(counted.book))

    cells = [(cell.text, cell.attributes.get("class")) for cell in page.all("td")]
    assert ("3", "n bad") in cells
    assert ("0", "n") in cells
    assert {kind for text, kind in cells if text.endswith((" ago", " UTC"))} == {"t"}
    assert ".t { white-space: nowrap; }" in next(page.all("style")).text


def test_it_tells_what_was_counted_since_when_and_what_the_codes_mean() -> None:
    counted = Ledger()
    before = tree(picture(counted.book))
    counted.see(running(START + 1, done=4, failed=1), finished(START, failed=3), at=START + 30)

    after = tree(picture(counted.book))

    assert "Counting since: 2026-09-21 14:13:20 UTC." in before.text
    assert "Files counted since then: 0 completed, 0 failed, of 0." in before.text
    assert CODES not in [link.attributes["href"] for link in before.all("a")]
    assert "Files counted since then: 11 completed, 4 failed, of 20." in after.text
    assert CODES in [link.attributes["href"] for link in after.all("a")]


def test_it_loads_itself_again_by_and_by() -> None:
    assert [each.attributes for each in tree().all("meta") if "http-equiv" in each.attributes] == [
        {"http-equiv": "refresh", "content": "30"}
    ]


def test_jobs_beyond_job_series_are_counted() -> None:
    counted = Ledger()
    counted.see(*(running(START + each, failed=1, serial=each) for each in range(5)), at=START + 30)

    some = section(tree(picture(counted.book), job_series=2), "cavatica")
    none = section(tree(picture(counted.book), job_series=0), "cavatica")

    assert [row[0] for row in rows(some, "Unfinished jobs")] == [job_id(START), job_id(START + 1, 1)]
    assert some.text.count("3 more not shown here.") == 2
    assert rows(none, "Unfinished jobs") == [["5 more not shown here."]]


def test_several_accounts_each_have_their_section() -> None:
    page = tree(picture(Ledger().book, account="one"), picture(None, account="two", polling=UNTRIED))

    assert [heading.text for heading in page.all("h2")] == ["one", "two"]


def test_a_failing_account_says_why_and_since_when() -> None:
    failing = replace(POLLING, up=False, fault="the platform did not answer", last_poll=START + 7300, username=None)

    shown = section(tree(picture(Ledger().book, polling=failing), now=START + 7330), "cavatica")

    assert "State: failing: the platform did not answer." in shown.text
    assert "Last good answer: 2026-09-21 14:13:50 UTC, 2 h ago." in shown.text
    assert "as rosalind" in shown.text, "the ledger remembers whose it is"
    assert rows(shown, "Jobs that the platform lists") == [["The last good answer is too old."]]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (3600, "1 h ago"), (86400 * 3, "3 d ago")],
)
def test_ages_are_told_in_their_largest_unit(seconds: float, text: str) -> None:
    page = tree(picture(Ledger().book), now=START + 30.5 + seconds)

    assert f"UTC, {text}." in page.text


def test_the_username_can_be_hidden() -> None:
    assert "rosalind" not in tree(picture(Ledger().book), show_username=False).text


def test_nothing_that_comes_from_outside_becomes_markup() -> None:
    counted = Ledger(username=EVIL)
    counted.see(
        Job(f"1{EVIL}", EVIL, EVIL, 4, 1, 1),
        Job(f"2{EVIL}", "copy", "finished", 4, 0, 2, START, START + 1, errors=(("<b>", 2),)),
        at=START + 30,
    )
    failing = replace(POLLING, up=False, fault=EVIL, username=EVIL)
    shown = replace(picture(counted.book, account=EVIL, polling=failing), endpoint=f"https://{EVIL}/")

    page = tree(shown)

    assert section(page, EVIL).text.count(EVIL) >= 8
    assert "<b> (2)" in page.text
    assert {each.tag for each in page.all("b")} == set()
