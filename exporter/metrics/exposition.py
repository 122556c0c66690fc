"""Renders snapshots as the Prometheus text format 0.0.4 and as OpenMetrics 1.0.

The client library needs a fifth of a second to render ten thousand series. The page changes twice a minute but may be
scraped at any rate. So the exposition caches one chunk of bytes per family and account. It renders a chunk again only
when the part of the snapshot that the chunk comes from is replaced. A page is joined from chunks. It stays valid until
a snapshot is replaced, or until something in it becomes too old to show.

The metrics of the process (``process_*``, ``python_*``) come from the client library. They are rendered at each scrape
and appended. A compressed page works the same way: the cached part ends on a byte boundary, and the rest of the single
gzip member follows. RFC 1952 allows two members, but some clients stop after the first.
"""

import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

from exporter.counting.values import CounterValue, Exemplar, HistogramValue
from exporter.metrics.families import FAMILIES, PROCESS_FAMILIES, Family, ProcessFamily, Sample, Source, Type
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, ExporterStats, SnapshotRegistry

GZIP_LEVEL: Final = 1
"""A tenth of the time of level 9 for 8 % more bytes."""
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""RFC 1952, 2.3: deflate, no name, no time, fastest level, unknown system."""


class Format(StrEnum):
    """The format of a page; the value is its media type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class _Rendered(NamedTuple):
    """One account's chunk of one family, what it was rendered from, and how long it is valid."""

    source: object
    shown: bool
    valid_until: float
    chunk: bytes


class _Page(NamedTuple):
    """A whole page and how long it is valid."""

    snapshots: tuple[AccountSnapshot, ...]
    valid_until: float
    plain: bytes
    deflated: bytes
    checksum: int

    def gzip_with(self, tail: bytes) -> bytes:
        """The page and *tail* as one gzip member; only the tail is compressed now."""
        length = (len(self.plain) + len(tail)) % 2**32
        trailer = struct.pack("<LL", zlib.crc32(tail, self.checksum), length)
        return b"".join((_GZIP_HEADER, self.deflated, _deflated(tail, zlib.Z_FINISH), trailer))


def _deflated(content: bytes, flush: int) -> bytes:
    """*content* compressed, without gzip's header and trailer; after ``Z_SYNC_FLUSH`` more may follow."""
    deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(content) + deflate.flush(flush)


class Exposition:
    """The metrics page. Safe to share between threads."""

    def __init__(
        self,
        registry: SnapshotRegistry,
        process: Callable[[], ExporterStats],
        display: DisplayOptions,
        clock: Callable[[], float],
        families: tuple[Family, ...] = FAMILIES,
    ) -> None:
        """A page of the *families* of the snapshots in *registry*; *clock* returns Unix seconds."""
        self._snapshots = registry
        self._process = process
        self._display = display
        self._clock = clock
        self._families = families
        self._lock = threading.Lock()
        self._chunks: dict[Format, dict[str, dict[str, _Rendered]]] = {}
        self._pages: dict[Format, _Page] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def show(self, display: DisplayOptions) -> None:
        """Change how much is shown of each account."""
        with self._lock:
            self._display = display
            self._chunks.clear()
            self._pages.clear()

    def page(self, wanted: Format, *, gzip: bool) -> bytes:
        """The page in the format *wanted*, compressed if *gzip*."""
        page = self._page(wanted)
        tail = self._process_families(wanted) + self._library_metrics(wanted)
        return page.gzip_with(tail) if gzip else page.plain + tail

    def without_process_metrics(self, wanted: Format) -> bytes:
        """The page without the client library's metrics, for node_exporter's textfile collector."""
        return self._page(wanted).plain + self._process_families(wanted)

    def account_families(self, wanted: Format) -> bytes:
        """Only the families of accounts."""
        return self._page(wanted).plain

    def current(self, wanted: Format) -> bool:
        """Whether the cached page is valid, so that :meth:`page` renders nothing."""
        return self._cached(wanted, self._snapshots.snapshots, self._clock()) is not None

    def _cached(self, wanted: Format, snapshots: tuple[AccountSnapshot, ...], now: float) -> _Page | None:
        page = self._pages.get(wanted)
        return page if page is not None and page.snapshots is snapshots and now < page.valid_until else None

    def _page(self, wanted: Format) -> _Page:
        page = self._cached(wanted, self._snapshots.snapshots, self._clock())
        if page is not None:
            return page
        with self._lock:
            snapshots, now = self._snapshots.snapshots, self._clock()
            return self._cached(wanted, snapshots, now) or self._render(snapshots, wanted, now)

    def _render(self, snapshots: tuple[AccountSnapshot, ...], wanted: Format, now: float) -> _Page:
        known = self._chunks.get(wanted, {})
        accounts = {
            snapshot.account: self._account(snapshot, known.get(snapshot.account, {}), wanted, now)
            for snapshot in snapshots
        }
        self._chunks[wanted] = accounts
        plain = b"".join(
            part
            for family in self._families
            if any(chunks[family.name].chunk for chunks in accounts.values())
            for part in (
                _heading(family, wanted).encode(),
                *(chunks[family.name].chunk for chunks in accounts.values()),
            )
        )
        valid_until = min(
            (rendered.valid_until for chunks in accounts.values() for rendered in chunks.values()), default=math.inf
        )
        page = _Page(snapshots, valid_until, plain, _deflated(plain, zlib.Z_SYNC_FLUSH), zlib.crc32(plain))
        self._pages[wanted] = page
        return page

    def _account(
        self, snapshot: AccountSnapshot, known: Mapping[str, _Rendered], wanted: Format, now: float
    ) -> dict[str, _Rendered]:
        """The account's chunks: those of *known* that are still valid, the others rendered again."""
        fresh = snapshot.listed is not None and now < snapshot.gauges_until
        sources: dict[Source, object] = {
            Source.LEDGER: snapshot.ledger,
            Source.LISTED: snapshot.listed,
            Source.STATUS: snapshot.status,
        }
        next_expiry = snapshot.next_expiry(self._display, now)
        chunks: dict[str, _Rendered] = {}
        for family in self._families:
            source, shown = sources[family.source], fresh or not family.hide_when_stale
            until = next_expiry if family.source is Source.LEDGER else math.inf
            if family.hide_when_stale and fresh:
                until = min(until, snapshot.gauges_until)
            cached = known.get(family.name)
            if cached is not None and cached.source is source and cached.shown is shown and now < cached.valid_until:
                # The same bytes, but they may be valid for longer than before.
                chunks[family.name] = cached._replace(valid_until=until)
                continue
            samples = family.samples(snapshot, self._display, now) if shown else ()
            chunk = "".join(_samples(family, snapshot.account, samples, wanted)).encode(errors="replace")
            chunks[family.name] = _Rendered(source, shown, until, chunk)
        return chunks

    def _process_families(self, wanted: Format) -> bytes:
        """The exporter's own families; without those that cannot be collected, because the others matter more."""
        try:
            stats = self._process()
        except Exception:  # noqa: BLE001  # even after a bug the accounts' families are shown
            return b""
        return "".join(line for family in PROCESS_FAMILIES for line in _process_family(family, stats, wanted)).encode()

    def _library_metrics(self, wanted: Format) -> bytes:
        """``process_*`` and ``python_*``, and in OpenMetrics the end of the page."""
        try:
            return (generate_openmetrics if wanted is Format.OPENMETRICS else generate_latest)(self._registry)
        except Exception:  # noqa: BLE001  # such as an unreadable /proc
            return b"# EOF\n" if wanted is Format.OPENMETRICS else b""


