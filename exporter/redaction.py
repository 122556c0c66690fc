"""Secrets that do not print themselves, and the masking of known secrets in every text that is logged or shown."""

import threading
from typing import Final

from structlog.typing import EventDict, WrappedLogger

MASK: Final = "********"


class Secret:
    """A text that does not print itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: only for the header of a request."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Redactor:
    """Replaces known secrets in logged text with asterisks, as a last safeguard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()

    def add(self, secret: Secret) -> None:
        """Mask *secret* from now on."""
        with self._lock:
            # Longest first: a secret may be part of another one, whose rest would then stay readable.
            self._texts = tuple(sorted({*self._texts, secret.reveal()} - {""}, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """*text* without the secrets in it."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text

    def __call__(
        self,
        logger: WrappedLogger,  # noqa: ARG002  # a structlog processor's arguments
        method: str,  # noqa: ARG002  # a structlog processor's arguments
        event: EventDict,
    ) -> EventDict:
        """Mask secrets in an event, as a structlog processor."""
        for key, value in event.items():
            if not isinstance(value, int | float | None):
                event[key] = self.redact(value if isinstance(value, str) else str(value))
        return event
