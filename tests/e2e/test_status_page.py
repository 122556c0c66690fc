"""The status page in a real browser: on a phone and on a wall, by day and by night, without scripts, read aloud."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect, sync_playwright

from exporter.metrics.snapshot import AccountSnapshot
from exporter.simulator.scripts import JobScript
from exporter.simulator.server import QUIET, running
from exporter.web.app import application
from exporter.web.page import CONTENT_SECURITY_POLICY, StatusPage
from exporter.web.server import bound_sockets, serving
from tests.clocks import START
from tests.factories import finished_job, job, job_id, running_job
from tests.harness import Account, Installation
from tests.ledgers import LedgerFixture
from tests.snapshots import DISPLAY, STATUS, UNTRIED, exposition, snapshot
from tests.tools import tool
from tests.waiting import eventually

pytestmark = pytest.mark.tools("chromium")

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = "a_name_that_is_as_long_as_a_name_can_be_and_has_no_place_where_it_could_be_broken_" * 2
NOW = START + 7200
ADVANCES = 40.0
"""Simulated seconds after the submission of the jobs; the clock stands still otherwise."""
FAILS = JobScript(total=12, failed=3, errors={"5002": 2, "10223": 1}, queued=1, resolving=1, running=8)
HANGS = JobScript(total=10, failed=1, queued=1, resolving=1, running=10, hangs_after=7)


@dataclass
class Shown:
    """A page that was loaded, and what became of it."""

    page: Page
    said: list[str] = field(default_factory=list)
    """On the console: errors, and what the policy refused."""
    asked: list[str] = field(default_factory=list)
    """The addresses of all requests."""


Show = Callable[..., Shown]


@dataclass(frozen=True)
class Served:
    """A daemon that watches an account with a failed job and one that hangs, and one whose token is refused."""

    url: str
    failed: str
    hanging: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=tool("chromium"), args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(replace(QUIET, speed=0.0)) as simulator:
        accounts = Account.at(simulator, "works"), Account.at(simulator, "refused", token="f" * 32)
        with Installation(tmp_path_factory.mktemp("page") / "place", *accounts) as place, place.running() as started:
            failed, hanging = simulator.platform.submit(FAILS), simulator.platform.submit(HANGS)
            simulator.platform.advance(ADVANCES)
            started.scrape_when(
                lambda now: (
                    now.series("sbg_failed_job_errors")
                    and now.value("sbg_unfinished_job_files_failed", account="works", operation="copy", job_id=hanging)
                )
            )
            yield Served(started.url, failed, hanging)


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    contexts = []

    def loaded(
        url: str,
        width: int = 1280,
        *,
        scripts: bool = True,
        route: Callable[[Route], None] | None = None,
    ) -> Shown:
        viewport = ViewportSize(width=width, height=800)
        context = browser.new_context(viewport=viewport, java_script_enabled=scripts)
        contexts.append(context)
        shown = Shown(context.new_page())
        shown.page.on("console", lambda message: shown.said.append(message.text))
        shown.page.on("pageerror", lambda error: shown.said.append(str(error)))
        shown.page.on("request", lambda request: shown.asked.append(request.url))
        if route is not None:
            shown.page.route("**/*", route)
        answer = shown.page.goto(url)
        assert answer is not None
        assert answer.status == 200
        return shown

    yield loaded
    for context in contexts:
        context.close()


# ----------------------------------------------------------------------------------- pages that no simulator makes soon


def account(number: int, name: str = "") -> AccountSnapshot:
    """An account with jobs of all kinds, some of them longer than they should be; every fifth is failing."""
    counted, status = (
        LedgerFixture(username=f"user-{number}"),
        replace(STATUS, last_poll=NOW - 5, last_success=NOW - 5),
    )
    still = running_job(NOW - 5000, total=120_000, done=70_000, serial=number)
    counted.observe_listing(still, at=NOW - 4000)
    counted.observe_listing(
        still,
        running_job(NOW - 300, done=number % 10, failed=1, serial=number),
        finished_job(NOW - 600, failed=3, errors=tuple((f"{5000 + each}", 1) for each in range(12)), serial=number),
        at=NOW - 30,
    )
    if number % 5 == 3:
        status = replace(status, up=False, last_error=f"the platform refuses the token: {LONG}", last_success=NOW - 900)
    return snapshot(
        counted.ledger,
        account=name or f"account-{number}",
        status=status,
        gauges_until=NOW + 60 - number % 5 // 3 * 90,
    )


PAGES: dict[str, list[AccountSnapshot]] = {
    "no data": [],
    "untried": [snapshot(None, status=UNTRIED)],
    "nothing wrong": [
        snapshot(LedgerFixture().ledger, status=replace(STATUS, last_poll=NOW - 5), gauges_until=NOW + 60)
    ],
    "one account": [account(1, LONG)],
    "ten accounts": [account(number) for number in range(10)],
    "500 accounts": [account(number) for number in range(500)],
}


@contextmanager
def served(snapshots: list[AccountSnapshot]) -> Iterator[str]:
    """The address of the page of *snapshots*, with the headers that the exporter sends."""
    page = StatusPage(DISPLAY)
    app = application(
        exposition(*snapshots),
        unhealthy=str,
        unready=str,
        status_page=lambda refreshing: page.render(snapshots, NOW, refreshing=refreshing),
    )
    with serving(app, bound_sockets("127.0.0.1", 0)) as port:
        yield f"http://127.0.0.1:{port}"


WIDTHS: Final = (360, 1280, 1920)
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")


# --------------------------------------------------------------------------------------------------------- what is seen

CONTRASTS = """() => {
  const channel = value => (value /= 255) <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const known = new Map();
  const behind = element => {
    if (!element) throw new Error('nothing is painted behind the text');
    if (!known.has(element)) {
      const found = colour(getComputedStyle(element).backgroundColor);
      known.set(element, found.length < 4 || found[3] === 1 ? found : behind(element.parentElement));
    }
    return known.get(element);
  };
  const ratio = (element, style) => {
    const [low, high] = [light(colour(style.color)), light(behind(element))].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const says = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (says) found.push([ratio(element, getComputedStyle(element)), element.textContent]);
    const before = getComputedStyle(element, '::before');
    if (before.content !== 'none') found.push([ratio(element, before), before.content]);
  }
  return [found.length, found.filter(([ratio]) => ratio < 4.5)];
}"""


def assert_readable(page: Page) -> None:
    """At any width nothing is wider than the window, and by day and by night all text stands out (WCAG 2, AA)."""
    for width, scheme in itertools.product(WIDTHS, SCHEMES):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        texts, too_weak = page.evaluate(CONTRASTS)
        assert texts > 5
        assert too_weak == []


def test_it_is_readable_at_any_width_by_day_and_by_night(show: Show, daemon: Served) -> None:
    shown = show(daemon.url)

    assert_readable(shown.page)
    assert shown.said == []
    assert shown.asked == [f"{daemon.url}/"]
    assert shown.page.title() == "1 account cannot be polled, 2 jobs with failed files · sbg-exporter"


@pytest.mark.parametrize("name", PAGES)
def test_it_is_readable_whatever_there_is_to_show(show: Show, name: str) -> None:
    with served(PAGES[name]) as url:
        shown = show(url)

        assert_readable(shown.page)
        assert shown.said == []


@pytest.mark.parametrize("width", [1040, 1100, 1280])
def test_names_and_outcomes_are_not_broken_where_there_is_room_for_them(show: Show, width: int) -> None:
    short, counted = job("finished", 10, 7, 0, job_id=job_id(NOW - 900), finished=NOW - 800), LedgerFixture()
    for at in (NOW - 800, NOW - 400):
        counted.observe_listing(short, at=at)
    another = snapshot(counted.ledger, account="another", status=STATUS, gauges_until=NOW + 60)
    with served([account(1, "cgc-proteomics"), another]) as url:
        page = show(url, width).page
        outcomes = page.locator("td[data-label=Outcome] .warning")
        assert outcomes.all_inner_texts() == ["incomplete"]
        assert outcomes.evaluate_all("words => words.map(word => word.getClientRects().length)") == [1]

        names = page.locator("td").get_by_role("link", name="cgc-proteomics")
        lines = names.evaluate_all("links => links.map(link => link.getClientRects().length)")
        wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")

    assert lines == [1, 1, 1, 1]
    assert wide <= room


def test_what_is_wrong_is_on_the_first_screen_of_a_phone_however_many_accounts_there_are(show: Show) -> None:
    with served(PAGES["500 accounts"]) as url:
        page = show(url, 360).page

        first = page.get_by_role("list", name="Problems").get_by_role("listitem").first
        box = first.bounding_box()

    assert box is not None
    assert box["y"] + box["height"] < 800


def test_the_same_is_there_without_scripts(show: Show, daemon: Served) -> None:
    shown = show(daemon.url, scripts=False)

    assert shown.page.get_by_role("row").count() == 11
    problems = shown.page.get_by_role("list", name="Problems").get_by_role("listitem").all_inner_texts()
    assert problems[0].startswith("refused: cannot be polled, no successful poll yet: ")
    assert problems[1].startswith("works: 2 jobs with failed files")
    assert shown.said == []


# --------------------------------------------------------------------------------------------------- what is read aloud


@dataclass(frozen=True)
class Heard:
    """A node of Chromium's accessibility tree."""

    role: str
    name: str
    value: object


