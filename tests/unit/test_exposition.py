"""The metrics page, read the way Prometheus reads it.

The golden pages in golden/ are what each scenario below must render to, byte for byte. After a wanted change write them
anew with ``python -m tests.unit.test_exposition`` and read the difference before committing it.
"""

import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from exporter.api.models import Job
from exporter.counting import values as counting
from exporter.counting.values import CounterValue, HistogramValue, Ledger, Rules
from exporter.metrics.exposition import Exposition, Format, number
from exporter.metrics.families import FAMILIES, Family, Sample, Section, Source, Type
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, ExporterStats, SnapshotRegistry
from tests.background import BackgroundTask
from tests.clocks import START, ManualClock
from tests.factories import finished_job, job_id, running_job
from tests.ledgers import LedgerFixture, ledger_of
from tests.snapshots import DISPLAY, STATUS, UNTRIED, exposition, registry, snapshot

GOLDEN = Path(__file__).parent / "golden"
FORMATS = {Format.TEXT: "text", Format.OPENMETRICS: "openmetrics"}


def of(*sections: Section) -> tuple[Family, ...]:
    return tuple(family for family in FAMILIES if family.section in sections)


def named(*names: str) -> tuple[Family, ...]:
    return tuple(family for family in FAMILIES if family.name in names)


@dataclass(frozen=True)
class Scenario:
    """What is shown, when, and which families of it."""

    snapshots: tuple[AccountSnapshot, ...]
    families: tuple[Family, ...] = FAMILIES
    at: float = START + 60
    display: DisplayOptions = DISPLAY

    @property
    def exposition(self) -> Exposition:
        return exposition(*self.snapshots, at=self.at, display=self.display, families=self.families)


def busy() -> LedgerFixture:
    """Jobs that run, succeed, fail in part and in full."""
    counted = LedgerFixture()
    counted.observe_listing(running_job(START + 1), running_job(START + 2, failed=1, serial=1), at=START + 30)
    counted.observe_listing(
        running_job(START + 1, done=4),
        finished_job(START + 2, failed=3, total=10, serial=1, errors=(("4007", 1), ("none", 2))),
        finished_job(START + 3, failed=5, total=5, took=4000, serial=2, errors=(("9001", 5),)),
        finished_job(START + 4, took=0.75, serial=3),
        at=START + 60.5,
    )
    return counted


def unknown_kinds() -> Ledger:
    return ledger_of(
        Job(job_id(START + 1), "archive", "queued", 3, 0, 0),
        Job(job_id(START + 2), "copy", "paused", 4, 1, 0, started_on=START + 3),
        at=START + 30,
    )


def long_ids() -> Ledger:
    at = START + 4
    return ledger_of(
        Job("6" * 64, "copy", "finished", 2, 0, 2, at, at + 100),
        Job("7" * 65, "move", "finished", 2, 0, 2, at, at + 100),
        at=START + 30,
    )


def crowd() -> Ledger:
    """Four unfinished and four failed jobs, the later ones detected later."""
    counted = LedgerFixture()
    for serial in range(4):
        counted.observe_listing(
            *(running_job(START + each, serial=each) for each in (3, 1, 2, 0)),
            *(finished_job(START + 10, failed=1 + each, serial=100 + each) for each in range(serial + 1)),
            at=START + 30 + serial,
        )
    return counted.ledger


def history() -> Ledger:
    """A job that failed before the ledger began, and one after."""
    return ledger_of(
        finished_job(START - 1000, failed=2, serial=1, errors=(("4007", 2),)),
        finished_job(START - 10, failed=1, serial=2),
        at=START + 30,
    )


AWKWARD = 'a "quoted" \\ name\nin two lines, ünïcödé ✓ {a="b"} #'

