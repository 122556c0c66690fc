"""The HTTP server of the simulated platform.

``running`` serves in a thread, for tests and the demo. ``serve`` serves until a signal arrives. Both stop within a
second, even while faults keep clients waiting.
"""

import asyncio
import gzip
import socket
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.simulator.answers import Answer, Call, Delivery
from exporter.simulator.control import control
from exporter.simulator.platform import Platform
from exporter.simulator.settings import DEMO_TOKEN, QUIET, Order, SimulatorSettings, parse_address

__all__ = ["DEMO_TOKEN", "QUIET", "Order", "RunningSimulator", "SimulatorSettings", "running", "serve"]

_WORTH_COMPRESSING = 1024
_STARTS_WITHIN = 10.0
"""Real seconds. Usually it takes some milliseconds."""
_LOOKS_AFTER = 0.2
"""Real seconds between two checks whether a waiting client is still connected."""


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A simulated platform that is running."""

    url: str
    """URL of the API; ends in /v2."""
    control_url: str
    """URL of the control requests; ends in /simulator."""
    platform: Platform
    settings: SimulatorSettings


def serve(settings: SimulatorSettings, stopped: threading.Event) -> int:
    """Serve in the foreground until *stopped* is set. Return the exit code."""
    try:
        with running(settings) as simulator:
            token = settings.token if settings.token == DEMO_TOKEN else "as given by --token"
            sys.stdout.write(f"simulated platform: {simulator.url}\n")
            sys.stdout.write(f"token:              {token}\n")
            if settings.users:
                names = ", ".join(settings.users.values())
                sys.stdout.write(f"further users:      {names}; their tokens are as given in users\n")
            sys.stdout.write(f"control requests:   {simulator.control_url}\n")
            sys.stdout.flush()
            stopped.wait()
    except OSError as error:
        reason, _, _ = (error.strerror or str(error)).partition(
            " (while attempting"
        )  # The message names the address already.
        sys.stderr.write(
            f"sbg-exporter: cannot listen on {settings.listen}: {reason}; choose another address with --listen\n"
        )
        return 1
    return 0


@contextmanager
def running(settings: SimulatorSettings) -> Iterator[RunningSimulator]:
    """Serve in a thread until the context ends.

    Raises:
        OSError: cannot listen on the address.
    """
    host, port = parse_address(settings.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        # Connections inherit it. Otherwise the body waits for the head's acknowledgement: 40 ms per response.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        platform = Platform(settings)
        server = _Server(platform)
        thread = threading.Thread(target=server.run, args=([listener],), name="simulator", daemon=True)
        thread.start()
        if not server.ready.wait(_STARTS_WITHIN):
            raise RuntimeError("the simulated platform did not start")
        origin = _origin(host, listener.getsockname()[1])
        try:
            yield RunningSimulator(f"{origin}/v2", f"{origin}/simulator", platform, settings)
        finally:
            server.stop()
            thread.join()


def _origin(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared with, not bound to
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


class _Protocol(H11Protocol):
    """Gives the application access to the connection, which some faults close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the parent
        super().connection_made(transport)
        self.app_state = {"transport": transport}


class _Server(uvicorn.Server):
    """A server that stops by an event, handles no signals, and closes all connections."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.ready = threading.Event()
        """Set once the server accepts requests."""
        super().__init__(
            uvicorn.Config(
                self._application,
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=1,
            )
        )

    def stop(self) -> None:
        """Stop serving. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            for listener in server.sockets:  # asyncio loses connections that it accepts in the moment of closing
                self._loop.remove_reader(listener.fileno())
        for _ in range(2):  # one round of the loop to attach those that were just accepted, one to make them known
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()  # before clients notice the end of their connections, and connect again
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)
        await super().shutdown(sockets)

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with suppress(ClientDisconnect):
            call = await _call(request)
            is_control = call.path.split("/")[1:2] == ["simulator"]
            answer = control(self._platform, call) if is_control else self._platform.answer(call)
            await self._deliver(_compressed(answer, call), request.scope["state"]["transport"], send)

    async def _deliver(self, answer: Answer, transport: asyncio.Transport, send: Send) -> None:
        match answer.delivery:
            case Delivery.HANG:
                await self._kept_waiting(transport, float("inf"))
            case Delivery.CLOSE:
                await _closed(transport)
            case Delivery.CUT:
                await _send_head(answer, send)
                await send(
                    {"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True}
                )
                await _closed(transport)
            case Delivery.DRIP:
                await _send_head(answer, send)
                for byte in answer.body:
                    if await self._kept_waiting(transport, answer.pause):
                        return
                    await send({"type": "http.response.body", "body": bytes((byte,)), "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            case Delivery.WHOLE:
                await _send_head(answer, send)
                await send({"type": "http.response.body", "body": answer.body})

    async def _kept_waiting(self, transport: asyncio.Transport, seconds: float) -> bool:
        """Wait for *seconds*. Close the connection and return True if the client has left or the server stops."""
        while seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(seconds, _LOOKS_AFTER))
            if self._stopping.is_set() or transport.is_closing():
                await _closed(transport)
                return True
            seconds -= _LOOKS_AFTER
        return False


async def _call(request: Request) -> Call:
    return Call(
        method=request.method,
        path=request.url.path.rstrip("/"),
        query=request.query_params,
        headers=request.headers,
        body=await request.body(),
        origin=f"{request.url.scheme}://{request.url.netloc}",
        target=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
    )


def _compressed(answer: Answer, call: Call) -> Answer:
    if len(answer.body) < _WORTH_COMPRESSING or "gzip" not in call.headers.get("accept-encoding", ""):
        return answer
    body = gzip.compress(answer.body, compresslevel=1)
    return answer._replace(body=body, headers={**answer.headers, "content-encoding": "gzip", "vary": "accept-encoding"})


async def _send_head(answer: Answer, send: Send) -> None:
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})


async def _closed(transport: asyncio.Transport) -> None:
    """Close the connection and let the server notice. Otherwise it sends a 500 for an application without response."""
    transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