def heard(page: Page) -> list[Heard]:
    """What Chromium tells a screen reader, in the order of the page."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    return [
        Heard(*(node.get(key, {}).get("value", "") for key in ("role", "name", "value")))
        for node in nodes
        if not node["ignored"]
    ]


@pytest.mark.parametrize("width", [360, 1280])
def test_a_screen_reader_finds_its_way(show: Show, daemon: Served, width: int) -> None:
    told = heard(show(daemon.url, width).page)

    def names(role: str) -> list[str]:
        return [each.name for each in told if each.role == role]

    assert {role: len(names(role)) for role in ("banner", "navigation", "main", "contentinfo")} == {
        "banner": 1,
        "navigation": 1,
        "main": 1,
        "contentinfo": 1,
    }
    sections = [
        "1 account cannot be polled, 2 jobs with failed files",
        "Accounts",
        "Jobs with failed files",
        "Unfinished jobs",
        "Jobs that the platform lists",
    ]
    assert names("region") == sections
    assert names("heading") == ["sbg-exporter", *sections]
    assert names("table") == [
        "Accounts with problems first.",
        "Running, or finished within 24 h; latest detection first.",
        "Longest without progress first.",
        "By operation and state, all accounts together.",
    ]
    assert names("columnheader")[6:13] == [
        "Job",
        "Account",
        "Operation",
        "Outcome",
        "Failed files",
        "Errors by code",
        "Detected",
    ]
    assert {daemon.failed, daemon.hanging} <= set(names("rowheader"))
    assert "5002 file does not exist (2), 10223 file exists already (1)" in names("cell")
    assert "3 of 12" in names("cell")


def test_progress_is_drawn_and_told_as_it_is(show: Show, daemon: Served) -> None:
    page = show(daemon.url).page

    bar = page.get_by_role("progressbar", name=f"Progress of job {daemon.hanging}")
    done, most = bar.evaluate("bar => [bar.value, bar.max]")

    assert (0 < done < 10, most) == (True, 10)
    assert page.get_by_role("row").filter(has=bar).get_by_text(f"{done} of 10, 1 failed").is_visible()
    assert Heard("progressbar", f"Progress of job {daemon.hanging}", done) in heard(page)


# ------------------------------------------------------------------------------------------------- what is done with it


def test_every_link_can_be_reached_and_seen_with_the_keyboard(show: Show, daemon: Served) -> None:
    page = show(daemon.url).page
    links = page.get_by_role("link").all_inner_texts()

    reached = []
    for _ in links:
        page.keyboard.press("Tab")
        text, outline = page.evaluate(
            "[document.activeElement.innerText, getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline == "solid"
        reached.append(text)

    assert reached == links


def test_a_problem_leads_to_its_account(show: Show, daemon: Served) -> None:
    page = show(daemon.url, 360).page

    page.get_by_role("list", name="Problems").get_by_role("link", name="refused").click()

    row = page.locator("tr:target")
    assert row.get_by_role("rowheader").inner_text().startswith("refused")
    box = row.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 800


def test_refreshing_leaves_the_reader_where_they_are(show: Show) -> None:
    loaded: list[str] = []

    def first_soon(route: Route) -> None:
        given = route.fetch()
        soon = "60" if loaded else "3"
        loaded.append(given.text().replace('content="60"', f'content="{soon}"'))
        route.fulfill(response=given, body=loaded[-1])

    with served(PAGES["ten accounts"]) as url:
        page = show(f"{url}/", route=first_soon).page
        with page.expect_event("load"):
            page.evaluate("window.scrollTo(0, 900)")
        eventually(lambda: page.evaluate("window.scrollY") == 900, describe=lambda: page.evaluate("window.scrollY"))

    assert len(loaded) == 2


def test_refreshing_stays_stopped_while_the_reader_moves_about_the_page(show: Show) -> None:
    """Also, following a link within the page stops it: with a fragment, Chromium would jump back there each time."""
    with served(PAGES["ten accounts"]) as url:
        page = show(f"{url}/").page
        refresh = expect(page.locator("meta[http-equiv=refresh]"))  # waits for the page that a click leads to
        refresh.to_have_count(1)

        for link in ("Failed", "Update now", "Accounts"):
            page.get_by_role("link", name=link, exact=True).click()
            page.wait_for_url("**refresh=off**")
            refresh.to_have_count(0)
        page.goto(f"{url}/")
        page.get_by_role("link", name="Stop refreshing").click()
        refresh.to_have_count(0)
        page.get_by_role("link", name="Refresh every 60 s").click()

        refresh.to_have_count(1)
        assert page.url == f"{url}/"


# ------------------------------------------------------------------------------------------------------- what it may do


def under_policy(extra: str) -> Callable[[Route], None]:
    """Serve the page with *extra* in it, under the policy that the daemon sends."""

    def answer(route: Route) -> None:
        given = route.fetch()
        assert given.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        route.fulfill(response=given, body=given.text().replace("<main>", f"<main>{extra}"))

    return answer


def test_the_page_does_with_what_its_policy_allows(show: Show, daemon: Served) -> None:
    shown = show(daemon.url, route=under_policy(""))

    assert shown.said == []
    assert shown.page.locator("h1").evaluate("heading => getComputedStyle(heading).fontSize") == "18px"


@pytest.mark.parametrize(
    "extra",
    [
        "<style>h1 { display: none }</style>",
        '<p style="color: red">',
        "<script>document.title = 'mine'</script>",
        '<img src="/metrics" onerror="document.title = 1">',
        '<link rel="stylesheet" href="/metrics">',
        '<iframe src="/metrics"></iframe>',
    ],
)
def test_what_does_not_belong_to_the_page_is_refused(show: Show, daemon: Served, extra: str) -> None:
    shown = show(daemon.url, route=under_policy(extra))

    assert any("Content Security Policy" in said for said in shown.said)
    assert shown.page.get_by_role("heading", name="sbg-exporter").is_visible()
    assert "sbg-exporter" in shown.page.title()
