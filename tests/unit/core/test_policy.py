"""The numbers that decide: who is tried again, when, and how often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core import policy
from worker.core.commands import (
    CallTool,
    Command,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
)
from worker.core.policy import GiveUp, Patience, TryAgain, after_fault, patience_for
from worker.core.values import Purpose, RunSpec, ToolCall
from worker.errors import NotYet, StudentFault, TeacherFault, Unavailable

CALL = ToolCall(call_id="toolu_1", tool="get_trace", arguments_json="{}")
SPEC = RunSpec(task_id="t", attempt=0)
COMMANDS: dict[str, Command] = {
    "prepare": Prepare(),
    "turn": TakeTurn(turn=1, purpose=Purpose.EXPLORE),
    "close": TakeTurn(turn=0, purpose=Purpose.CLOSE),
    "call": CallTool(turn=1, index=0, call=CALL),
    "run": RunStudent(turn=1, index=0, ordinal=0, spec=SPEC),
    "judge": JudgeRun(turn=1, index=0, ordinal=0),
    "conclude": Conclude(),
}
OVERLOADED = TeacherFault("529 overloaded", billing="unbilled", retry="later", status=529)
TIMED_OUT = StudentFault("no answer in 60 s", reason="timeout", retryable=True)
OUTAGE = Unavailable("Redis did not answer")
BUG = KeyError("trace_id")

patiences = st.builds(
    Patience,
    retries=st.integers(0, 50),
    base_ms=st.integers(1, 5_000),
    longest_ms=st.integers(1, 60_000),
)
chances = st.floats(0, 1)


def delays_ms(patience: Patience, *, chance: float) -> list[int]:
    """Return every wait of a step that keeps failing until it is given up."""
    waits: list[int] = []
    while len(waits) < 100:
        decision = after_fault(
            patience, retries=len(waits), retryable=True, retry_after_ms=None, chance=chance
        )
        if isinstance(decision, GiveUp):
            return waits
        waits.append(decision.delay_ms)
    return waits


@given(patience=patiences, chance=chances)
def test_a_step_is_tried_again_as_often_as_its_patience_says(
    patience: Patience, chance: float
) -> None:
    assert len(delays_ms(patience, chance=chance)) == patience.retries


@given(patience=patiences, retries=st.integers(0, 10**9), chance=chances)
def test_what_cannot_succeed_is_given_up_at_once(
    patience: Patience, retries: int, chance: float
) -> None:
    decision = after_fault(
        patience, retries=retries, retryable=False, retry_after_ms=1, chance=chance
    )

    assert decision == GiveUp()


@given(patience=patiences, chance=chances)
def test_waits_grow_up_to_the_longest_and_spread_over_their_upper_half(
    patience: Patience, chance: float
) -> None:
    waits = delays_ms(patience, chance=chance)

    assert waits == sorted(waits)
    for retries, wait_ms in enumerate(waits):
        ceiling_ms = min(patience.base_ms * 2**retries, patience.longest_ms)
        assert ceiling_ms // 2 <= wait_ms <= ceiling_ms


@given(
    patience=patiences.filter(lambda patience: patience.retries > 0),
    retry_after_ms=st.integers(0, 10**7),
    chance=chances,
)
def test_what_the_server_asked_for_is_never_undercut(
    patience: Patience, retry_after_ms: int, chance: float
) -> None:
    said = after_fault(
        patience, retries=0, retryable=True, retry_after_ms=retry_after_ms, chance=chance
    )
    unsaid = after_fault(patience, retries=0, retryable=True, retry_after_ms=None, chance=chance)

    assert isinstance(said, TryAgain)
    assert isinstance(unsaid, TryAgain)
    assert said.delay_ms == max(unsaid.delay_ms, retry_after_ms)


@given(retries=st.integers(0, 999_999))
def test_a_long_outage_overflows_nothing(retries: int) -> None:
    patience = patience_for(Conclude(), OUTAGE)
    decision = after_fault(
        patience, retries=retries, retryable=True, retry_after_ms=None, chance=1.0
    )

    assert isinstance(decision, TryAgain)
    assert decision.delay_ms <= 15_000


@pytest.mark.parametrize(
    ("step", "fault", "at_least_ms", "at_most_ms", "tries"),
    [
        # 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 s, the lower half of each by chance
        ("turn", OVERLOADED, 91_500, 183_000, 9),
        ("close", OVERLOADED, 91_500, 183_000, 9),
        ("judge", OVERLOADED, 91_500, 183_000, 9),
        ("call", OVERLOADED, 91_500, 183_000, 9),
        # 0.5 + 1 + 2 + 4 s
        ("run", TIMED_OUT, 3_750, 7_500, 5),
        # 0.5 + 1 s
        ("run", BUG, 750, 1_500, 3),
        ("turn", BUG, 750, 1_500, 3),
        ("conclude", BUG, 750, 1_500, 3),
    ],
)
def test_a_fault_is_waited_out_for_this_long(
    step: str, fault: Exception, at_least_ms: int, at_most_ms: int, tries: int
) -> None:
    patience = patience_for(COMMANDS[step], fault)

    assert sum(delays_ms(patience, chance=0.0)) == at_least_ms
    assert sum(delays_ms(patience, chance=1.0)) == at_most_ms
    assert patience.retries + 1 == tries


@pytest.mark.parametrize("step", COMMANDS)
def test_an_outage_of_our_own_servers_is_waited_out_whatever_the_step(step: str) -> None:
    waits = delays_ms(patience_for(COMMANDS[step], OUTAGE), chance=1.0)

    # still trying after the longest session there is
    assert sum(waits) + 15_000 * (1_000_000 - len(waits)) > 86_400_000
    assert waits[-1] == 15_000


@pytest.mark.parametrize("step", COMMANDS)
def test_what_ends_by_itself_is_waited_for_in_short_steps(step: str) -> None:
    waits = delays_ms(patience_for(COMMANDS[step], NotYet("not yet")), chance=1.0)

    assert waits[:6] == [200, 400, 800, 1_600, 2_000, 2_000]
    assert len(waits) == 100


@pytest.mark.parametrize("step", ["prepare", "conclude"])
def test_our_own_work_is_not_given_up_for_a_fault_that_may_pass(step: str) -> None:
    fault = OVERLOADED
    assert patience_for(COMMANDS[step], fault) == patience_for(COMMANDS[step], OUTAGE)


def test_the_clocks_of_a_lease_fit_into_each_other() -> None:
    # A worker may miss two beats, and a claim is not told again while it is young.
    assert policy.BEAT_MS * 3 < policy.LEASE_MS
    assert policy.SWEEP_MS < policy.GRACE_MS <= policy.LONGEST_GRACE_MS
    assert policy.CONCLUDE_WAIT_MS < policy.BEAT_MS
