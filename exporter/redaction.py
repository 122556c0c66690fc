"""Secrets that do not print themselves, and the masking of known secrets in whatever text is logged or shown."""

import threading
from collections.abc import MutableMapping
from typing import Any, Final

MASK: Final = "********"


class Secret:
    """A text that does not print itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for the header of a request and for nothing else."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Redactor:
    """The last net: whatever text is logged, known secrets in it become stars."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()

    def add(self, secret: Secret) -> None:
        """Never show *secret* from now on."""
        with self._lock:
            # The longest first: a secret may be a part of another, whose rest would then stand beside the stars.
            self._texts = tuple(sorted({*self._texts, secret.reveal()} - {""}, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """*text* without the secrets in it."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    def __call__(
        self,
        logger: object,  # noqa: ARG002  # a structlog processor's arguments
        method: str,  # noqa: ARG002  # likewise
        event: MutableMapping[str, Any],
    ) -> MutableMapping[str, Any]:
        """The event without the secrets in it: structlog's processor."""
        for key, value in event.items():
            if not isinstance(value, int | float | None):
                event[key] = self.redact(value if isinstance(value, str) else str(value))
        return event
