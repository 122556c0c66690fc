"""The status page at ``/``: the template, its filters and its style. No scripts, and nothing loaded from elsewhere."""

from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import quote

from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exporter import __version__
from exporter.api.error_codes import DOCUMENTATION
from exporter.metrics.snapshot import AccountSnapshot, DisplayOptions, LostStateFile, MissingAccounts, ReloadStatus
from exporter.redaction import printable, without_secrets
from exporter.text import count
from exporter.web.status import INCOMPLETE_OR_LOST_COMMAND, status_view

_STYLE: Final = files("exporter.web").joinpath("static/status.css").read_text(encoding="utf-8")
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows the page's own style, identified by its hash, and images that the page contains. Nothing is ever requested."""
_BARS: Final = "M3 3.5h7v2H3zM3 7h10v2H3zM3 10.5h5v2H3z"
_EXCLAMATION_MARK: Final = "M7 3h2v6H7zM7 11h2v2H7z"
_ICONS: Final = {
    "": ("#57606a", _BARS),
    "good": ("#1a6e34", _BARS),
    "warning": ("#8a4b00", _EXCLAMATION_MARK),
    "bad": ("#b42318", _EXCLAMATION_MARK),
}
"""The icon by severity: colour of the square, and what is drawn on it."""


class StatusPage:
    """Renders the status page. Safe to share between threads."""

    def __init__(
        self, display: DisplayOptions, loader: BaseLoader | None = None, *, lost: LostStateFile | None = None
    ) -> None:
        """Compile the template and render an empty page, so that a broken template fails here, not at a request.

        *lost*: the state file, if it was gone at the start.
        """
        environment = Environment(
            loader=loader or PackageLoader("exporter.web"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_masked,
        )
        environment.filters |= {
            "age": age,
            "timestamp": timestamp,
            "plural": count,
            "number": number,
            "duration": duration,
        }
        style = Markup(_STYLE)  # noqa: S704  # our own file
        environment.globals |= {
            "style": style,
            "version": __version__,
            "codes_page": DOCUMENTATION,
            "icon": icon,
            "incomplete_or_lost_command": INCOMPLETE_OR_LOST_COMMAND,
        }
        self.display = display
        """How much is shown of each account; may be replaced at any time."""
        self._lost = lost
        self._template = environment.get_template("status.html.j2")
        self.render((), 0.0)

    def render(
        self,
        snapshots: Iterable[AccountSnapshot],
        now: float,
        *,
        refreshing: bool = True,
        reload: ReloadStatus | None = None,
        missing: MissingAccounts | None = None,
    ) -> str:
        """The page of all accounts at a moment.

        Args:
            snapshots: the accounts.
            now: the moment, Unix seconds.
            refreshing: whether the browser loads the page again after a while.
            reload: how the configuration was last read; None where it is not read again.
            missing: the accounts that the start did not find in the configuration; None if there are none.
        """
        view = status_view(snapshots, self.display, now, reload, missing, lost=self._lost)
        page = self._template.render(page=view, refreshing=refreshing)
        return "\n".join(map(printable, page.split("\n")))  # it may be read in a terminal


def _masked(value: object) -> object:
    """A value of the page without secrets. Markup stays: a missing word would break the page, and show what it was."""
    return without_secrets(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def age(at: float, now: float) -> str:
    """How long ago, for example ``5 min ago``."""
    return f"{duration(now - at)} ago"


def timestamp(at: float, between: str = " ", after: str = " UTC") -> str:
    """A moment in UTC, for example ``2026-09-21 14:14:20 UTC``."""
    return datetime.fromtimestamp(at, UTC).strftime(f"%Y-%m-%d{between}%H:%M:%S{after}")


def duration(seconds: float) -> str:
    """A duration in the largest unit of which there are at least two, for example ``120 min``."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def icon(severity: str) -> str:
    """The page's icon as a URL that contains it."""
    colour, drawing = _ICONS[severity]
    return "data:image/svg+xml," + quote(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
        f"<rect width='16' height='16' rx='3.5' fill='{colour}'/><path fill='#fff' d='{drawing}'/></svg>",
        safe=" '/:=.",
    )


def number(value: int) -> str:
    """A number with separators, for example ``12,345``."""
    return f"{value:,}"
