"""Pictures become bytes: the text format 0.0.4 and OpenMetrics 1.0.

Rendering ten thousand series takes a fifth of a second with the client library, and the page changes twice a minute
while it may be scraped any number of times. So what is kept is a chunk of bytes per family and account, made again only
when the part of the picture it comes from is a new one; a page is joined from chunks, family by family, and kept until
a picture changes or something in it grows too old to be shown.

What Prometheus' client collects of the process (``process_*``, ``python_*``) is rendered at each scrape and appended:
to a compressed page as a second gzip member, which is what RFC 1952 allows.
"""

import gzip
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.counting.ledger import Count, Exemplar, Histogram
from exporter.metrics.catalogue import FAMILIES, PROCESS_FAMILIES, Family, Part, ProcessFamily, Sample, Type
from exporter.metrics.snapshot import Board, Display, Picture, Process

GZIP_LEVEL: Final = 1
"""A tenth of the time of level 9 for 8 % more bytes."""


class Format(StrEnum):
    """What a page is written in; the value is its media type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class _Rendered(NamedTuple):
    """One account's chunk of one family, and what it was made from."""

    source: object
    shown: bool
    chunk: bytes


class _Page(NamedTuple):
    """A whole page and until when it is right."""

    pictures: tuple[Picture, ...]
    valid_until: float
    plain: bytes
    packed: bytes


class Exposition:
    """The metrics page. Safe to share between threads."""

    def __init__(
        self, board: Board, process: Callable[[], Process], display: Display, clock: Callable[[], float]
    ) -> None:
        """A page of what *board* shows; *clock* gives Unix seconds."""
        self._board = board
        self._process = process
        self._display = display
        self._clock = clock
        self._lock = threading.Lock()
        self._chunks: dict[tuple[Format, str], dict[str, _Rendered]] = {}
        self._pages: dict[Format, _Page] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self, wanted: Format, *, packed: bool) -> bytes:
        """The page in *wanted*, gzipped if *packed*."""
        page = self._page(wanted)
        own = "".join(
            part for family in PROCESS_FAMILIES for part in _process_family(family, self._process(), wanted)
        ).encode()
        libraries = (generate_openmetrics if wanted is Format.OPENMETRICS else generate_latest)(self._registry)
        tail = own + libraries
        return page.packed + gzip.compress(tail, GZIP_LEVEL, mtime=0) if packed else page.plain + tail

    def accounts(self, wanted: Format) -> bytes:
        """The families of accounts alone."""
        return self._page(wanted).plain

    def current(self, wanted: Format) -> bool:
        """Whether the page is at hand, so that giving it takes no rendering."""
        return self._kept(wanted, self._board.pictures, self._clock()) is not None

    def _kept(self, wanted: Format, pictures: tuple[Picture, ...], now: float) -> _Page | None:
        page = self._pages.get(wanted)
        return page if page is not None and page.pictures is pictures and now < page.valid_until else None

    def _page(self, wanted: Format) -> _Page:
        pictures, now = self._board.pictures, self._clock()
        page = self._kept(wanted, pictures, now)
        if page is not None:
            return page
        with self._lock:
            return self._kept(wanted, pictures, now) or self._render(pictures, wanted, now)

    def _render(self, pictures: tuple[Picture, ...], wanted: Format, now: float) -> _Page:
        valid_until = math.inf
        columns: list[dict[str, _Rendered]] = []
        for picture in pictures:
            fresh = now < picture.gauges_until
            if fresh:
                valid_until = min(valid_until, picture.gauges_until)
            valid_until = min(valid_until, self._next_leaving(picture, now))
            chunks = self._chunks.setdefault((wanted, picture.account), {})
            for family in FAMILIES:
                source: object = picture.book
                if family.part is Part.LISTED:
                    source = picture.listed
                elif family.part is Part.POLLING:
                    source = picture.polling
                shown = fresh or not family.fades
                known = chunks.get(family.name)
                expired = family.part is Part.BOOK and (page := self._pages.get(wanted)) and now >= page.valid_until
                if known is None or known.source is not source or known.shown is not shown or expired:
                    samples = family.samples(picture, self._display, now) if shown else ()
                    chunk = "".join(_samples(family, picture.account, samples, wanted)).encode()
                    chunks[family.name] = _Rendered(source, shown, chunk)
            columns.append(chunks)
        plain = b"".join(
            part
            for family in FAMILIES
            if any(chunks[family.name].chunk for chunks in columns)
            for part in (
                _heading(family, wanted).encode(),
                *(chunks[family.name].chunk for chunks in columns),
            )
        )
        page = _Page(pictures, valid_until, plain, gzip.compress(plain, GZIP_LEVEL, mtime=0))
        self._pages[wanted] = page
        return page

    def _next_leaving(self, picture: Picture, now: float) -> float:
        """When the next failed job leaves its window."""
        if picture.book is None:
            return math.inf
        window = self._display.failed_job_window
        return min(
            (end + window for mark in picture.book.failed.values() if (end := mark.ended_on) + window > now),
            default=math.inf,
        )


