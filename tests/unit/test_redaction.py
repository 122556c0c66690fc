"""Secrets stay hidden."""

import copy
import io
import json
import pickle
import pprint
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from traceback import TracebackException

import msgspec
import pytest
from pydantic import BaseModel, ValidationError

from exporter.api.allowance import Allowance
from exporter.api.client import Client
from exporter.api.deadline import Deadline
from exporter.api.transport import transport_to
from exporter.config.account_tables import AccountTable, SecretText
from exporter.config.accounts import AccountConfig
from exporter.config.endpoints import parse_proxy
from exporter.config.tokens import FixedToken, TokenFile, read_profiles
from exporter.errors import ConfigError, StateError, Unreachable
from exporter.logs import logger
from exporter.polling.stats import PollStats
from exporter.redaction import MASK, Secret, redact, shown
from tests.background import BackgroundTask
from tests.clocks import ManualClock
from tests.waiting import PATIENCE

TOKEN = "feedfacefeedfacefeedfacefeedface"


OTHER = "0123456789abcdef0123456789abcdef"


# ---- secrets ----


@dataclass
class Holder:
    name: str
    secret: Secret


class Table(BaseModel):
    token: SecretText


def _table() -> Table:
    return Table.model_validate({"token": TOKEN})


def _traceback_with_locals(secret: Secret) -> str:
    def fail(holder: Holder, headers: Mapping[str, Secret]) -> None:
        raise ZeroDivisionError(holder, headers)

    try:
        fail(Holder("a", secret), {"X-SBG-Auth-Token": secret})
    except ZeroDivisionError as error:
        return "".join(TracebackException.from_exception(error, capture_locals=True).format())
    return ""


PRINTED: Mapping[str, Callable[[Secret], str]] = {
    "str": str,
    "repr": repr,
    "format": lambda secret: f"{secret} {secret!r} {secret!s} {secret:>40}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031  # the older way prints it neither
    "list": lambda secret: f"{[secret]} {(secret,)} {{1: secret}}",
    "data class": lambda secret: f"{Holder('a', secret)} {asdict(Holder('a', secret))}",
    "token": lambda secret: f"{FixedToken(secret)!r} {secret}",
    "account": lambda secret: repr(AccountConfig("a", "https://x", "", FixedToken(secret), None, secret)),
    "pydantic": lambda secret: f"{_table()!r} {_table().model_dump()} {secret}",
    "pydantic's JSON": lambda secret: f"{_table().model_dump_json()} {secret}",
    "pprint": pprint.pformat,
    "copy": lambda secret: f"{copy.copy(secret)} {copy.deepcopy(secret)}",
    "locals in a traceback": _traceback_with_locals,
}


@pytest.mark.parametrize("way", PRINTED)
def test_secret_prints_asterisks(way: str) -> None:
    printed = PRINTED[way](Secret(TOKEN))

    assert MASK in printed
    assert TOKEN not in printed


@pytest.mark.parametrize(
    "encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, pickle.dumps, vars]
)
def test_secret_cannot_be_encoded(encode: Callable[[object], object]) -> None:
    for value in (Secret(TOKEN), [Secret(TOKEN)]):
        with pytest.raises(TypeError) as caught:
            encode(value)
        assert TOKEN not in str(caught.value)
    with pytest.raises(TypeError):
        Secret(TOKEN).__getstate__()


def test_invalid_settings_do_not_show_what_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        AccountTable.model_validate({"name": TOKEN, "auth_token": [TOKEN], "proxy": TOKEN, TOKEN[:8]: TOKEN})

    assert TOKEN not in f"{caught.value} {caught.value!r}"


def test_token_in_a_failed_request_is_in_no_frame_of_its_traceback() -> None:
    """Not even with local variables: the request, with its headers, is in the frames of httpx and h11."""
    deadline = Deadline()
    client = Client(
        "http://127.0.0.1:1/v2",
        transport_to(deadline, None, None),
        deadline,
        allowance=Allowance(1.0),
        clock=ManualClock(),
        observer=PollStats(ManualClock(), logger("json", "error", io.StringIO())),
        timeout=1.0,
    )
    client.use_token(Secret(TOKEN))
    with closing(client), pytest.raises(Unreachable) as caught:
        client.user()

    assert TOKEN not in "".join(TracebackException.from_exception(caught.value, capture_locals=True).format())


