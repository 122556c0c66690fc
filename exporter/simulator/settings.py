"""Options of a simulated platform that are fixed at its start."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DEMO_TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105  # it grants access to simulators only
"""Default token of the simulated account: public, and in the format of real ones."""

MOST_CHAOS = 3
_MOST_PORT = 0xFFFF


class Order(StrEnum):
    """Order of the job list; that of the real platform is undocumented."""

    NEWEST = "newest"
    OLDEST = "oldest"
    MIXED = "mixed"
    """By a hash of the id: stable, but without any rule."""
    UNSTABLE = "unstable"
    """A different order for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """The options of a simulated platform.

    Raises:
        ValueError: options are invalid; each argument names one of them and what is expected.
    """

    listen: str = field(
        default="127.0.0.1:8089",
        metadata={"help": "Address to listen on, host:port; port 0 selects a free port."},
    )
    seed: int = field(
        default=1,
        metadata={"help": "Seed of all random numbers; the same seed gives the same jobs."},
    )
    speed: float = field(
        default=1.0,
        metadata={
            "help": "Simulated seconds per real second: with 1440 a month takes half an hour; "
            "with 0 only control requests advance the clock."
        },
    )
    jobs: int = field(
        default=200,
        metadata={"help": "Jobs from the month before the start that are in the list already."},
    )
    unfinished: int = field(
        default=0,
        metadata={"help": "Number of those jobs that still run at the start, for up to 12 more hours."},
    )
    unfinished_among: int | None = field(
        default=None,
        metadata={
            "help": "Distribute the unfinished jobs evenly among this many of the newest jobs; default: all jobs."
        },
    )
    rate: float = field(
        default=2.0,
        metadata={"help": "Average number of new jobs per simulated minute and user; 0 for none."},
    )
    order: Order = field(
        default=Order.NEWEST,
        metadata={
            "help": "Order of the list: newest or oldest first, mixed, or unstable (different for each request)."
        },
    )
    token: str = field(
        default=DEMO_TOKEN,
        repr=False,
        metadata={"help": "Token of the simulated account; default: a public one."},
    )
    username: str = field(
        default="demo",
        metadata={"help": "User name of the simulated account."},
    )
    chaos: int = field(
        default=0,
        metadata={"help": "Frequency of random faults, from 0 (none) to 3 (frequent, of every kind)."},
    )
    users: Mapping[str, str] = field(
        default_factory=dict,
        repr=False,
        metadata={"help": "User names of additional accounts by token; each has its own jobs and rate limit."},
    )
    rate_limit: int = field(
        default=1000,
        metadata={"help": "Requests per user and window; -1 for no limit."},
    )
    rate_window: float = field(
        default=300.0,
        metadata={"help": "Length of the rate limit's window in simulated seconds."},
    )
    start: float | None = field(
        default=None,
        metadata={"help": "Start of the simulated clock in Unix seconds; default: now."},
    )
    files_per_job: int | None = field(
        default=None,
        metadata={"help": "Number of files of each random job; default: random."},
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
                yield f"{name}: {value} is not a number of at least 0"
        among = self.jobs if self.unfinished_among is None else self.unfinished_among
        if self.jobs >= 0 and not 0 <= self.unfinished <= among <= self.jobs:
            yield f"unfinished: {self.unfinished} of the newest {among} of {self.jobs} jobs is impossible; lower it"
        if self.rate_window <= 0:
            yield f"rate_window: {self.rate_window} must be greater than 0"
        if not self.token:
            yield "token: must not be empty; omit it to use the default"


def parse_address(listen: str) -> tuple[str, int]:
    """Parse ``host:port``, ``[::1]:port`` or ``:port`` (all IPv4 addresses) into host and port.

    Raises:
        ValueError: *listen* has another format.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _MOST_PORT:
        raise ValueError(f"listen: {listen!r} is not host:port, such as 127.0.0.1:8089")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  # requested by omitting the host


QUIET = SimulatorSettings(listen="127.0.0.1:0", jobs=0, rate=0)
"""The starting point of tests: a free port, no jobs, and none that appear by themselves."""
