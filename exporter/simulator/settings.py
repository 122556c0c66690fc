"""What a simulated platform can be told before it starts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DEMO_TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - it opens nothing but a simulator
"""The token of the simulated account when none is given: well known, and of the real ones' form."""

MOST_CHAOS = 3
_MOST_PORT = 0xFFFF


class Order(StrEnum):
    """In which order the list shows its jobs; the real one is not documented."""

    NEWEST = "newest"
    OLDEST = "oldest"
    MIXED = "mixed"
    """By a hash of the id: stable, but it follows no rule."""
    UNSTABLE = "unstable"
    """Another order at every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """Everything about a simulated platform that is fixed when it starts.

    Raises:
        ValueError: settings are impossible; each of its arguments names one and says what would do.
    """

    listen: str = field(
        default="127.0.0.1:8089",
        metadata={"help": "Address to serve on, host:port; port 0 takes any free one."},
    )
    seed: int = field(
        default=1,
        metadata={"help": "Seed of every die thrown; the same seed gives the same jobs."},
    )
    speed: float = field(
        default=1.0,
        metadata={
            "help": "Simulated seconds per real second: 1440 lets a month pass in half an hour; "
            "0 stops the clock, which then moves only when told to."
        },
    )
    jobs: int = field(
        default=200,
        metadata={"help": "Jobs of the month before the start that are on the list already."},
    )
    unfinished: int = field(
        default=0,
        metadata={"help": "How many of those still run at the start, each for up to 12 hours more."},
    )
    unfinished_among: int | None = field(
        default=None,
        metadata={"help": "The newest jobs among which these are, evenly; among all of them when not given."},
    )
    rate: float = field(
        default=2.0,
        metadata={"help": "New jobs per simulated minute and user, on average; 0 for none."},
    )
    order: Order = field(
        default=Order.NEWEST,
        metadata={"help": "Order of the list: newest or oldest first, mixed, or unstable (another at every request)."},
    )
    token: str = field(
        default=DEMO_TOKEN,
        repr=False,
        metadata={"help": "Token of the simulated account; a well-known one when not given."},
    )
    username: str = field(
        default="demo",
        metadata={"help": "User name of the simulated account."},
    )
    chaos: int = field(
        default=0,
        metadata={"help": "How often the platform misbehaves, from 0 (never) to 3 (all the time, in every way)."},
    )
    users: Mapping[str, str] = field(
        default_factory=dict,
        repr=False,
        metadata={"help": "User names of further accounts by their tokens; each has its own jobs and rate limit."},
    )
    rate_limit: int = field(
        default=1000,
        metadata={"help": "Requests that a user may make per window; -1 for no limit."},
    )
    rate_window: float = field(
        default=300.0,
        metadata={"help": "Length of the rate limit's window, in simulated seconds."},
    )
    start: float | None = field(
        default=None,
        metadata={"help": "Where the simulated clock starts, in Unix seconds; now when not given."},
    )
    files_per_job: int | None = field(
        default=None,
        metadata={"help": "Files of every job that appears by itself; drawn from the seed when not given."},
    )

    def __post_init__(self) -> None:
        wrong = tuple(self._wrong())
        if wrong:
            raise ValueError(*wrong)

    def _wrong(self) -> Iterator[str]:
        try:
            parse_address(self.listen)
        except ValueError as error:
            yield str(error)
        if self.order not in tuple(Order):
            yield f"order: {self.order!r} is none of {', '.join(Order)}"
        if not 0 <= self.chaos <= MOST_CHAOS:
            yield f"chaos: {self.chaos} is not from 0 to {MOST_CHAOS}"
        for name, value in (("speed", self.speed), ("jobs", self.jobs), ("rate", self.rate)):
            if not 0 <= value < float("inf"):
                yield f"{name}: {value} is not a number from 0 up"
        among = self.jobs if self.unfinished_among is None else self.unfinished_among
        if self.jobs >= 0 and not 0 <= self.unfinished <= among <= self.jobs:
            yield f"unfinished: {self.unfinished} of the newest {among} of {self.jobs} jobs is impossible"
        if self.rate_window <= 0:
            yield f"rate_window: {self.rate_window} is not more than 0 seconds"
        if not self.token:
            yield "token: it is empty; leave it out to use the well-known one"


def parse_address(listen: str) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[::1]:port`` or ``:port`` (which is every IPv4 address).

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _MOST_PORT:
        raise ValueError(f"listen: {listen!r} is not host:port, such as 127.0.0.1:8089")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - asked for by leaving the host out


QUIET = SimulatorSettings(listen="127.0.0.1:0", jobs=0, rate=0)
"""Any free port, no history, and nothing happens unless it is asked for: where tests start from."""
