from __future__ import annotations

import tomllib
from datetime import date, datetime, time, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bundle.homes import tau_home
from worker.bundle.config import redact_config
from worker.bundle.redaction import MASK, Redactor
from worker.bundle.toml import write_toml

SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.dates(date(1000, 1, 1))
    | st.times()
    | st.datetimes(datetime(1000, 1, 1))  # noqa: DTZ001 - TOML knows times without a zone, too
    | st.datetimes(datetime(1000, 1, 1), timezones=st.just(timezone.utc))  # noqa: DTZ001, UP017
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)


@given(TREES)
def test_what_is_written_reads_as_what_was_meant(tree: dict[str, Any]) -> None:
    class Blind(Redactor):
        def text(self, text: str) -> str:
            return text

    assert tomllib.loads(write_toml(tree, Blind())) == tree


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=20))
def test_no_spelling_of_toml_hides_a_password(secret: str) -> None:
    escaped = "".join(f"\\U{ord(character):08x}" for character in secret)
    text = f'# it was {"x"}\nnote = "{escaped}"\n[a.b]\npassword = "{escaped}"\n'

    config = redact_config(text)

    shown = tomllib.loads(config.text)
    assert shown["a"]["b"]["password"] == MASK
    if config.secrets:
        assert config.secrets == {secret}
        assert secret not in shown["note"].replace(MASK, "\x00")


def test_credentials_go_and_everything_else_stays() -> None:
    config = redact_config("""
        # old password: swordfish
        [engine]
        default = "cloud"
        started = 1979-05-27T07:32:00Z
        [intelligence]
        model = "Meta-Llama-3-8B-Instruct"
        max_tokens = 30
        token_budget = 4
        temperature = 0.5
        [server]
        api_key = "${API_KEY}"
        key = "0123456789"
        primary_key = "customer_id"
        pin = 4711
        port = 8080
        url = "redis://user:pw12@host:1"
        nonce = "aB3dEfGh1jKlMnOpQ"
        [[channels]]
        bot_token = "short"
        name = "ops"
        [credentials]
        anything = "bar1"
    """)

    shown = tomllib.loads(config.text)
    assert shown == {
        "engine": {
            "default": "cloud",
            "started": datetime(1979, 5, 27, 7, 32, tzinfo=timezone.utc),  # noqa: UP017
        },
        "intelligence": {
            "model": "Meta-Llama-3-8B-Instruct",
            "max_tokens": 30,
            "token_budget": 4,
            "temperature": 0.5,
        },
        "server": {
            "api_key": MASK,
            "key": MASK,
            "primary_key": "customer_id",
            "pin": MASK,
            "port": 8080,
            "url": f"redis://{MASK}@host:1",
            "nonce": MASK,
        },
        "channels": [{"bot_token": MASK, "name": "ops"}],
        "credentials": {"anything": MASK},
    }
    assert "swordfish" not in config.text
    assert config.secrets == {"0123456789", "4711", "aB3dEfGh1jKlMnOpQ", "short", "bar1"}


def test_redacting_a_redacted_configuration_changes_nothing() -> None:
    once = redact_config((tau_home() / "config.toml").read_text())
    twice = redact_config(once.text)

    assert twice.text == once.text
    assert len(once.secrets) == 3
    assert Redactor(twice.secrets).text("anything [redacted]") == "anything [redacted]"


@pytest.mark.parametrize(
    "text",
    [
        "[x\npassword = 'hunter22'",
        "password = hunter22",
        'a = 1\na = 2\npassword = "hunter22"',
        "api_key: hunter22\n= 3",
    ],
)
def test_of_what_is_no_toml_only_the_harmless_is_shown(text: str) -> None:
    config = redact_config(text)

    assert "hunter22" not in config.text
    assert "not valid TOML" in config.remark
    tomllib.loads(config.text.splitlines()[0])


def test_the_credentials_of_broken_toml_are_still_known() -> None:
    config = redact_config("[x\npassword = 'hunter22'\nkey = swordfish-9\napi_key = swordfish-8\n")

    assert {"hunter22", "swordfish-8"} <= config.secrets


@given(st.text())
def test_no_text_can_break_it(text: str) -> None:
    config = redact_config(text)

    if not config.remark:
        tomllib.loads(config.text)


def test_times_are_written_as_toml_has_them() -> None:
    tree = {"at": datetime(2024, 5, 15, 15, 0), "on": date(2024, 5, 15), "by": time(7, 0)}  # noqa: DTZ001

    assert write_toml(tree, Redactor()) == (
        "at = 2024-05-15T15:00:00\non = 2024-05-15\nby = 07:00:00\n"
    )
