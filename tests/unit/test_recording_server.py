"""What other tests rely on: a recording server misses no request."""

import httpx

from tests.recording_server import RecordingServer


def test_every_request_is_kept_with_its_headers_and_its_body() -> None:
    with RecordingServer(418, lambda headers: headers["x-who"]) as server, httpx.Client(trust_env=False) as client:
        answers = [
            client.get(f"{server.origin}/a?b=c", headers={"X-Who": "one"}),
            client.post(f"{server.origin}/d", content=b"{}", headers={"X-Who": "two"}),
        ]

    assert [(answer.status_code, answer.text) for answer in answers] == [(418, "one"), (418, "two")]
    assert [(each.method, each.path, each.headers["x-who"], each.body) for each in server.requests] == [
        ("GET", "/a?b=c", "one", b""),
        ("POST", "/d", "two", b"{}"),
    ]
