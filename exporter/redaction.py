"""What may be shown: no secret, nothing that looks like a token, no control character.

Every text that leaves the process passes :func:`shown` or :func:`without_secrets`: errors when they are raised, log
events when they are written, lines of the commands when they are printed, and the status page when it is rendered.

A :class:`Secret` is masked from its creation on, so no code has to remember to register it. What looks like a token
is masked as well, because an operator may paste one where a path or a name belongs.
"""

import re
import threading
from collections.abc import Callable
from typing import Final, NoReturn, SupportsIndex, TypeVar

MASK: Final = "********"
_SHORTEST: Final = 5
"""Shorter secrets are not masked: they would make other texts unreadable, and are guessed rather than read."""
_LOOKS_LIKE_TOKEN: Final = re.compile(
    r"[0-9A-Fa-f]{32,}"  # the platforms' own format is 32 of these
    r"|(?<![0-9A-Za-z])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[0-9A-Za-z]{40,}"
    r"|(?<![\w-])(?=[\w-]*[0-9])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{64,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # a JSON web token
    re.ASCII,
)

T = TypeVar("T")


class KnownSecrets:
    """The texts of all secrets that this process has read. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()

    def add(self, text: str) -> None:
        """Mask *text* from now on."""
        if len(text) < _SHORTEST or text in self._texts:
            return
        with self._lock:
            # Longest first: a secret may be part of another one, whose rest would then stay readable.
            self._texts = tuple(sorted({*self._texts, text}, key=len, reverse=True))

    def mask(self, text: str) -> str:
        """*text* without the secrets in it."""
        for each in self._texts:
            text = text.replace(each, MASK)
        return text


_KNOWN: Final = KnownSecrets()


class Secret:
    """A text that cannot be printed, formatted, pickled or encoded, and that is masked in all other texts.

    Copies are the secret itself, so that a data class that holds one can be copied.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str, *, masked: bool = True) -> None:
        """A secret; *masked* is false where not all of *text* is one, or where it may be anything else by mistake."""
        self._text = text
        if masked:
            _KNOWN.add(text)

    def reveal(self) -> str:
        """The text itself: only for a request's header, the connection to a proxy, and the comparison with a hash."""
        return self._text

    def judged_by(self, judge: Callable[[str], T]) -> T:
        """What *judge* says about the text, which then appears in no local variable of the caller."""
        return judge(self._text)

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret has no state to save")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


def looks_like_token(text: str) -> bool:
    """Whether *text* contains something in the format of a token."""
    return _LOOKS_LIKE_TOKEN.search(text) is not None


def without_secrets(text: str) -> str:
    """*text* without the secrets that this process has read; the ids of jobs stay, even one that looks like a token."""
    return _KNOWN.mask(text)


def redact(text: str) -> str:
    """*text* without secrets and without what looks like a token."""
    return _LOOKS_LIKE_TOKEN.sub(MASK, without_secrets(text))


def printable(text: str) -> str:
    r"""*text* in one line: control and invisible characters are escaped, such as ``\x1b``.

    A name from the platform may contain a line break, which would look like a second log line, or a sequence that a
    terminal obeys.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shown(text: str) -> str:
    """*text* as it may be shown to an operator: in one line, without secrets and without what looks like a token."""
    return printable(redact(text))


def shown_lines(text: str) -> str:
    """The lines of *text*, each as :func:`shown`: for tracebacks."""
    return "\n".join(map(shown, text.split("\n")))