def _process_family(family: ProcessFamily, stats: ExporterStats, wanted: Format) -> Iterator[str]:
    sample = family.samples(stats)
    if sample is None:
        return
    labels, value = sample
    yield _heading(family, wanted)
    yield from _lines(family, ",".join(_pairs(family.labels, labels)), value, wanted)


def _heading(family: Family | ProcessFamily, wanted: Format) -> str:
    name = family.name
    if wanted is Format.OPENMETRICS and family.type is Type.COUNTER:
        name = name.removesuffix("_total")
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"


def _samples(family: Family, account: str, samples: Iterable[Sample], wanted: Format) -> Iterator[str]:
    first = f'account="{_escaped(account)}"'
    names = family.labels[1:]
    for labels, value in samples:
        yield from _lines(family, first + "".join(f",{pair}" for pair in _pairs(names, labels)), value, wanted)


def _lines(
    family: Family | ProcessFamily, labels: str, value: float | CounterValue | HistogramValue, wanted: Format
) -> Iterator[str]:
    """The sample lines of one label set; *labels* is rendered already."""
    name = family.name
    if isinstance(value, HistogramValue):
        yield from _histogram(name, labels, value, wanted)
        return
    braces = f"{{{labels}}}" if labels else ""
    if isinstance(value, CounterValue):
        exemplar = _exemplar(value.exemplar) if wanted is Format.OPENMETRICS else ""
        yield f"{name}{braces} {value.value}{exemplar}\n"
        if wanted is Format.OPENMETRICS:
            yield f"{name.removesuffix('_total')}_created{braces} {number(value.created)}\n"
        return
    yield f"{name}{braces} {number(value)}\n"


def _histogram(name: str, labels: str, value: HistogramValue, wanted: Format) -> Iterator[str]:
    cumulative = 0
    comma = f"{labels}," if labels else ""
    for bound, count, exemplar in zip((*value.bounds, math.inf), value.counts, value.exemplars, strict=True):
        cumulative += count
        shown = _exemplar(exemplar) if wanted is Format.OPENMETRICS else ""
        yield f'{name}_bucket{{{comma}le="{_go_number(bound)}"}} {cumulative}{shown}\n'
    braces = f"{{{labels}}}" if labels else ""
    yield f"{name}_count{braces} {cumulative}\n"
    yield f"{name}_sum{braces} {number(value.sum)}\n"
    if wanted is Format.OPENMETRICS:
        yield f"{name}_created{braces} {number(value.created)}\n"


def number(value: float) -> str:
    """A sample's value: whole numbers without a decimal point, others with full precision."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < _EXACT):
        return str(int(value))
    return repr(value) if math.isfinite(value) else _go_number(value)


_EXACT: Final = 1e15


def _go_number(value: float) -> str:
    """A number as Prometheus' own libraries write it, because bucket bounds are compared as text."""
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # the client library has no annotations there


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{job_id="{_escaped(exemplar.job_id)}"}} {number(exemplar.value)} {number(exemplar.at)}'


def _pairs(names: tuple[str, ...], values: tuple[str, ...]) -> Iterator[str]:
    return (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
