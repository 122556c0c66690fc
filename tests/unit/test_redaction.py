"""Secrets stay hidden."""

import json
import threading
from contextlib import ExitStack
from functools import partial

import pytest

from exporter.config.tokens import FixedToken
from exporter.redaction import MASK, Redactor, Secret
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


def redactor(*secrets: str) -> Redactor:
    redactor = Redactor()
    for secret in secrets:
        redactor.add(Secret(secret))
    return redactor


def test_secret_within_another_secret_is_masked_whole() -> None:
    for its_redactor in (redactor(TOKEN, TOKEN[:8]), redactor(TOKEN[:8], TOKEN)):
        assert its_redactor.redact(f"{TOKEN} {TOKEN[:8]}") == f"{MASK} {MASK}"


def test_old_tokens_stay_masked_and_an_empty_one_masks_nothing() -> None:
    its_redactor = redactor(TOKEN, "", "0123456789abcdef")

    assert its_redactor.redact(f"{TOKEN} and 0123456789abcdef") == f"{MASK} and {MASK}"
    assert redactor("").redact("plain") == "plain"


def test_secrets_added_concurrently_are_all_masked() -> None:
    redactor, start = Redactor(), threading.Barrier(8)

    def hide(number: int) -> None:
        start.wait(PATIENCE)
        for each in range(100):
            redactor.add(Secret(f"secret-{number}-{each:03}"))

    with ExitStack() as stack:
        for number in range(8):
            stack.enter_context(BackgroundTask(partial(hide, number)))

    assert all(redactor.redact(f"secret-{number}-{each:03}") == MASK for number in range(8) for each in range(100))