SCENARIOS = {
    "fresh": Scenario((snapshot(ledger_of(), status=UNTRIED, gauges_until=-math.inf),)),
    "busy": Scenario((snapshot(busy().ledger),)),
    "unknown_kinds": Scenario((snapshot(unknown_kinds()),), of(Section.LISTED, Section.PER_JOB)),
    "unlisted": Scenario(
        (replace(snapshot(busy().ledger), listed=None),),
        tuple(family for family in FAMILIES if family.type is Type.GAUGE),
    ),
    "stale": Scenario((snapshot(busy().ledger),), of(Section.LISTED, Section.PER_JOB), at=START + 600),
    "several_accounts": Scenario(
        (
            snapshot(busy().ledger, account="second"),
            snapshot(None, account="empty", status=UNTRIED),
            snapshot(ledger_of(), account="first"),
        ),
        named("sbg_jobs", "sbg_jobs_submitted_total", "sbg_job_queue_duration_seconds", "sbg_up", "sbg_account_info"),
    ),
    "awkward_names": Scenario(
        (snapshot(busy().ledger, account=AWKWARD, status=replace(STATUS, username='o"brien\\')),),
        named("sbg_jobs_submitted_total", "sbg_job_queue_duration_seconds", "sbg_account_info"),
    ),
    "long_ids": Scenario(
        (snapshot(long_ids()),),
        named("sbg_files_failed_total", "sbg_jobs_finished_total", "sbg_failed_job_files_failed"),
    ),
    "crowd": Scenario((snapshot(crowd()),), of(Section.PER_JOB), display=replace(DISPLAY, job_series=2)),
    "no_job_series": Scenario((snapshot(crowd()),), of(Section.PER_JOB), display=replace(DISPLAY, job_series=0)),
    "history": Scenario((snapshot(history()),), of(Section.PER_JOB)),
    "username_hidden": Scenario(
        (snapshot(ledger_of()),), named("sbg_account_info"), display=replace(DISPLAY, show_username=False)
    ),
}


def rendered(scenario: Scenario, wanted: Format) -> bytes:
    page = scenario.exposition.account_families(wanted)
    return page + b"# EOF\n" if wanted is Format.OPENMETRICS else page


# ---- what both parsers make of a page ----

Shown = tuple[str, float, float]
"""An exemplar: its job, value and time."""
Parsed = dict[str, dict[tuple[str, frozenset[tuple[str, str]]], tuple[float, Shown | None]]]


def parsed(page: str, wanted: Format) -> Parsed:
    """Families by name: their samples' values and exemplars; nothing may come twice."""
    families = list((parse_openmetrics if wanted is Format.OPENMETRICS else parse_text)(page))
    assert len({family.name for family in families}) == len(families)
    found: Parsed = {}
    for family in families:
        samples = {
            (sample.name, frozenset(sample.labels.items())): (sample.value, shown_by(sample.exemplar))
            for sample in family.samples
        }
        assert len(samples) == len(family.samples)
        found[family.name] = samples
    return found


def shown_by(exemplar: Exemplar | None) -> Shown | None:
    if exemplar is None:
        return None
    assert exemplar.labels.keys() == {"job_id"}
    assert exemplar.timestamp is not None
    return exemplar.labels["job_id"], float(exemplar.value), float(exemplar.timestamp)


class FromCatalogue(Collector):
    """The same families as the client library's own values, for its own renderer."""

    def __init__(self, scenario: Scenario, wanted: Format) -> None:
        self._scenario = scenario
        self._created = wanted is Format.OPENMETRICS

    def collect(self) -> Iterator[Metric]:
        for family in self._scenario.families:
            name = family.name.removesuffix("_total")
            metric = Metric(name, family.help, family.type)
            for each in self._scenario.snapshots:
                for labels, value in self._samples(family, each):
                    names = dict(zip(family.labels, (each.account, *labels), strict=True))
                    self._add(metric, family.name, names, value)
            if metric.samples:
                yield metric

    def _samples(self, family: Family, each: AccountSnapshot) -> Iterable[Sample]:
        fresh = each.listed is not None and self._scenario.at < each.gauges_until
        if family.hide_when_stale and not fresh:
            return ()
        return family.samples(each, self._scenario.display, self._scenario.at)

    def _add(
        self, metric: Metric, name: str, labels: dict[str, str], value: float | CounterValue | HistogramValue
    ) -> None:
        if isinstance(value, HistogramValue):
            cumulative = 0
            for bound, count, exemplar in zip((*value.bounds, math.inf), value.counts, value.exemplars, strict=True):
                cumulative += count
                shown = "+Inf" if bound == math.inf else str(float(bound))
                metric.add_sample(f"{name}_bucket", {**labels, "le": shown}, cumulative, exemplar=theirs(exemplar))
            metric.add_sample(f"{name}_count", labels, cumulative)
            metric.add_sample(f"{name}_sum", labels, value.sum)
        elif isinstance(value, CounterValue):
            metric.add_sample(name, labels, value.value, exemplar=theirs(value.exemplar))
        else:
            metric.add_sample(name, labels, float(value))
            return
        if self._created:
            metric.add_sample(f"{name.removesuffix('_total')}_created", labels, value.created)


