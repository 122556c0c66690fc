"""Rule 10: which label values are kept, and how the error counts of a job are stored."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from exporter.api.models import OPERATIONS, OTHER, STATES

LabelKind = Literal["operation", "state", "code"]

_MAX_KEPT: Final[Mapping[LabelKind, int]] = {"operation": 8, "state": 8, "code": 32}
_DOCUMENTED: Final[Mapping[LabelKind, frozenset[str]]] = {
    "operation": frozenset(OPERATIONS),
    "state": frozenset(STATES),
    "code": frozenset({"none"}),
}


def most_values(kind: LabelKind) -> int:
    """How many values a label can have: the documented ones, those that are kept, and ``other``."""
    return len(_DOCUMENTED[kind]) + _MAX_KEPT[kind] + 1


class LabelAllowlist:
    """Limits the undocumented label values of one account, so that the platform cannot create unlimited series.

    Attributes:
        kept: kind to the undocumented values that are kept, the first observed first.
    """

    def __init__(self, kept: Mapping[str, tuple[str, ...]]) -> None:
        self.kept = dict(kept)

    def allow(self, kind: LabelKind, value: str) -> str:
        """*value* itself if it is documented, already kept or among the first of its kind, else ``other``."""
        if value == OTHER or value in _DOCUMENTED[kind]:
            return value
        kept = self.kept.get(kind, ())
        if value in kept:
            return value
        if len(kept) >= _MAX_KEPT[kind]:
            return OTHER
        self.kept[kind] = (*kept, value)
        return value

    def error_counts(self, errors: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Error records by the label of their code."""
        counts: dict[str, int] = {}
        for code, records in errors:
            label = self.allow("code", code)
            counts[label] = counts.get(label, 0) + records
        return counts


def encode_error_counts(counts: Mapping[str, int]) -> str:
    """Error records by code as the text that a job record stores, such as ``5001:3 none:1``."""
    return " ".join(f"{code}:{records}" for code, records in counts.items())


def decode_error_counts(text: str) -> dict[str, int]:
    """Error records by code; parts of *text* that cannot be read are left out."""
    pairs = (part.rpartition(":") for part in text.split())
    return {code: int(records) for code, _, records in pairs if records.isdecimal()}