def _process_family(family: ProcessFamily, process: Process, wanted: Format) -> Iterator[str]:
    yield _heading(family, wanted)
    labels, value = family.samples(process)
    yield from _lines(family, "".join(_pairs(family.labels, labels)), value, wanted)


def _heading(family: Family | ProcessFamily, wanted: Format) -> str:
    name = family.name
    if wanted is Format.OPENMETRICS and family.type is Type.COUNTER:
        name = name.removesuffix("_total")
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"


def _samples(family: Family, account: str, samples: Iterable[Sample], wanted: Format) -> Iterator[str]:
    first = f'account="{_escaped(account)}"'
    names = family.labels[1:]
    for labels, value in samples:
        yield from _lines(family, first + "".join(f",{pair}" for pair in _pair_list(names, labels)), value, wanted)


def _lines(
    family: Family | ProcessFamily, labels: str, value: float | Count | Histogram, wanted: Format
) -> Iterator[str]:
    """The sample lines of one label set; *labels* are rendered already."""
    name = family.name
    if isinstance(value, Histogram):
        yield from _histogram(name, labels, value, wanted)
        return
    braces = f"{{{labels}}}" if labels else ""
    if isinstance(value, Count):
        exemplar = _exemplar(value.exemplar) if wanted is Format.OPENMETRICS else ""
        yield f"{name}{braces} {value.value}{exemplar}\n"
        if wanted is Format.OPENMETRICS:
            yield f"{name.removesuffix('_total')}_created{braces} {number(value.created)}\n"
        return
    yield f"{name}{braces} {number(value)}\n"


def _histogram(name: str, labels: str, value: Histogram, wanted: Format) -> Iterator[str]:
    cumulative = 0
    comma = f"{labels}," if labels else ""
    for bound, count, exemplar in zip((*value.bounds, math.inf), value.counts, value.exemplars, strict=True):
        cumulative += count
        shown = _exemplar(exemplar) if wanted is Format.OPENMETRICS else ""
        yield f'{name}_bucket{{{comma}le="{_bound(bound)}"}} {cumulative}{shown}\n'
    braces = f"{{{labels}}}" if labels else ""
    yield f"{name}_count{braces} {cumulative}\n"
    yield f"{name}_sum{braces} {number(value.sum)}\n"
    if wanted is Format.OPENMETRICS:
        yield f"{name}_created{braces} {number(value.created)}\n"


def number(value: float) -> str:
    """A sample's value: whole numbers without a point, others as exactly as they are held."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < _EXACT):
        return str(int(value))
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


_EXACT: Final = 1e15


def _bound(bound: float) -> str:
    """A bucket's bound, always with a point: OpenMetrics wants it so, and both formats must name the same series."""
    return "+Inf" if math.isinf(bound) else repr(float(bound))


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{job_id="{_escaped(exemplar.job_id)}"}} {number(exemplar.value)} {number(exemplar.at)}'


def _pair_list(names: tuple[str, ...], values: tuple[str, ...]) -> Iterator[str]:
    return (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _pairs(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(_pair_list(names, values))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
