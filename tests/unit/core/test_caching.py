"""The prompt cache's rules: breakpoints, lifetimes, and a reason for every miss.

Rule: what a request looks like is asked of the real transcript; what the provider would have kept is
worked out beside it, and the reason must follow.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.told import Told, text_of
from worker.core.caching import (
    LOOKBACK_BLOCKS,
    TTL_MS,
    Miss,
    cache_saved_nusd,
    cache_uses,
    sent_prompt,
    ttl_for,
    ttl_of_next_turn,
)
from worker.core.events import RunRecorded, TeacherReplied
from worker.core.machine import Session, fold
from worker.core.prices import known_models, price_of
from worker.core.teaching import TeacherRequest
from worker.core.transcript import exploring_request
from worker.core.values import Limits, SentPrompt, Text, Usage
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from collections.abc import Callable

OPUS = price_of("claude-opus-5").rates
NOON_MS = 1_800_000_000_000
MINUTE_MS = 60_000
KEPT = Usage(cache_read_tokens=3_000, cache_write_5m_tokens=1_000, output_tokens=100)


def asked(session: Session) -> TeacherRequest:
    return exploring_request(session, anthropic_tools(), text_of)


def marks(request: TeacherRequest) -> list[tuple[str, int, str]]:
    """Return (role, message, ttl) of every breakpoint; one in the system prompt is message -1."""
    places: list[tuple[str, int, list[dict[str, Any]]]] = [("system", -1, request.system)]
    places += [(m["role"], n, m["content"]) for n, m in enumerate(request.messages)]
    return [
        (role, number, block["cache_control"].get("ttl", "5m"))
        for role, number, blocks in places
        for block in blocks
        if "cache_control" in block
    ]


def explored(turns: int, **changes: Any) -> Told:
    told = Told.prepared(teacher_model="claude-opus-5", **changes)
    for number in range(turns):
        told.reads("list_traces", {"offset": number}, f"result {number}")
    return told


# ------------------------------------------------------------------------------ where they stand


@pytest.mark.parametrize("turns", range(6))
def test_a_turn_reads_where_the_turn_before_wrote(turns: int) -> None:
    before = marks(asked(explored(turns).session))
    after = marks(asked(explored(turns + 1).session))

    assert before[0] == ("system", -1, "5m")
    assert before[1] == ("user", 0, "5m")
    assert len(after) <= 4
    # The newest breakpoint of a turn stands where the next one looks first.
    assert before[-1] in after
    assert after[-1][1] == 2 * (turns + 1)


@pytest.mark.parametrize("turns", range(5))
def test_every_request_begins_with_the_bytes_of_the_one_before(turns: int) -> None:
    def bare(request: TeacherRequest) -> str:
        text = json.dumps([request.tools, request.system, *request.messages], ensure_ascii=False)
        return text.replace(', "cache_control": {"type": "ephemeral"}', "")

    before = bare(asked(explored(turns).session))
    after = bare(asked(explored(turns + 1).session))

    assert after.startswith(before.removesuffix("]"))


def test_the_last_turn_writes_nothing_that_nobody_will_read() -> None:
    last = marks(asked(explored(3, limits=Limits(max_turns=4)).session))

    assert [number for _, number, _ in last] == [-1, 0, 2, 4]
    # The newest message is number 6: it is read plainly.


def test_making_a_request_twice_gives_the_same_bytes_and_leaves_the_session_alone() -> None:
    session = explored(3).session

    assert json.dumps(asked(session).messages) == json.dumps(asked(session).messages)


# ------------------------------------------------------------------------------------ time to live


@pytest.mark.parametrize(
    ("turns_kept", "long_in_a_hundred", "ttl"),
    [
        # 0.75 / (10 x 1.15) = 6.5 %
        (10, 6, "5m"),
        (10, 7, "1h"),
        # 0.75 / (30 x 1.15) = 2.17 %
        (30, 2, "5m"),
        (30, 3, "1h"),
        # All of it is new: 0.75 / 1.15 = 65.2 %
        (1, 65, "5m"),
        (1, 66, "1h"),
        (30, 0, "5m"),
    ],
)
def test_the_break_even_is_where_the_arithmetic_says(
    turns_kept: int, long_in_a_hundred: int, ttl: str
) -> None:
    chosen = ttl_for(
        OPUS,
        long_gaps=long_in_a_hundred,
        gaps=100,
        prefix_tokens=turns_kept * 1_000,
        new_tokens=1_000,
    )

    assert chosen == ttl


@given(
    model=st.sampled_from(known_models()),
    long_gaps=st.integers(0, 40),
    short_gaps=st.integers(0, 40),
    prefix_tokens=st.integers(0, 900_000),
    new_tokens=st.integers(0, 900_000),
)
def test_the_choice_is_the_cheaper_one_in_the_mean(
    model: str, long_gaps: int, short_gaps: int, prefix_tokens: int, new_tokens: int
) -> None:
    rates = price_of(model).rates
    gaps = long_gaps + short_gaps
    chosen = ttl_for(
        rates,
        long_gaps=long_gaps,
        gaps=gaps,
        prefix_tokens=prefix_tokens,
        new_tokens=new_tokens,
    )

    def cost_pusd(ttl: str) -> int:
        """Return what this turn's write and the next turn's prefix cost, over all gaps."""
        write = rates.cache_write_5m_pusd if ttl == "5m" else rates.cache_write_1h_pusd
        lost = long_gaps if ttl == "5m" else 0
        found = gaps - lost
        prefix_pusd = lost * rates.cache_write_5m_pusd + found * rates.cache_read_pusd
        return gaps * new_tokens * write + prefix_tokens * prefix_pusd

    other = "1h" if chosen == "5m" else "5m"
    assert cost_pusd(chosen) <= cost_pusd(other)


def at_minutes(told: Told, *minutes: int) -> Session:
    """Return the session with its turns asked at these times."""
    times = iter(minutes)
    events = [
        replace(event, sent=SentPrompt(asked_ms=NOON_MS + next(times) * MINUTE_MS))
        if isinstance(event, TeacherReplied)
        else event
        for event in told.events
    ]
    return fold(events)


def test_a_session_whose_tools_take_minutes_keeps_its_entries_for_an_hour() -> None:
    quick = at_minutes(explored(4), 0, 1, 2, 3)
    slow = at_minutes(explored(4), 0, 1, 9, 10)
    hopeless = at_minutes(explored(4), 0, 61, 122, 183)

    assert ttl_of_next_turn(quick) == "5m"
    assert ttl_of_next_turn(slow) == "1h"
    assert ttl_of_next_turn(hopeless) == "5m", "an hour would not have helped either"
    assert ttl_of_next_turn(explored(0).session) == "5m"
    assert {ttl for *_, ttl in marks(asked(slow))} == {"1h"}, "none may follow one that lives less"


def test_a_slow_student_is_known_before_its_first_batch() -> None:
    told = explored(8).students(t_1="p")
    events = [
        replace(event, latency_ms=70_000) if isinstance(event, RunRecorded) else event
        for event in told.events
    ]

    assert ttl_of_next_turn(told.session) == "5m"
    assert ttl_of_next_turn(fold(events)) == "1h"


def test_a_model_without_a_price_is_given_the_short_life() -> None:
    told = Told.prepared(teacher_model="a-model-of-yours").reads("list_traces", {}, "r")

    assert ttl_of_next_turn(at_minutes(told.reads("list_traces", {}, "r"), 0, 9)) == "5m"


# ------------------------------------------------------------------------------------------ misses


def replied(
    told: Told, *, gap_ms: int = MINUTE_MS, usage: Usage = KEPT, delta: bool = False
) -> list[TeacherReplied]:
    """Return the turns as they were really asked, one after the other."""
    turns = told.session.turns
    for number, turn in enumerate(turns):
        request = asked(replace(told.session, turns=turns[:number]))
        before = [turn.reply for turn in turns[:number]] if delta else []
        sent = sent_prompt(request, asked_ms=NOON_MS + number * gap_ms, before=before)
        reply = replace(turn.reply, model="claude-opus-5", sent=sent, usage=usage)
        turns = (*turns[:number], replace(turn, reply=reply), *turns[number + 1 :])
    return [turn.reply for turn in turns]


def missed(reply: TeacherReplied, **changes: Any) -> TeacherReplied:
    """Return a reply that read nothing but what all sessions share."""
    usage = Usage(cache_read_tokens=500, cache_write_5m_tokens=5_000, output_tokens=100)
    return replace(reply, usage=usage, **changes)


def resent(reply: TeacherReplied, **changes: Any) -> TeacherReplied:
    assert reply.sent is not None
    return replace(reply, sent=replace(reply.sent, **changes))


def test_a_turn_that_reads_all_that_was_kept_missed_nothing() -> None:
    replies = replied(explored(3))
    replies[1:] = [
        replace(reply, usage=replace(KEPT, cache_read_tokens=4_000)) for reply in replies[1:]
    ]

    uses = cache_uses([replies[0], replies[1]])

    assert [use.miss for use in uses] == [None, None]
    assert (uses[1].read_tokens, uses[1].written_tokens, uses[1].missed_tokens) == (4_000, 1_000, 0)


def test_a_first_call_says_so_and_one_that_reads_the_shared_prefix_does_not() -> None:
    (cold,) = replied(explored(1), usage=Usage(cache_write_5m_tokens=4_000))
    (warm,) = replied(explored(1))
    (small,) = replied(explored(1), usage=Usage(input_tokens=400))

    assert cache_uses([cold])[0].miss is Miss.FIRST_CALL
    assert cache_uses([warm])[0].miss is None
    assert cache_uses([small])[0].miss is Miss.TOO_SMALL
    assert "400 tokens" in cache_uses([small])[0].why
    assert "512" in cache_uses([small])[0].why


def test_a_miss_after_five_minutes_says_how_long_it_was() -> None:
    first, second = replied(explored(2), gap_ms=301_000)

    (_, use) = cache_uses([first, missed(second)])

    assert use.miss is Miss.EXPIRED
    assert use.missed_tokens == 3_500
    assert use.why == "301 s after the call before; entries live 300 s"


def test_an_entry_of_an_hour_has_not_expired_after_ten_minutes() -> None:
    first, second = replied(explored(2), gap_ms=600_000)
    assert first.sent is not None
    long = tuple(mark.replace("5m", "1h") for mark in first.sent.breakpoints)

    (_, use) = cache_uses([resent(first, breakpoints=long), missed(second)])

    assert use.miss is Miss.EVICTED


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (0, "tools"),
        (1, "system prompt"),
        (2, "brief"),
        (3, "message 2 (reply of turn 1)"),
        (4, "message 3 (results of turn 1)"),
    ],
)
def test_a_changed_prefix_is_named_by_the_part_that_changed(part: int, named: str) -> None:
    _, second, third = replied(explored(3))
    assert third.sent is not None
    parts = tuple("0:1" if n == part else one for n, one in enumerate(third.sent.parts))

    (_, use) = cache_uses([second, missed(resent(third, parts=parts))])

    assert use.miss is Miss.PREFIX_CHANGED
    assert use.why == f"the prompt changed from its {named} on"


def test_another_model_shares_no_entry() -> None:
    first, second = replied(explored(2))

    (_, use) = cache_uses([first, missed(second, model="claude-opus-5-5")])

    assert use.miss is Miss.MODEL_CHANGED


def test_a_breakpoint_that_stands_too_far_behind_is_told() -> None:
    first, second = replied(explored(2))
    assert first.sent is not None
    last = int(first.sent.breakpoints[-1].split(":")[0])

    def use(*blocks: int) -> tuple[Miss | None, str]:
        marked = tuple(f"{block}:5m" for block in blocks)
        _, use = cache_uses([first, missed(resent(second, breakpoints=marked))])
        return use.miss, use.why

    assert use(last + LOOKBACK_BLOCKS) == (
        Miss.LOOKBACK,
        "the next breakpoint 20 blocks behind the end of what was kept; it looks 20",
    )
    assert use(last + LOOKBACK_BLOCKS - 1)[0] is Miss.EVICTED
    assert use(last - 1)[0] is Miss.LOOKBACK


def test_an_old_journal_gives_no_reason_but_the_numbers() -> None:
    first, second = replied(explored(2))

    (_, use) = cache_uses([replace(first, sent=None), missed(second)])

    assert (use.miss, use.missed_tokens) == (Miss.UNKNOWN, 3_500)


def test_a_call_that_wrote_nothing_leaves_nothing_to_be_read() -> None:
    plain = Usage(input_tokens=4_000)
    first, second = replied(explored(2), usage=plain)

    (_, use) = cache_uses([first, second])

    assert (use.miss, use.missed_tokens) == (Miss.NOT_KEPT, 0)


@given(
    usages=st.lists(
        st.builds(
            Usage,
            input_tokens=st.integers(0, 9_000),
            cache_write_5m_tokens=st.integers(0, 9_000),
            cache_write_1h_tokens=st.integers(0, 9_000),
            cache_read_tokens=st.integers(0, 9_000),
        ),
        max_size=5,
    ),
    gap_ms=st.sampled_from([0, 1_000, *TTL_MS.values()]),
)
def test_every_token_that_was_missed_has_a_reason(usages: list[Usage], gap_ms: int) -> None:
    replies = [
        replace(reply, usage=usage)
        for reply, usage in zip(replied(explored(len(usages)), gap_ms=gap_ms), usages, strict=True)
    ]

    for use, reply in zip(cache_uses(replies), replies, strict=True):
        assert use.read_tokens + use.written_tokens + use.uncached_tokens == (
            reply.usage.prompt_tokens
        )
        assert use.missed_tokens >= 0
        assert bool(use.why) == (use.miss is not None)
        assert use.miss is not None or not use.missed_tokens


def test_what_the_cache_saved_is_the_difference_to_the_plain_price() -> None:
    # 4,000 tokens at $5 less 3,000 at $0.50 and 1,000 at $6.25 a million.
    (reply,) = replied(explored(1))

    assert cache_saved_nusd([reply]) == 20_000_000 - 1_500_000 - 6_250_000
    assert cache_saved_nusd([replace(reply, model="a-model-of-yours")]) == 0


# ---------------------------------------------------------------------------------------- what was sent


def _same(request: TeacherRequest) -> TeacherRequest:
    return request


def _other_tool(request: TeacherRequest) -> TeacherRequest:
    return replace(request, tools=[*request.tools[1:], {**request.tools[0], "description": "x"}])


def _other_order(request: TeacherRequest) -> TeacherRequest:
    message = dict(reversed(request.messages[0]["content"][0].items()))
    return replace(request, messages=[{**request.messages[0], "content": [message]}])


@pytest.mark.parametrize(
    ("change", "is_equal"), [(_same, True), (_other_tool, False), (_other_order, False)]
)
def test_what_was_sent_differs_where_the_bytes_do(
    change: Callable[[TeacherRequest], TeacherRequest], is_equal: bool
) -> None:
    request = asked(explored(0).session)
    bare = json.loads(json.dumps(request.messages))
    del bare[0]["content"][0]["cache_control"]

    sent, other = (
        sent_prompt(one, asked_ms=NOON_MS)
        for one in (replace(request, messages=bare), change(replace(request, messages=bare)))
    )

    assert (sent.parts == other.parts) is is_equal
    assert sent.parts == sent_prompt(request, asked_ms=0).parts, "breakpoints are no part of it"


def test_what_a_prompt_shares_with_the_turn_before_is_not_said_again() -> None:
    whole, delta = (replied(explored(9), delta=said) for said in (False, True))

    sizes = [len(reply.sent.parts) for reply in delta if reply.sent]
    assert sizes == [3, *[2] * 8]
    assert cache_uses(delta) == cache_uses(whole)


@pytest.mark.parametrize("turn", [2, 5])
def test_a_prefix_that_changed_is_named_from_deltas_as_well(turn: int) -> None:
    def changed(replies: list[TeacherReplied], number: int) -> list[TeacherReplied]:
        return [*replies[:turn], missed(replies[turn]), *replies[turn + 1 :]][: number + 1]

    whole, delta = (replied(explored(7), delta=said) for said in (False, True))
    sent = delta[turn].sent
    assert sent is not None
    delta[turn] = resent(delta[turn], same=2, parts=("00000000:1", *sent.parts))
    whole[turn] = resent(whole[turn], parts=(*(whole[turn].sent or sent).parts[:2], "00000000:1"))

    uses = [cache_uses(changed(replies, turn))[-1] for replies in (whole, delta)]
    assert uses[0].miss is uses[1].miss is Miss.PREFIX_CHANGED
    assert uses[0].why == uses[1].why == "the prompt changed from its brief on"


def test_what_is_noted_of_a_long_turn_stays_small() -> None:
    told = explored(30, limits=Limits(max_turns=40))
    session = told.session

    sent = sent_prompt(asked(session), asked_ms=NOON_MS)

    assert len(sent.parts) == 2 + 1 + 60
    assert sum(map(len, sent.parts)) < 1_000
    assert sent.breakpoints[-1].startswith(str(14 + 1 + 1 + 30 * 2 + 30))


def test_a_text_that_stands_alone_is_one_block() -> None:
    request = TeacherRequest(
        model="m", max_tokens=1, system=[], messages=[{"role": "user", "content": "hello"}]
    )

    assert sent_prompt(request, asked_ms=0).parts[-1].endswith(":1")
    assert text_of(Text(text="hello")) == "hello"