def theirs(exemplar: counting.Exemplar | None) -> Exemplar | None:
    return None if exemplar is None else Exemplar({"job_id": exemplar.job_id}, exemplar.value, exemplar.at)


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_renders_to_its_golden_page(name: str, wanted: Format) -> None:
    golden = (GOLDEN / f"{name}.{FORMATS[wanted]}.txt").read_bytes()

    assert rendered(SCENARIOS[name], wanted).decode() == golden.decode()


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_strict_parsers_read_what_the_client_library_would_have_written(name: str, wanted: Format) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FromCatalogue(SCENARIOS[name], wanted))
    generate = generate_openmetrics if wanted is Format.OPENMETRICS else generate_latest

    ours = parsed(rendered(SCENARIOS[name], wanted).decode(), wanted)

    assert ours == parsed(generate(registry).decode(), wanted)


@pytest.mark.parametrize("wanted", FORMATS)
def test_every_line_of_the_whole_page_ends_and_openmetrics_has_one_eof_at_the_end(wanted: Format) -> None:
    page = SCENARIOS["busy"].exposition.page(wanted, gzip=False).decode()

    lines = page.split("\n")
    assert lines.pop() == ""
    assert all(line and line == line.strip() for line in lines)
    assert page.count("# EOF") == (1 if wanted is Format.OPENMETRICS else 0)
    assert wanted is Format.TEXT or lines[-1] == "# EOF"
    assert {"sbg_jobs", "sbg_exporter_build_info", "process_open_fds", "python_info"} <= parsed(page, wanted).keys()


def test_an_accounts_own_job_series_bounds_its_series_only() -> None:
    display = replace(DISPLAY, job_series=2, own_job_series={"few": 1, "none": 0})
    snapshots = tuple(snapshot(crowd(), account=name) for name in ("few", "none", "usual"))
    page = rendered(Scenario(snapshots, of(Section.PER_JOB), display=display), Format.TEXT).decode()

    for family in ("sbg_unfinished_job_submitted_timestamp_seconds", "sbg_failed_job_detected_timestamp_seconds"):
        shown = re.findall(rf'^{family}{{account="(\w+)"', page, re.MULTILINE)
        assert Counter(shown) == {"few": 1, "usual": 2}
    hidden = re.findall(r'^sbg_exporter_job_series_hidden\{account="(\w+)",kind="failed"\} (\d)', page, re.MULTILINE)
    assert hidden == [("few", "3"), ("none", "4"), ("usual", "2")]


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_page_without_any_account_still_tells_of_the_exporter(wanted: Format) -> None:
    nothing = exposition()

    assert nothing.account_families(wanted) == b""
    assert "sbg_exporter_state_bytes 4096\n" in nothing.page(wanted, gzip=False).decode()


def test_its_own_families_alone_are_what_node_exporter_takes() -> None:
    page = SCENARIOS["busy"].exposition.without_process_metrics(Format.TEXT).decode()

    found = parsed(page, Format.TEXT)
    assert {"sbg_jobs", "sbg_files_failed", "sbg_exporter_state_bytes", "sbg_exporter_build_info"} <= found.keys()
    assert not [name for name in found if name.startswith(("process_", "python_"))]
    assert "_created" not in page
    assert " # {" not in page