def test_unreadable_tokens_are_in_no_frame_of_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "spaces").write_text(f"{TOKEN} {OTHER}")
    (tmp_path / "latin").write_bytes(f"{TOKEN}".encode() + b"\xff")
    (tmp_path / "credentials").write_text(f"[default\nauth_token = {TOKEN}\n")
    for read in (
        TokenFile(tmp_path / "spaces").read,
        TokenFile(tmp_path / "latin").read,
        partial(read_profiles, tmp_path / "credentials"),
        partial(parse_proxy, Secret(f"socks5://{TOKEN}@x", masked=False), "here"),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        text = "".join(TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert TOKEN not in text.replace("TOKEN = ", "")


def test_secrets_are_equal_when_their_texts_are() -> None:
    assert Secret(TOKEN) == Secret(TOKEN)
    assert Secret(TOKEN) != Secret(OTHER)
    assert Secret(TOKEN) != TOKEN
    assert len({Secret(TOKEN), Secret(TOKEN), Secret(OTHER)}) == 2


def test_secret_within_another_secret_is_masked_whole() -> None:
    Secret(TOKEN[:8])
    Secret(TOKEN)

    assert redact(f"{TOKEN} {TOKEN[:8]}") == f"{MASK} {MASK}"


def test_old_secrets_stay_masked_and_short_ones_mask_nothing() -> None:
    for each in ("an-old-password", "", "this", "a-new-password"):
        Secret(each)

    assert redact("an-old-password and a-new-password") == f"{MASK} and {MASK}"
    assert redact("this") == "this"


def test_secrets_added_concurrently_are_all_masked() -> None:
    start = threading.Barrier(8)

    def read(number: int) -> None:
        start.wait(PATIENCE)
        for each in range(100):
            Secret(f"secret-{number}-{each:03}")

    with ExitStack() as stack:
        for number in range(8):
            stack.enter_context(BackgroundTask(partial(read, number)))

    assert all(redact(f"secret-{number}-{each:03}") == MASK for number in range(8) for each in range(100))


# ---- what looks like a token ----


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        TOKEN.upper(),
        TOKEN * 2,
        "Zm9v" + "aB3-_" * 12,
        "k8xq2" * 8,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    ],
)
@pytest.mark.parametrize("text", ["{}", "/etc/{}.token", "https://{}@host/v2", "--auth-token={}", "{}\n", "'{}'"])
def test_what_looks_like_a_token_is_masked_in_errors(token: str, text: str) -> None:
    for shown_text in (str(ConfigError(text.format(token))), *ConfigError(text.format(token)).problems):
        assert token not in shown_text
        assert MASK in shown_text


@pytest.mark.parametrize(
    "text",
    [
        "job 327292091756515328 was reported as not found",
        "/var/lib/sbg-exporter-production-cavatica-imaging-laboratory-of-2026/state.db",
        "0b4b1d2c-3f4e-4a5b-8c6d-7e8f9a0b1c2d",
        "https://cavatica-api.sbgenomics.com/v2",
        "5772b6c7507c1752674486d1",
        "sbg_exporter_last_full_listing_timestamp_seconds_of_the_account_cavatica_1",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert shown(text) == text


def test_a_job_id_stays_readable_in_the_log_and_a_known_secret_does_not() -> None:
    stream = io.StringIO()
    Secret(OTHER)
    log = logger("json", "info", stream)

    log.info("job.finished", job_id=TOKEN, reason=TOKEN)
    log.info("job.finished", job_id=OTHER)

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["job_id"], first["reason"], second["job_id"]) == (TOKEN, MASK, MASK)


# ---- control characters ----


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Müller-Lab 日本 🧬", "Müller-Lab 日本 🧬"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u202eleft \u2028 \x9b", "\\u202eleft \\u2028 \\x9b"),
        ("\udcff", "\\udcff"),
        ("\0", "\\x00"),
    ],
)
def test_control_characters_are_escaped_in_errors(text: str, escaped: str) -> None:
    assert str(StateError(text)) == escaped
