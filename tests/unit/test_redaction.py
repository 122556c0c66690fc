"""Secrets stay hidden."""

import json
import threading
from contextlib import ExitStack
from functools import partial

import pytest

from exporter.config.tokens import FixedToken
from exporter.redaction import MASK, Secret, Secrets
from tests.background import BackgroundTask
from tests.waiting import PATIENCE

TOKEN = "feedfacefeedfacefeedfacefeedface"


OTHER = "0123456789abcdef0123456789abcdef"


# ---- secrets ----


def test_a_secret_shows_stars_unless_it_is_told_to_reveal_itself() -> None:
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


def hiding(*secrets: str) -> Secrets:
    hiding = Secrets()
    for secret in secrets:
        hiding.hide(Secret(secret))
    return hiding


def test_a_secret_within_another_leaves_no_rest_of_it() -> None:
    for secrets in (hiding(TOKEN, TOKEN[:8]), hiding(TOKEN[:8], TOKEN)):
        assert secrets.hidden(f"{TOKEN} {TOKEN[:8]}") == f"{MASK} {MASK}"


def test_old_tokens_stay_hidden_and_an_empty_one_hides_nothing() -> None:
    secrets = hiding(TOKEN, "", "0123456789abcdef")

    assert secrets.hidden(f"{TOKEN} and 0123456789abcdef") == f"{MASK} and {MASK}"
    assert hiding("").hidden("plain") == "plain"


def test_secrets_of_many_accounts_hidden_at_once_are_all_hidden() -> None:
    secrets, start = Secrets(), threading.Barrier(8)

    def hide(number: int) -> None:
        start.wait(PATIENCE)
        for each in range(100):
            secrets.hide(Secret(f"secret-{number}-{each:03}"))

    with ExitStack() as stack:
        for number in range(8):
            stack.enter_context(BackgroundTask(partial(hide, number)))

    assert all(secrets.hidden(f"secret-{number}-{each:03}") == MASK for number in range(8) for each in range(100))