def test_the_counters_of_a_fresh_ledger_are_there_at_zero() -> None:
    page = parsed(rendered(SCENARIOS["fresh"], Format.TEXT).decode(), Format.TEXT)

    outcomes = {
        (labels["operation"], labels["outcome"]): value
        for (_, pairs), (value, _) in page["sbg_jobs_finished"].items()
        for labels in [dict(pairs)]
    }
    assert outcomes == {
        (operation, outcome): 0
        for operation in ("copy", "move", "delete")
        for outcome in ("succeeded", "partial", "failed", "incomplete", "lost")
    }
    assert {"sbg_up", "sbg_exporter_rate_limit", "sbg_last_failure_counted_timestamp_seconds"}.isdisjoint(page)


def test_exemplars_name_the_job_and_when_it_was_counted() -> None:
    page = rendered(SCENARIOS["busy"], Format.OPENMETRICS).decode()

    failed = parsed(page, Format.OPENMETRICS)["sbg_files_failed"]
    [exemplar] = [exemplar for value, exemplar in failed.values() if exemplar is not None]
    assert exemplar == (job_id(START + 3, 2), 5.0, START + 60.5)
    assert " # {" not in rendered(SCENARIOS["busy"], Format.TEXT).decode()


@pytest.mark.parametrize(("length", "shown"), [(64, True), (65, False)])
def test_ids_up_to_64_characters_are_exemplars(length: int, *, shown: bool) -> None:
    ledger = ledger_of(Job("1" * length, "copy", "running", 2, 0, 2), at=START + 30)

    page = exposition(snapshot(ledger)).account_families(Format.OPENMETRICS).decode()

    assert ("# {job_id=" in page) is shown


def test_large_bounds_are_spelled_as_prometheus_own_libraries_spell_them() -> None:
    ledger = LedgerFixture(Rules(queue_buckets=(0.5, 60, 1e6, 2.5e6))).ledger

    page = (
        exposition(snapshot(ledger), families=named(counting.JOB_QUEUE_DURATION))
        .account_families(Format.OPENMETRICS)
        .decode()
    )

    assert [line.partition('le="')[2].partition('"')[0] for line in page.splitlines() if 'copy",le="' in line] == [
        "0.5",
        "60.0",
        "1e+06",
        "2.5e+06",
        "+Inf",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1_790_000_000.25, "1790000000.25"),
        (2**70, str(2**70)),
        (1e22, "1e+22"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
        (True, "1"),
    ],
)
def test_numbers_are_written_as_exactly_as_they_are_held(value: float, text: str) -> None:
    assert number(value) == text


labels_of_any_kind = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    account=labels_of_any_kind,
    label=labels_of_any_kind,
    value=st.one_of(st.floats(allow_nan=False), st.integers(-(2**60), 2**60)),
    count=st.integers(0, 2**60),
    created=st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000),
)
def test_any_label_and_number_survives_both_parsers(
    account: str, label: str, value: float, count: int, created: float
) -> None:
    def show(name: str, kind: Type, sample: float | CounterValue) -> Family:
        samples = lambda _picture, _display, _now: (Sample((label,), sample),)  # noqa: E731
        return Family(Section.LISTED, name, kind, "Any.", ("account", "any"), Source.STATUS, samples)

    exemplar = counting.Exemplar("7" * 19, float(count), created)
    families = (
        show("a_gauge", Type.GAUGE, value),
        show("a_counter_total", Type.COUNTER, CounterValue(count, created, exemplar)),
    )
    made = exposition(snapshot(None, account=account), families=families)

    labels = frozenset({("account", account), ("any", label)})
    text = parsed(made.account_families(Format.TEXT).decode(), Format.TEXT)
    assert text["a_gauge"] == {("a_gauge", labels): (value, None)}
    assert text["a_counter"] == {("a_counter_total", labels): (count, None)}
    openmetrics = parsed(made.account_families(Format.OPENMETRICS).decode() + "# EOF\n", Format.OPENMETRICS)
    assert openmetrics["a_gauge"] == {("a_gauge", labels): (value, None)}
    assert openmetrics["a_counter"] == {
        ("a_counter_total", labels): (count, ("7" * 19, float(count), pytest.approx(created, abs=1e-6))),
        ("a_counter_created", labels): (created, None),
    }


def test_text_that_is_not_unicode_does_not_spoil_the_page() -> None:
    page = exposition(snapshot(None, account="from \udcff environment"), families=named("sbg_up"))

    assert 'sbg_up{account="from ? environment"} 1\n' in page.account_families(Format.TEXT).decode()


