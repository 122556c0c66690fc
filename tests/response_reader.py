"""A process that reads one response by the exporter's client, and says how much memory that took.

``python -m tests.response_reader URL-OF-ORDINARY-RESPONSES URL page|job|user``
"""

import gc
import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from exporter.api.allowance import Allowance
from exporter.api.client import Client, RequestCompleted, RetryScheduled
from exporter.api.deadline import Deadline
from exporter.api.models import Operation
from exporter.api.transport import transport_to
from exporter.errors import PollError
from tests.clocks import ManualClock
from tests.hostile_responses import Hostile
from tests.raw_server import Script, answering, reply, serving

MOST: Final = 150
"""Resident MiB above idle that one response may cost."""
_ADDRESS_SPACE: Final = 2**31
"""A process that needs more is stopped, so that it does not take the machine's memory."""
_ORDINARY: Final = reply(body=b'{"items": []}')
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a response took and gave; memory is resident, in MiB, less what was before.

    Attributes:
        most: memory at most.
        kept: memory after the next ordinary response.
        outcome: what was read, or the error.
        seconds: processor time.
    """

    most: float
    kept: float
    outcome: str
    seconds: float


def read_by_a_process(hostile: Hostile) -> Reading:
    """Serve *hostile* to a process of its own.

    Raises:
        AssertionError: the process did not end well.
    """
    with serving(answering(_ORDINARY)) as ordinary, serving(_once_per_connection(hostile.answer())) as server:
        command = [sys.executable, "-m", "tests.response_reader", ordinary.url, server.url, hostile.ask]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20 * _TIMEOUT)
    if done.returncode:
        raise AssertionError(f"the process ended with {done.returncode}: {done.stderr[-2000:]}")
    return Reading(**json.loads(done.stdout))


def _once_per_connection(answer: bytes) -> Script:
    return lambda connection: connection.send(answer) if connection.request() else None


class _Silent:
    def on_request_completed(self, event: RequestCompleted) -> None:
        pass

    def on_retry_scheduled(self, event: RetryScheduled) -> None:
        pass


def _client(url: str) -> Client:
    deadline = Deadline()
    transport = transport_to(deadline, None, None)
    return Client(
        url,
        transport,
        deadline,
        allowance=Allowance(1.0),
        clock=ManualClock(),
        observer=_Silent(),
        timeout=_TIMEOUT,
        prepare=transport.prepare,
    )


def _outcome(client: Client, ask: str) -> str:
    try:
        if ask == "user":
            return f"user {client.user().value}"
        if ask == "job":
            job = client.job(Operation.COPY, "7").value
            return f"job {job.state}" if job else "no job"
        page = client.page(0).page
    except PollError as error:
        return type(error).__name__
    return f"{page.items} items, {len(page.jobs)} jobs"


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024


def main(ordinary: str, hostile: str, ask: str) -> None:
    """Read an ordinary response, the hostile one, and an ordinary one again; print a :class:`Reading` as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    before, client = _client(ordinary), _client(hostile)
    before.page(0)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins again
    idle, began = _resident("VmRSS"), time.process_time()
    outcome = _outcome(client, ask)
    most, seconds = _resident("VmHWM"), time.process_time() - began
    before.page(0)
    reading = Reading(round(most - idle, 1), round(_resident("VmRSS") - idle, 1), outcome, round(seconds, 2))
    sys.stdout.write(json.dumps(asdict(reading)))


if __name__ == "__main__":
    main(*sys.argv[1:])
