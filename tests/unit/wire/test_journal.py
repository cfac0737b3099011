"""A journal line says what happened, and is read for years or refused, never guessed."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.core.strategies import endings, histories, payloads, stray_events, usages
from worker.core.events import (
    CallAnswered,
    CancelRequested,
    DeadlinePassed,
    Event,
    PreparationFailed,
    RunRecorded,
    SessionOpened,
    TeacherReplied,
    TeacherStopped,
    key_of,
)
from worker.core.values import (
    Blob,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    SessionSpec,
    Stop,
    Text,
    ToolCall,
)
from worker.errors import UnknownVersion
from worker.ports import Record
from worker.wire.journal import VERSION, decode, decode_all, encode, encode_all

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Words as a teacher, a student or a server may say them; half a surrogate pair is no text.
_WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def _replies() -> st.SearchStrategy[TeacherReplied]:
    calls = st.builds(ToolCall, call_id=_WORDS, tool=_WORDS, arguments_json=_WORDS)
    return st.builds(
        TeacherReplied,
        turn=st.integers(0, 200),
        purpose=st.sampled_from(Purpose),
        content=payloads(),
        stop_reason=_WORDS,
        calls=st.lists(calls, max_size=3).map(tuple),
        ending=st.none() | endings(),
        stop=st.none() | st.sampled_from(Stop),
        usage=usages(),
        cost_nusd=st.integers(0, 10**15),
        model=_WORDS,
        message_id=_WORDS,
        request_id=_WORDS,
        latency_ms=st.integers(0, 10**9),
    )


def _events() -> st.SearchStrategy[Event]:
    why = st.builds(
        TeacherStopped,
        turn=st.just(1),
        purpose=st.just(Purpose.EXPLORE),
        stop=st.sampled_from(Stop),
        detail=_WORDS,
    )
    return st.one_of(
        stray_events(),
        _replies(),
        why,
        st.builds(PreparationFailed, reason=_WORDS),
        st.builds(CancelRequested, reason=_WORDS),
    )


@given(event=_events())
@example(event=PreparationFailed(reason='"\\\u2028\0\x1b[2J\U0001f600'))
@example(event=CancelRequested(reason=""))
def test_an_event_comes_back_as_it_went(event: Event) -> None:
    key, body = encode(event)

    assert decode(body) == event
    assert key == key_of(event)
    assert "\n" not in body, "the record's head ends at the first line break"


@given(history=histories())
def test_a_whole_journal_comes_back_in_order(history: tuple[Event, ...]) -> None:
    lines = encode_all(history)

    assert decode_all(_records(lines)) == history


@given(event=_events())
def test_a_line_is_json_with_version_type_and_data(event: Event) -> None:
    line = json.loads(encode(event)[1])

    assert set(line) == {"v", "type", "data"}
    assert line["v"] == VERSION
    assert line["type"] == type(event).__name__


@given(event=_events())
def test_what_is_as_by_default_is_left_to_the_reader(event: Event) -> None:
    data = json.loads(encode(event)[1])["data"]

    assert not [name for name in data if _is_default(event, name)]


def test_a_line_of_an_older_worker_reads_with_the_defaults_of_what_it_did_not_know() -> None:
    old = '{"v":1,"type":"CallAnswered","data":{"turn":3,"index":0,"result":{"text":"ok"}}}'

    assert decode(old) == CallAnswered(turn=3, index=0, result=Text(text="ok"))


def test_a_text_and_a_blob_are_told_apart() -> None:
    blob = Blob(sha256="0" * 64, size_bytes=9)
    for payload in (Text(text="x"), Text(text='{"sha256": "0"}'), blob):
        event = CallAnswered(turn=1, index=0, result=payload)

        assert decode(encode(event)[1]) == event


UNREADABLE = {
    "a newer version": '{"v":2,"type":"DeadlinePassed","data":{}}',
    "an older version": '{"v":0,"type":"DeadlinePassed","data":{}}',
    "a version in words": '{"v":"1","type":"DeadlinePassed","data":{}}',
    "a list as version": '{"v":[1],"type":"DeadlinePassed","data":{}}',
    "no version": '{"type":"DeadlinePassed","data":{}}',
    "an unknown type": '{"v":1,"type":"TeacherSlept","data":{}}',
    "an object as type": '{"v":1,"type":{},"data":{}}',
    "a type that is a method": '{"v":1,"type":"__class__","data":{}}',
    "no type": '{"v":1,"data":{}}',
    "no data": '{"v":1,"type":"DeadlinePassed"}',
    "null as data": '{"v":1,"type":"DeadlinePassed","data":null}',
    "a missing field": '{"v":1,"type":"CancelRequested","data":{}}',
    "a wrong type": '{"v":1,"type":"CancelRequested","data":{"reason":5}}',
    "NaN as a number": '{"v":1,"type":"BundlePrepared","data":{"brief":{"text":""},"traces":NaN,"tasks":1}}',
    "an unknown purpose": '{"v":1,"type":"TeacherStopped","data":{"turn":1,"purpose":"rest",'
    '"stop":"fault","detail":""}}',
    "half a line": '{"v":1,"type":"DeadlinePassed","da',
    "no object": "[1]",
    "null": "null",
    "nothing": "",
    "no JSON": "DeadlinePassed",
    "nesting without end": "[" * 100_000,
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=list(UNREADABLE))
def test_what_cannot_be_read_is_refused_with_the_cure(body: str) -> None:
    with pytest.raises(UnknownVersion, match=r"cannot read the event .*: upgrade it") as refused:
        decode(body)

    assert len(refused.value.message) < 500, "a line may be long"


@given(body=st.text(max_size=60) | st.from_regex(r'\{"v":1,"type":"[A-Z]\w+","data":\{.*\}\}'))
def test_nothing_else_is_ever_raised(body: str) -> None:
    try:
        event = decode(body)
    except UnknownVersion:
        return
    assert decode(encode(event)[1]) == event


def test_one_line_that_cannot_be_read_refuses_the_whole_journal() -> None:
    lines = [encode(DeadlinePassed()), ("x", UNREADABLE["a newer version"])]

    with pytest.raises(UnknownVersion):
        decode_all(_records(lines))


def test_the_first_line_holds_the_whole_request() -> None:
    spec = SessionSpec(
        session_id="s-1",
        bundle_uri="s3://b/bundles/x.tar.gz",
        student="st",
        teacher="t",
        judge="j",
        teacher_model="claude-opus-4-6",
        judge_model="claude-haiku-4-5",
        tenant="acme",
        campaign="night",
        trigger="nightly",
        flagged_trace_ids=("one", "日本"),
        reveal_references=True,
    )

    assert decode(encode(SessionOpened(spec=spec))[1]) == SessionOpened(spec=spec)


def test_a_score_is_exact() -> None:
    event = RunRecorded(
        turn=1,
        index=0,
        ordinal=0,
        runner=Runner.STUDENT,
        spec=RunSpec(task_id="t", attempt=0),
        outcome=RunOutcome.ANSWERED,
        score=0.1 + 0.2,
        passed=False,
    )

    assert decode(encode(event)[1]) == event


def _records(lines: Iterable[tuple[str, str]]) -> list[Record]:
    return [Record(key=key, body=body, at_ms=0, owner="", attempt=0) for key, body in lines]


def _is_default(event: object, name: str) -> bool:
    assert is_dataclass(event)
    defaults: dict[str, Any] = {field.name: cast("Any", field).default for field in fields(event)}
    return defaults[name] == getattr(event, name)