# ---- what grows old ----


def names(page: bytes) -> set[str]:
    return set(parsed(page.decode(), Format.TEXT))


def test_gauges_of_what_is_listed_go_when_the_last_good_answer_is_too_old_and_nothing_else_does() -> None:
    clock = ManualClock(START + 599.9)
    shown = Exposition(registry(snapshot(busy().ledger)), lambda: ExporterStats(0, 0, 0, START), DISPLAY, clock.time)
    before = names(shown.account_families(Format.TEXT))

    clock.now = START + 600

    assert before - names(shown.account_families(Format.TEXT)) == {
        family.name for family in FAMILIES if family.hide_when_stale
    }


def test_they_come_back_with_the_next_good_answer() -> None:
    clock = ManualClock(START + 600)
    seen = snapshot(busy().ledger)
    shown = registry(seen)
    made = Exposition(shown, lambda: ExporterStats(0, 0, 0, START), DISPLAY, clock.time)
    stale = names(made.account_families(Format.TEXT))

    shown.put(replace(seen, gauges_until=START + 1200))

    assert names(made.account_families(Format.TEXT)) - stale == {
        family.name for family in FAMILIES if family.hide_when_stale
    }


def test_a_failed_job_leaves_at_the_second_its_window_ends() -> None:
    counted = LedgerFixture()
    first, second = finished_job(START + 10, failed=1, serial=1), finished_job(START + 20, failed=1, serial=2)
    counted.observe_listing(first, second, running_job(START + 5, failed=1), at=START + 130)
    clock = ManualClock(START + 60)
    made = Exposition(
        registry(snapshot(counted.ledger)),
        lambda: ExporterStats(0, 0, 0, START),
        replace(DISPLAY, failed_job_window=3600.0),
        clock.time,
        named("sbg_failed_job_files_failed", "sbg_exporter_job_series_hidden"),
    )

    def shown(at: float) -> set[str]:
        clock.now = at
        samples = parsed(made.account_families(Format.TEXT).decode(), Format.TEXT)["sbg_failed_job_files_failed"]
        return {dict(labels)["job_id"] for _, labels in samples}

    assert first.finished_on is not None
    ends = first.finished_on + 3600
    still_running = job_id(START + 5)
    assert shown(ends - 0.001) == {first.id, second.id, still_running}
    assert shown(ends) == {second.id, still_running}
    assert shown(ends + 9.999) == {second.id, still_running}
    assert shown(ends + 10) == {still_running}
    assert shown(ends + 1e6) == {still_running}


def test_a_job_that_was_found_to_have_failed_long_after_its_end_is_shown_for_half_a_window() -> None:
    counted = LedgerFixture()
    late = finished_job(START + 10, failed=1)
    counted.observe_listing(late, at=START + 86400)
    clock = ManualClock(START + 60)
    made = Exposition(
        registry(snapshot(counted.ledger)),
        lambda: ExporterStats(0, 0, 0, START),
        replace(DISPLAY, failed_job_window=3600.0),
        clock.time,
        named("sbg_failed_job_files_failed"),
    )

    def shown(at: float) -> int:
        clock.now = at
        return len(
            parsed(made.account_families(Format.TEXT).decode(), Format.TEXT).get("sbg_failed_job_files_failed", [])
        )

    assert shown(START + 86400) == 1
    assert shown(START + 86400 + 1799.9) == 1
    assert shown(START + 86400 + 1800) == 0


# ---- rendered once per change ----


class Counting:
    """Families whose samples count how often they are asked for, by part and account."""

    def __init__(self) -> None:
        self.asked: list[tuple[Source, str]] = []
        self.families = tuple(
            Family(
                Section.LISTED,
                f"of_{part}",
                Type.GAUGE,
                "Counted.",
                ("account",),
                part,
                self._of(part),
                hide_when_stale=fades,
            )
            for part, fades in ((Source.LEDGER, False), (Source.LISTED, True), (Source.STATUS, False))
        )

    def _of(self, part: Source) -> Callable[[AccountSnapshot, DisplayOptions, float], Iterable[Sample]]:
        def samples(seen: AccountSnapshot, _display: DisplayOptions, _now: float) -> Iterable[Sample]:
            self.asked.append((part, seen.account))
            return (Sample((), len(self.asked)),)

        return samples

    def since(self) -> list[tuple[Source, str]]:
        """What was asked for since this was last called."""
        asked, self.asked = self.asked, []
        return sorted(asked)


