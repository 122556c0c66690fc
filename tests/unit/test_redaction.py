"""Secrets stay hidden."""

import json
import threading
from contextlib import ExitStack
from functools import partial

import pytest

from exporter.config.tokens import FixedToken
from exporter.redaction import MASK, Secret, redact
from tests.background import BackgroundTask
from tests.waiting import PATIENCE

TOKEN = "feedfacefeedfacefeedfacefeedface"


OTHER = "0123456789abcdef0123456789abcdef"


# ---- secrets ----


def test_secret_prints_asterisks_unless_revealed() -> None:
    secret = Secret(TOKEN)

    assert secret.reveal() == TOKEN
    assert f"{secret} {secret!r} {[secret]} {FixedToken(secret)!r}".count(MASK) == 3
    assert TOKEN not in f"{secret} {secret!r} {[secret]} {FixedToken(secret)!r}"
    with pytest.raises(TypeError):
        json.dumps(secret)


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
