"""A platform that does nothing but list finished jobs, as quickly as a socket allows: ``list_server JOBS RESULTS``.

The simulator would cost more than the clients that are measured against it.
"""

import asyncio
import re
import sys
import time
from email.utils import formatdate

_FINISHED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 86400)).encode()
_FIRST_ID = 70711174378885120
_REQUEST = re.compile(rb"GET (\S+)\?(?:\S*&)?offset=(\d+)|GET (\S+)")
_LIMIT = re.compile(rb"limit=(\d+)")
_RESULT = (
    b'{"resource":{"href":"https://cavatica-api.sbgenomics.com/v2/files/5c6d5004e4b03856323893bb",'
    b'"id":"5c6d5004e4b03856323893bb"}}'
)


class Platform(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self, jobs: int, results: int) -> None:
        self._jobs = jobs
        self._before_id = b'{"href":"https://cavatica-api.sbgenomics.com/v2/async/files/copy/0","id":"'
        self._after_id = (
            b'","result":[%b],"type":"COPY","state":"FINISHED","failed_files":0,"completed_files":%d,'
            b'"total_files":%d,"started_on":"%b","finished_on":"%b"}'
            % (b",".join([_RESULT] * results), results, results, _FINISHED, _FINISHED)
        )
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]  # it is one

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            match = _REQUEST.match(head.removeprefix(b"null"))  # the official client's body of the request before
            path = b"" if match is None else match[1] or match[3]
            offset = 0 if match is None else int(match[2] or 0)
            self._answer(path, offset, int(found[1]) if (found := _LIMIT.search(head)) else 25)

    def _answer(self, path: bytes, offset: int, limit: int) -> None:
        body = b'{"username":"bench"}' if path.endswith(b"/user") else self._page(offset, limit)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %b\r\n"
            b"X-Total-Matching-Query: %d\r\nX-RateLimit-Limit: 1000000\r\nX-RateLimit-Remaining: 999999\r\n"
            b"X-RateLimit-Reset: %d\r\n\r\n%b"
            % (len(body), formatdate(usegmt=True).encode(), self._jobs, time.time() + 300, body)
        )

    def _page(self, offset: int, limit: int) -> bytes:
        ids = range(_FIRST_ID + offset, _FIRST_ID + min(self._jobs, offset + limit))
        items = b",".join(self._before_id + str(job_id).encode() + self._after_id for job_id in ids)
        port = self._transport.get_extra_info("sockname")[1]
        here = b"http://127.0.0.1:%d/v2/async/files?limit=%d&offset=" % (port, limit)
        links = b'{"href":"%b%d","rel":"next","method":"GET"}' % (here, offset + limit)
        return b'{"href":"%b%d","items":[%b],"links":[%b]}' % (
            here,
            offset,
            items,
            links if offset + limit < self._jobs else b"",
        )


async def main(jobs: int, results: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Platform(jobs, results), "127.0.0.1", 0)
    sys.stdout.write(f"url http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
