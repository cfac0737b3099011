"""The arithmetic of rates: estimates, headers, what a fault says about load."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core import rates
from worker.core.rates import Bucket, Ending, Rates, Window
from worker.core.teacher_faults import Failure, What, teacher_fault
from worker.core.teaching import TeacherRequest
from worker.errors import StudentFault, TeacherFault

MARK = {"type": "ephemeral"}


def text(letters: int, *, mark: bool = False) -> dict[str, object]:
    block: dict[str, object] = {"type": "text", "text": "x" * letters}
    return {**block, "cache_control": MARK} if mark else block


def request(
    *messages: dict[str, object], system: list[dict[str, object]] | None = None
) -> TeacherRequest:
    return TeacherRequest(
        model="claude-opus-4-6",
        max_tokens=100,
        system=system or [],
        messages=[{"role": "user", "content": [block]} for block in messages],
    )


# -------------------------------------------------------------------------------------- estimates


def test_a_first_prompt_counts_whole() -> None:
    assert rates.new_input_tokens(request(text(3_000, mark=True))) == pytest.approx(1_000, abs=30)


def test_a_later_prompt_counts_what_the_turn_before_did_not_send() -> None:
    asked = request(
        text(90_000, mark=True),
        text(30_000, mark=True),
        text(3_000, mark=True),
        system=[text(6_000, mark=True)],
    )

    assert rates.new_input_tokens(asked) == pytest.approx(1_000, abs=30)


def test_a_message_of_plain_text_counts_too() -> None:
    asked = TeacherRequest(
        model="m", max_tokens=1, system=[], messages=[{"role": "user", "content": "x" * 300}]
    )

    assert rates.new_input_tokens(asked) == pytest.approx(110, abs=10)


@pytest.mark.parametrize(
    ("model", "group"),
    [
        ("claude-opus-4-6", "opus-4"),
        ("claude-opus-4-5-20251101", "opus-4"),
        ("claude-opus-5", "opus-5"),
        ("claude-opus-5-5", "opus-5"),
        ("claude-haiku-4-5-20251001", "haiku-4"),
        ("Some Model/v2", "some-model-v2"),
        ("", "any"),
    ],
)
def test_models_of_a_family_share_their_limits(model: str, group: str) -> None:
    assert rates.model_group(model) == group


# ----------------------------------------------------------------------------------------- headers


def test_the_providers_limits_are_read_from_its_headers() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-input-tokens-limit": "2000000",
        "anthropic-ratelimit-output-tokens-limit": "400000",
        "anthropic-ratelimit-requests-remaining": "1",
    }

    told = rates.told_rates(headers)

    assert told == Rates(requests=4_000, input_tokens=2_000_000, output_tokens=400_000)


@pytest.mark.parametrize("said", ["", "0", "-3", "4e3", "1_000", "many", "9" * 30])
def test_a_header_that_makes_no_sense_tells_nothing(said: str) -> None:
    assert rates.told_rates({"anthropic-ratelimit-requests-limit": said}).requests is None


# ---------------------------------------------------------------------------- what faults say of load


def status(
    code: int, *, error_code: str = "", retry_after_ms: int | None = None, detail: str = "x"
) -> TeacherFault:
    return teacher_fault(
        Failure(
            what=What.STATUS,
            status=code,
            detail=detail,
            error_code=error_code,
            retry_after_ms=retry_after_ms,
        )
    )


def in_stream(error_type: str) -> TeacherFault:
    return teacher_fault(Failure(what=What.ERROR_EVENT, detail="x", error_type=error_type))


@pytest.mark.parametrize(
    ("fault", "outcome", "pause_ms", "stops"),
    [
        (status(429, retry_after_ms=7_000), "limited", 7_000, False),
        (status(429, retry_after_ms=900_000), "limited", 900_000, False),
        (status(429, retry_after_ms=86_400_000), "limited", 1_000, False),
        (status(429), "limited", 1_000, False),
        (status(429, error_code="ramp_limit_exceeded", retry_after_ms=9), "overloaded", 9, False),
        (status(529), "overloaded", 1_000, False),
        (status(504), "overloaded", 1_000, False),
        (status(503, retry_after_ms=50), "overloaded", 50, False),
        (status(500), "failed", 0, False),
        (status(400), "failed", 0, False),
        (status(401), "failed", 0, False),
        (status(429, error_code="enforced_spend_limit_reached"), "failed", 0, True),
        (status(402, error_code="linked_organization_spend_limit_reached"), "failed", 0, True),
        (
            status(400, detail="You have reached your specified API usage limits."),
            "failed",
            0,
            True,
        ),
        (in_stream("overloaded_error"), "overloaded", 1_000, False),
        (in_stream("rate_limit_error"), "limited", 1_000, False),
        (in_stream("api_error"), "failed", 0, False),
        (teacher_fault(Failure(what=What.CUT, detail="x")), "failed", 0, False),
        (teacher_fault(Failure(what=What.CONNECT, detail="x", sent=False)), "failed", 0, False),
    ],
)
def test_what_a_teachers_fault_says_about_the_load(
    fault: TeacherFault, outcome: str, pause_ms: int, *, stops: bool
) -> None:
    ending = rates.ending_of_fault(fault, chance=1.0)

    assert (ending.outcome, ending.pause_ms, ending.stops) == (outcome, pause_ms, stops)


@pytest.mark.parametrize(
    ("reason", "code", "retryable", "outcome"),
    [
        ("rate_limited", 429, True, "overloaded"),
        ("rate_limited", 429, False, "failed"),
        ("server_error", 503, True, "overloaded"),
        ("server_error", 500, True, "failed"),
        ("timeout", None, True, "overloaded"),
        ("connect", None, True, "failed"),
        ("bad_body", 200, True, "failed"),
    ],
)
def test_what_a_students_fault_says_about_the_load(
    reason: str, code: int | None, outcome: str, *, retryable: bool
) -> None:
    fault = StudentFault("x", reason=reason, retryable=retryable, status=code)

    assert rates.ending_of_student_fault(fault, chance=0.5).outcome == outcome


# --------------------------------------------------------------------------------------------- laws

some_ms = st.integers(0, 200_000)
per_minute = st.integers(1, 10_000_000)


@given(rate=per_minute, level=st.integers(-(10**14), 10**14), need=st.integers(1, 10**12))
def test_a_wait_is_just_long_enough(rate: int, level: int, need: int) -> None:
    wait_ms = rates.wait_for_ms(level, need, rate)

    assert level + wait_ms * rate >= need
    assert wait_ms == 0 or level + (wait_ms - 1) * rate < need


@given(rate=per_minute, first=some_ms, second=some_ms, level=st.integers(-(10**12), 10**9))
def test_refilling_twice_is_refilling_once(rate: int, first: int, second: int, level: int) -> None:
    bucket = Bucket(level, 0)

    twice = rates.refilled(rates.refilled(bucket, rate, first), rate, first + second)

    assert twice == rates.refilled(bucket, rate, first + second)
    assert twice.level <= max(rates.burst_parts(rate), level)


@given(
    rate=st.integers(60, 6_000),
    pauses_ms=st.lists(st.integers(1, 700), min_size=1, max_size=12),
    rest_ms=st.integers(0, 1_000),
    data=st.data(),
)
def test_a_request_that_comes_back_leaves_the_bucket_as_if_it_had_never_gone(
    rate: int, pauses_ms: list[int], rest_ms: int, data: st.DataObject
) -> None:
    def level_after(times_ms: list[int], now_ms: int) -> int:
        bucket = rates.refilled(None, rate, 0)
        for at_ms in times_ms:
            level = rates.refilled(bucket, rate, at_ms).level
            bucket = Bucket(level - rates.UNIT, at_ms)
        return rates.refilled(bucket, rate, now_ms).level

    times_ms = list[int]()
    for at_ms in accumulate(pauses_ms):
        if level_after(times_ms, at_ms) >= rates.UNIT:
            times_ms.append(at_ms)
    now_ms = sum(pauses_ms) + rest_ms
    gone_ms = data.draw(st.sampled_from(times_ms))
    level = level_after(times_ms, now_ms)
    ages_ms = [now_ms - at_ms for at_ms in reversed(times_ms) if at_ms > gone_ms]

    back = rates.given_back_parts(level, rate, ages_ms)

    others = [at_ms for at_ms in times_ms if at_ms != gone_ms]
    assert level + back == level_after(others, now_ms)


windows = st.builds(
    Window,
    milli=st.just(0) | st.integers(1_000, 500_000),
    aim_milli=st.just(0) | st.integers(1_000, 500_000),
    cut_ms=st.integers(0, 10_000),
    latency_ms=st.integers(0, 60_000),
    best_ms=st.integers(0, 60_000),
)
endings = st.builds(
    Ending,
    outcome=st.sampled_from(["answered", "limited", "overloaded", "failed", "unsent"]),
    latency_ms=st.integers(0, 60_000),
)


@given(
    window=windows,
    ending=endings,
    began_ms=st.integers(0, 10_000),
    under_way=st.integers(1, 600),
    watches=st.booleans(),
)
def test_there_is_always_room_for_one_and_one_call_adds_at_most_one(
    window: Window, ending: Ending, began_ms: int, under_way: int, *, watches: bool
) -> None:
    after = rates.after(
        window,
        ending,
        began_ms=began_ms,
        under_way=under_way,
        now_ms=10_001,
        watches_latency=watches,
    )

    assert after.milli == 0 or after.milli >= 1_000
    assert not window.milli or after.milli <= window.milli + 1_000
    if ending.outcome == "overloaded" and began_ms > window.cut_ms:
        assert after.milli <= max(under_way * 500, 1_000)


@given(wait_ms=st.integers(0, 10**7))
def test_a_wait_stays_within_its_bounds(wait_ms: int) -> None:
    assert rates.LEAST_WAIT_MS <= rates.spread_wait_ms(wait_ms) <= rates.LONGEST_WAIT_MS
