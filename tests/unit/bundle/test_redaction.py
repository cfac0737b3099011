from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.unit.traces.test_cells import JSON
from worker.bundle.redaction import MASK, VALUE_CHARS_MIN, Redactor

if TYPE_CHECKING:
    from worker.traces.cells import Json

SECRETS = {
    "aws key id": "AKIAIOSFODNN7EXAMPLE",
    "aws secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "anthropic": "sk-ant-api03-abcDEF012345-xyz",
    "openai": "sk-proj-abcDEF0123456789",
    "github": "ghp_0123456789abcdefABCDEF0123456789abcd",
    "github fine": "github_pat_11ABCDEFG0123456789_abcdefghij",
    "slack": "xoxb-123456789012-abcdefGHIJKL",
    "google": "AIzaSyA0123456789abcdefghijklmnopqrstu",
    "hugging face": "hf_abcdefghijklmnopqrstuvwxyz012345",
    "stripe": "sk_live_0123456789abcdefghij",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK=\n-----END RSA PRIVATE KEY-----",
    "slack hook": "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX",
}
BEFORE = st.sampled_from(["", " ", "\n", '"', "key is ", "see:", "(", "='", "\\n", "\\t", "\\\\n"])
AFTER = st.sampled_from(["", " ", "\n", '"', ", and then", ")", ". Or", "\\n"])


@pytest.mark.parametrize("secret", SECRETS.values(), ids=list(SECRETS))
@given(before=BEFORE, after=AFTER)
def test_a_credential_is_known_by_its_shape_wherever_it_stands(
    secret: str, before: str, after: str
) -> None:
    masked = Redactor().text(f"{before}{secret}{after}")

    telling = secret.removeprefix("https://hooks.slack.com")
    assert telling[:40] not in masked
    assert telling[-12:] not in masked


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('api_key = "abc12345"', "abc12345"),
        ("password: hunter2", "hunter2"),
        ("DB_PASSWORD=correct horse", "correct"),
        ('{"password": "a \\"quoted\\" one"}', "quoted"),
        ('{\\"client_secret\\": \\"zz top\\"}', "zz top"),
        ("Authorization: Bearer abcdefgh1234", "abcdefgh1234"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("header Bearer abc123def456", "abc123def456"),
        ("Cookie: session=abc; theme=dark", "dark"),
        ("postgres://admin:p@ss@db.example/x", "p@ss"),
        ("https://user:pw@example.com", "user:pw"),
        ("git clone https://0123456789abcdef0123@example.com", "0123456789abcdef0123"),
        ("my pin is 4711", "4711"),
        ("run --password hunter2 now", "hunter2"),
        ("https://example.com/?access_token=abcd1234efgh&x=1", "abcd1234efgh"),
        ("secretAccessKey: 'AbC'", "AbC"),
        ("auth_token=tok12345678", "tok12345678"),
    ],
)
def test_a_credential_is_known_by_its_name(text: str, secret: str) -> None:
    masked = Redactor().text(text)

    assert secret not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens = 30",
        '{"total_tokens": 900, "token_count": 5, "temperature": 0.0}',
        '"max_tokens": "4096"',
        '{"token": "The", "logprob": -0.1}',
        "the password is required",
        "the key: value",
        '"primary_key": "user_id_1"',
        'password = "${DB_PASSWORD}"',
        '{"password": {"type": "string"}}',
        "basic economy passengers may not change",
        "a bearer of bad news",
        "task-0123456789abcdef0123",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "the author: Jane",
        "next_page_token=CAUQAA",
        "https://example.com/a/b?x=1",
        "credit_card_4421486",
        "tokenizer = gpt2",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert Redactor().text(text) == text


VALUES = st.lists(st.text(min_size=1, max_size=12), max_size=3)


@given(VALUES, st.lists(st.sampled_from([*SECRETS.values(), "password=", "://u:", "@", MASK])
       | st.text(max_size=8), max_size=6).map("".join))  # fmt: skip
@example(["redacted"], "redacted")
@example(["]x", "[red"], "[redacted]x[red")
@example([], "user:a://b:c@d@e")
def test_masking_twice_changes_nothing_more(values: list[str], text: str) -> None:
    redactor = Redactor(values)

    once = redactor.text(text)

    assert redactor.text(once) == once


@given(st.text(min_size=VALUE_CHARS_MIN, max_size=30), JSON)
@example('with "quotes" and \\ and é', None)
@example("secret/with?url chars", None)
def test_a_known_credential_is_in_nothing_that_went_through(secret: str, rest: Json) -> None:
    assume(secret not in MASK)
    redactor = Redactor([secret])
    value: Json = {"a": f"x{secret}y", secret: [secret, {"b": json.dumps([secret])}], "rest": rest}

    masked = redactor.value(value)

    for text in _texts(masked):
        assert secret not in text.replace(MASK, "\x00")
    assert secret not in redactor.text(secret + secret).replace(MASK, "\x00")
    assert secret not in redactor.known(f"-{secret}-").replace(MASK, "\x00")
    cell = json.dumps(value)
    assert json.dumps(secret)[1:-1] not in redactor.cell(cell).replace(MASK, "\x00")


def _texts(value: Json) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _texts(item)]
        case dict():
            return [*value, *(text for item in value.values() for text in _texts(item))]
        case _:
            return []


@given(JSON)
def test_json_keeps_its_form(value: Json) -> None:
    masked = Redactor(["zzzz"]).value(value)

    assert type(masked) is type(value)
    if isinstance(value, list):
        assert isinstance(masked, list)
        assert len(masked) == len(value)


def test_names_count_at_every_depth_of_json() -> None:
    inner = json.dumps({"password": 'p "q" r', "user": "u"})
    value: Json = {
        "login": {"password": 12345, "tries": 3},
        "credentials": {"anything": "goes", "port": 1},
        "call": {"arguments": inner},
        "usage": {"max_tokens": 30, "total_tokens": 9},
        "token": "abc123def456",
        "tokens": ["The", "cat"],
    }

    masked = Redactor().value(value)

    assert masked == {
        "login": {"password": MASK, "tries": 3},
        "credentials": {"anything": MASK, "port": MASK},
        "call": {"arguments": '{"password":"[redacted]","user":"u"}'},
        "usage": {"max_tokens": 30, "total_tokens": 9},
        "token": MASK,
        "tokens": ["The", "cat"],
    }


def test_a_cell_without_a_credential_keeps_its_bytes() -> None:
    cell = '{"b" : 1.0,\n "a":  "max_tokens", "password": null}'

    assert Redactor(["other"]).cell(cell) == cell


def test_a_cell_with_a_credential_is_still_json() -> None:
    cell = '{"credentials": {"x": "goes"}, "login": {"password": 12345, "é": "kept"}}'

    assert json.loads(Redactor().cell(cell)) == {
        "credentials": {"x": MASK},
        "login": {"password": MASK, "é": "kept"},
    }


def test_the_first_of_two_equal_keys_is_no_hiding_place() -> None:
    cell = '{"password": "hunter2", "password": ""}'

    assert "hunter2" not in Redactor().cell(cell)
