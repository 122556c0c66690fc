"""Content negotiation by ``Accept`` and ``Accept-Encoding`` (RFC 9110, 12.5).

Malformed parts of a header are ignored.
"""

from collections.abc import Iterator

from exporter.metrics.exposition import Format

_OPENMETRICS_VERSIONS = ("", "0.0.1", "1.0.0")


def format_wanted(accept: str) -> Format:
    """OpenMetrics if the client prefers it at least as much as text, in a supported version; else text."""
    openmetrics = wildcard = 0.0
    text: float | None = None
    for name, parameters, quality in _choices(accept):
        if name == "application/openmetrics-text":
            if parameters.get("version", "").strip('"') in _OPENMETRICS_VERSIONS:
                openmetrics = max(openmetrics, quality)
        elif name == "text/plain":
            text = max(text or 0.0, quality)
        elif name in {"*/*", "text/*"}:
            wildcard = max(wildcard, quality)
    return (
        Format.OPENMETRICS if openmetrics > 0 and openmetrics >= (wildcard if text is None else text) else Format.TEXT
    )


def gzip_wanted(accept_encoding: str) -> bool:
    """Whether gzip is acceptable, by name or by ``*``."""
    qualities = {name: quality for name, _, quality in _choices(accept_encoding)}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def _choices(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The name, parameters and quality of each choice in a header."""
    for choice in header.split(","):
        name, *rest = (part.strip() for part in choice.split(";"))
        parameters = {key.strip().lower(): value.strip() for key, _, value in (part.partition("=") for part in rest)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if name and 0 <= quality <= 1:
            yield name.lower(), parameters, quality
