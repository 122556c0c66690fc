"""The HTTP routes: metrics, health, readiness and the status page."""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from exporter.metrics.exposition import Exposition
from exporter.web.negotiation import format_wanted, gzip_wanted
from exporter.web.page import CONTENT_SECURITY_POLICY

_NO_STORE: Final = {"Cache-Control": "no-store"}
_PAGE_HEADERS: Final = {
    **_NO_STORE,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_NOT_FOUND: Final = (
    "Not found. There are /, /metrics, /-/healthy and /-/ready;"
    " a proxy in front has to take its own path prefix off the path.\n"
)


def application(
    exposition: Exposition,
    *,
    unhealthy: Callable[[], str],
    unready: Callable[[], str],
    status_page: Callable[[bool], str],
    reload: Callable[[], tuple[int, str] | None] = lambda: None,
    crashed: Callable[[Exception], None] = lambda _error: None,
) -> Starlette:
    """The ASGI application with all routes.

    Args:
        exposition: the metrics page.
        unhealthy: why the process should be restarted; empty if it is healthy.
        unready: why it is not ready for requests; empty if it is.
        status_page: renders the status page; the argument is whether the browser refreshes it by itself.
        reload: reads the configuration again, and returns the response's status and text; None if that is not allowed.
        crashed: called with an unexpected error of a route; the client gets a 500.
    """

    async def metrics(request: Request) -> Response:
        wanted = format_wanted(",".join(request.headers.getlist("accept")))
        gzip = gzip_wanted(",".join(request.headers.getlist("accept-encoding")))
        headers = {"Content-Type": wanted.value, "Vary": "Accept, Accept-Encoding", **_NO_STORE}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        if exposition.current(wanted):
            return Response(exposition.page(wanted, gzip=gzip), headers=headers)
        return Response(await run_in_threadpool(exposition.page, wanted, gzip=gzip), headers=headers)

    async def healthy(_request: Request) -> Response:
        return _probe_response(unhealthy(), "healthy")

    async def ready(_request: Request) -> Response:
        return _probe_response(unready(), "ready")

    async def status(request: Request) -> Response:
        refreshing = request.query_params.get("refresh") != "off"
        return HTMLResponse(await run_in_threadpool(status_page, refreshing), headers=_PAGE_HEADERS)

    one_at_a_time = asyncio.Lock()  # so that requests that wait occupy no threads, which scrapes need

    async def reloaded(_request: Request) -> Response:
        async with one_at_a_time:
            done = await run_in_threadpool(reload)
        if done is None:
            text = "reloading over HTTP is not enabled; set enable_lifecycle = true, or send SIGHUP to the process\n"
            return PlainTextResponse(text, status_code=403, headers=_NO_STORE)
        status_code, text = done
        return PlainTextResponse(text, status_code=status_code, headers=_NO_STORE)

    async def failed(_request: Request, error: Exception) -> Response:
        crashed(error)
        return PlainTextResponse("Internal Server Error\n", status_code=500, headers=_NO_STORE)

    app = Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", ready),
            Route("/-/reload", reloaded, methods=["POST"]),
            Route("/", status),
        ],
        exception_handlers={404: _not_found, Exception: failed},
    )
    app.router.redirect_slashes = False
    return app


async def _not_found(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse(_NOT_FOUND, status_code=404, headers=_NO_STORE)


def _probe_response(reason: str, word: str) -> Response:
    if reason:
        return PlainTextResponse(f"not {word}: {reason}\n", status_code=503, headers=_NO_STORE)
    return PlainTextResponse(f"{word}\n", headers=_NO_STORE)