@dataclass
class Kept:
    """Two accounts on a board, and an exposition of counting families."""

    registry: SnapshotRegistry
    counting: Counting
    clock: ManualClock
    exposition: Exposition


@pytest.fixture
def kept() -> Kept:
    counting, clock = Counting(), ManualClock(START + 60)
    shown = registry(snapshot(busy().ledger, account="one"), snapshot(ledger_of(), account="two"))
    made = Exposition(shown, lambda: ExporterStats(0, 0, 0, START), DISPLAY, clock.time, counting.families)
    made.account_families(Format.TEXT)
    counting.since()
    return Kept(shown, counting, clock, made)


def test_a_page_is_rendered_once_and_not_once_per_scrape(kept: Kept) -> None:
    first = kept.exposition.account_families(Format.TEXT)

    assert kept.exposition.account_families(Format.TEXT) is first
    kept.exposition.page(Format.TEXT, gzip=True)
    assert kept.counting.since() == []
    assert kept.exposition.current(Format.TEXT)
    assert not kept.exposition.current(Format.OPENMETRICS)


def test_a_change_of_one_account_renders_only_its_chunks(kept: Kept) -> None:
    kept.registry.put(snapshot(busy().ledger, account="one", status=replace(STATUS, interval=31.0)))

    assert not kept.exposition.current(Format.TEXT)
    kept.exposition.account_families(Format.TEXT)
    assert kept.counting.since() == [(Source.LEDGER, "one"), (Source.LISTED, "one"), (Source.STATUS, "one")]


def test_a_poll_in_which_nothing_was_counted_renders_only_what_it_tells_of_asking(kept: Kept) -> None:
    [one, _] = kept.registry.snapshots
    kept.registry.put(replace(one, status=replace(STATUS, allowance_used=5), gauges_until=START + 630))

    kept.exposition.account_families(Format.TEXT)

    assert kept.counting.since() == [(Source.STATUS, "one")]


def test_what_grows_old_is_rendered_when_it_does_and_not_again(kept: Kept) -> None:
    kept.clock.now = START + 600
    stale = kept.exposition.account_families(Format.TEXT)

    assert kept.counting.since() == []
    assert names(stale) == {"of_ledger", "of_status"}
    assert kept.exposition.account_families(Format.TEXT) is stale


def test_a_job_that_leaves_its_window_renders_the_book_of_its_account_alone(kept: Kept) -> None:
    kept.clock.now = START + 2 + 2 + 100 + DISPLAY.failed_job_window

    kept.exposition.account_families(Format.TEXT)

    assert kept.counting.since() == [(Source.LEDGER, "one")]


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_compressed_page_is_one_member_that_unpacks_to_the_plain_page(wanted: Format) -> None:
    made = SCENARIOS["busy"].exposition

    gzip = made.page(wanted, gzip=True)

    member = zlib.decompressobj(wbits=31)  # checks length and checksum, and stops after the first member
    unpacked = member.decompress(gzip)
    assert member.eof
    assert member.unused_data == b""
    assert unpacked.startswith(made.account_families(wanted))
    assert parsed(unpacked.decode(), wanted).keys() == parsed(made.page(wanted, gzip=False).decode(), wanted).keys()


def test_the_process_is_fresh_at_each_scrape(tmp_path: Path) -> None:
    now = [ExporterStats(0, 1, 100, START)]
    made = Exposition(registry(snapshot(ledger_of())), lambda: now[0], DISPLAY, ManualClock(START + 60).time)

    def value(name: str) -> float:
        page = parsed(made.page(Format.TEXT, gzip=False).decode(), Format.TEXT)
        [(shown, _)] = page[name].values()
        return shown

    assert value("sbg_exporter_state_bytes") == 100
    files = value("process_open_fds")
    now[0] = ExporterStats(2, 1, 200, START)
    with ExitStack() as stack:
        for number in range(20):  # more than other tests may leave to be closed meanwhile
            stack.enter_context((tmp_path / f"{number}").open("w"))
        assert value("process_open_fds") > files
    assert (value("sbg_exporter_state_write_failures"), value("sbg_exporter_state_bytes")) == (2, 200)


