from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.values import RunOutcome
from worker.errors import StudentFault
from worker.ports import StudentAnswer
from worker.student.reply import read_answer, read_retry_after_ms, read_status

#: Anything JSON can say, and a little more: Python reads and writes NaN and Infinity.
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def completion(message: object, finish_reason: object = "stop", **more: object) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"id": "r-1", "model": "m", "choices": [choice], **more}).encode()


def read(body: bytes) -> StudentAnswer:
    return read_answer(body, latency_ms=7)


def read_or_fault(body: bytes) -> StudentAnswer | StudentFault:
    try:
        return read(body)
    except StudentFault as fault:
        return fault


@st.composite
def near_completions(draw: st.DrawFn) -> bytes:
    """Completions in which anything may stand in any place."""
    message = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(MESSAGE_FIELDS, JSON)) | JSON)
    body = completion(message, draw(JSON), usage=draw(JSON), id=draw(JSON), model=draw(JSON))
    return draw(st.just(body) | st.integers(0, len(body)).map(lambda end: body[:end]))


MESSAGE_FIELDS = ("content", "refusal", "tool_calls", "function_call", "reasoning_content")


@given(body=st.binary() | near_completions())
def test_any_body_is_an_answer_that_can_be_stored_or_a_fault(body: bytes) -> None:
    came = read_or_fault(body)

    if isinstance(came, StudentFault):
        assert came.reason == "bad_body"
        assert came.retryable
        assert came.message.encode()
    else:
        assert (came.content or "").encode() is not None
        assert (came.outcome is RunOutcome.EMPTY) == (came.content is None)
        assert came.prompt_tokens >= 0
        assert came.completion_tokens >= 0


@given(content=st.text(min_size=1).filter(str.strip))
def test_the_answer_is_what_the_student_said_letter_for_letter(content: str) -> None:
    answer = read(completion({"role": "assistant", "content": content}))

    assert answer.content == content
    assert answer.outcome is RunOutcome.ANSWERED


def test_everything_the_server_says_about_the_answer_is_kept() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3}

    answer = read(completion({"content": "42"}, usage=usage))

    assert answer == StudentAnswer(
        outcome=RunOutcome.ANSWERED,
        content="42",
        prompt_tokens=12,
        completion_tokens=3,
        latency_ms=7,
        finish_reason="stop",
        response_id="r-1",
        model="m",
    )


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_null_or_blank_content_is_an_empty_answer_and_never_the_word_none(
    content: str | None,
) -> None:
    answer = read(completion({"role": "assistant", "content": content}))

    assert answer.outcome is RunOutcome.EMPTY
    assert answer.content is None


def test_a_message_without_content_is_an_empty_answer() -> None:
    assert read(completion({"role": "assistant"})).outcome is RunOutcome.EMPTY


def test_an_answer_cut_at_its_limit_keeps_what_was_said() -> None:
    answer = read(completion({"content": "half of it"}, "length"))

    assert answer.outcome is RunOutcome.CUT
    assert answer.content == "half of it"


def test_tokens_that_all_went_into_thinking_are_an_empty_answer() -> None:
    answer = read(completion({"content": None, "reasoning_content": "hmm"}, "length"))

    assert answer.outcome is RunOutcome.EMPTY
    assert answer.content is None
    assert answer.finish_reason == "length"


def test_tool_calls_are_what_the_student_said_as_json() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "book", "arguments": "{}"}}]

    alone = read(completion({"content": None, "tool_calls": calls}, "tool_calls"))
    beside = read(completion({"content": "Booking.", "tool_calls": calls}, "tool_calls"))

    assert alone.outcome is RunOutcome.ANSWERED
    assert json.loads(alone.content or "") == calls
    assert beside.content == f"Booking.\n{alone.content}"


def test_a_refusal_is_what_the_student_said() -> None:
    assert read(completion({"content": None, "refusal": "I won't."})).content == "I won't."


def test_content_in_parts_is_put_together() -> None:
    parts = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}, {"type": "image"}, 7]

    assert read(completion({"content": parts})).content == "42"