@pytest.mark.parametrize("wanted", Format)
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "x"), ValueError("a bug")])
@pytest.mark.fault(
    "the state file's size cannot be read",
    action="serves the page",
    shown="the page without what could not be collected",
    recovery="the next scrape",
)
def test_page_is_served_without_what_cannot_be_collected(wanted: Format, error: Exception) -> None:
    def fail() -> ExporterStats:
        raise error

    made = Exposition(registry(snapshot(busy().ledger)), fail, DISPLAY, ManualClock(START + 60).time)

    found = parsed(made.page(wanted, gzip=False).decode(), wanted)

    assert "sbg_jobs" in found
    assert "sbg_exporter_state_bytes" not in found


@pytest.mark.parametrize("wanted", Format)
@pytest.mark.fault(
    "the process's own metrics cannot be read",
    action="serves the page",
    shown="the page without them",
    recovery="the next scrape",
)
def test_page_is_served_without_the_process_metrics_if_they_fail(wanted: Format) -> None:
    class Failing(Collector):
        def collect(self) -> Iterator[Metric]:
            raise OSError(5, "Input/output error")

    stats = ExporterStats(0, 0, None, START)
    made = Exposition(registry(snapshot(busy().ledger)), lambda: stats, DISPLAY, ManualClock(START + 60).time)
    made._registry.register(Failing())  # noqa: SLF001

    found = parsed(made.page(wanted, gzip=False).decode(), wanted)

    assert "sbg_exporter_state_write_failures" in found
    assert "sbg_exporter_state_bytes" not in found


def test_threads_that_scrape_while_pictures_change_get_whole_pages_of_one_moment() -> None:
    counted = LedgerFixture()
    shown = registry(snapshot(counted.ledger, account="one"), snapshot(counted.ledger, account="two"))
    made = Exposition(
        shown,
        lambda: ExporterStats(0, 0, 0, START),
        DISPLAY,
        ManualClock(START + 60).time,
        named("sbg_jobs_submitted_total", "sbg_jobs"),
    )
    seen: list[list[float]] = [[] for _ in range(4)]

    def scrape(into: list[float]) -> None:
        wanted = Format.OPENMETRICS if len(into) % 2 else Format.TEXT
        page = gzip.decompress(made.page(wanted, gzip=True)).decode()
        found = parsed(page, wanted)
        counters = {
            dict(key[1])["account"]: value
            for key, (value, _) in found["sbg_jobs_submitted"].items()
            if key[0].endswith("_total") and dict(key[1])["operation"] == "copy"
        }
        jobs = sum(value for (_, labels), (value, _) in found["sbg_jobs"].items() if dict(labels)["account"] == "one")
        assert counters["one"] == jobs
        into.append(counters["one"])

    jobs: list[Job] = []
    with ExitStack() as stack:
        scrapers = [stack.enter_context(BackgroundTask(partial(scrape, into), every=0)) for into in seen]
        for number in range(40):
            jobs.append(running_job(START + number, serial=number))
            shown.put(snapshot(counted.observe_listing(*jobs, at=START + 30), account="one"))
            scrapers[number % len(scrapers)].await_rounds()

    assert all(len(each) >= 10 and each == sorted(each) for each in seen)


def test_the_ledger_of_a_name_that_is_not_bound_yet_shows_no_counter() -> None:
    page = names(exposition(snapshot(None, status=UNTRIED)).account_families(Format.TEXT))

    assert not page & {
        family.name.removesuffix("_total") for family in of(Section.LISTED, Section.COUNTED, Section.PER_JOB)
    }


def write() -> None:
    """Write every golden page anew."""
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for name, scenario in SCENARIOS.items():
        for wanted, suffix in FORMATS.items():
            (GOLDEN / f"{name}.{suffix}.txt").write_bytes(rendered(scenario, wanted))


if __name__ == "__main__":
    write()