def test_half_a_surrogate_pair_becomes_something_that_can_be_stored() -> None:
    assert read(b'{"choices":[{"message":{"content":"a\\ud800b"}}]}').content == "a?b"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b'{"choices":[{"message":{"content":"cut o',
        b"null",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":{}}',
        b'{"choices":[null]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"text":"an old completion"}]}',
        b'{"choices":[{"message":{"content":42}}]}',
        b'{"choices":[{"message":{"content":{"text":"no"}}}]}',
        b"[" * 100_000,
        b'{"a":' + b"9" * 10_000 + b"}",
        b"\xff\xfe\xfa",
    ],
)
def test_what_is_no_completion_is_a_fault_and_no_answer(body: bytes) -> None:
    with pytest.raises(StudentFault) as raised:
        read(body)

    assert raised.value.reason == "bad_body"
    assert raised.value.retryable
    assert raised.value.status == 200
    assert len(raised.value.message) < 400


def test_an_error_in_a_200_is_a_fault_with_the_servers_words() -> None:
    with pytest.raises(StudentFault, match="model is still loading"):
        read(b'{"error":{"message":"model is still loading","code":503}}')


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (301, "refused", False),
        (400, "refused", False),
        (401, "refused", False),
        (403, "refused", False),
        (404, "refused", False),
        (408, "server_error", True),
        (413, "refused", False),
        (422, "refused", False),
        (425, "server_error", True),
        (429, "rate_limited", True),
        (500, "server_error", True),
        (501, "server_error", False),
        (502, "server_error", True),
        (503, "server_error", True),
        (504, "server_error", True),
        (529, "server_error", True),
    ],
)
def test_every_status_says_whether_to_try_again(
    status: int, reason: str, *, retryable: bool
) -> None:
    with pytest.raises(StudentFault) as raised:
        read_status(status, {}, b"busy")

    assert raised.value.reason == reason
    assert raised.value.retryable is retryable
    assert raised.value.status == status


@given(status=st.integers(200, 299))
def test_a_success_is_no_fault(status: int) -> None:
    read_status(status, {}, b"")


@given(status=st.integers(300, 999), body=st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_other_status_is_a_fault_whatever_its_body(status: int, body: bytes) -> None:
    with pytest.raises(StudentFault) as raised:
        read_status(status, {}, body)

    assert len(raised.value.message) < 500


def test_an_account_without_money_is_not_tried_again() -> None:
    with pytest.raises(StudentFault) as raised:
        read_status(429, {}, b'{"error":{"code":"insufficient_quota","message":"pay"}}')

    assert not raised.value.retryable


def test_what_a_server_says_about_keys_is_not_repeated() -> None:
    with pytest.raises(StudentFault) as raised:
        read_status(401, {}, b'{"error":{"message":"Incorrect key: sk-live-1234"}}')

    assert "sk-live" not in raised.value.message
    assert "api_key" in raised.value.message


DATE = {"date": "Sun, 22 Nov 2026 20:00:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "2"}, 2_000),
        ({"retry-after": "0.25"}, 250),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "1e99"}, 86_400_000),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "5", "retry-after-ms": "40"}, 40),
        ({"retry-after": "Sun, 22 Nov 2026 20:00:30 GMT", **DATE}, 30_000),
        ({"retry-after": "Sun, 22 Nov 2026 19:59:30 GMT", **DATE}, 0),
        ({"retry-after": "Sun, 22 Nov 2026 20:00:30 -0000", **DATE}, None),
        # Without the reply's own date there is nothing to count from.
        ({"retry-after": "Sun, 22 Nov 2026 20:00:30 GMT"}, None),
    ],
)
def test_how_long_to_wait_is_read_in_seconds_and_as_a_date(
    headers: dict[str, str], wait_ms: int | None
) -> None:
    assert read_retry_after_ms(headers) == wait_ms


@given(said=st.text(), date=st.text())
def test_any_wait_is_a_number_within_a_day_or_nothing(said: str, date: str) -> None:
    wait_ms = read_retry_after_ms({"retry-after": said, "date": date})

    assert wait_ms is None or 0 <= wait_ms <= 86_400_000
