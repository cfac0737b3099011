"""Whether a session can be afforded, what it is expected to cost, and what is kept for its closing call.

Rule: the closing call's money is held from the first moment, so that whatever limit ends the
exploration, there is a diagnosis. An expectation says where its number comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.bounds import call_bound_nusd, prompt_bound_tokens
from worker.core.prices import PRICE_VERSION, cost_nusd, usd
from worker.core.transcript import CLOSING_OUTPUT_TOKENS
from worker.core.values import Usage
from worker.errors import RequestInvalid

if TYPE_CHECKING:
    from worker.core.prices import Price
    from worker.core.values import Limits

__all__ = ["ClosingPlan", "Expectation", "expected_cost", "plan_closing"]

#: Sizes that the closing call's context may have; the largest that takes at most a quarter of the
#: cap is used. 48 KB hold the brief, a table of 300 tasks and the notes of about 15 turns.
CONTEXT_BYTES = (48_000, 24_000, 12_000, 6_000)
#: The system prompt and the submission tool's schema come on top of the notes.
OVERHEAD_BYTES = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingPlan:
    """What the closing call may be given and what is held for it."""

    context_bytes: int
    hold_nusd: int


def plan_closing(price: Price, cap_nusd: int) -> ClosingPlan:
    """Return the closing call that a cap allows.

    Raises:
        RequestInvalid: Even the smallest one costs more than the cap.
    """
    plans = [_plan(price, size) for size in CONTEXT_BYTES]
    for plan in plans:
        if plan.hold_nusd <= cap_nusd // 4:
            return plan
    smallest = plans[-1]
    if smallest.hold_nusd > cap_nusd:
        raise RequestInvalid(
            f"limits.max_cost_usd: {usd(cap_nusd)} does not carry one closing call of "
            f"{price.model}, which takes up to {usd(smallest.hold_nusd)}: raise the cap or name a "
            "cheaper teacher",
            field="limits.max_cost_usd",
        )
    return smallest


#: What a turn adds to the conversation, in tokens, reply and results: an assumption, as a turn with
#: some 15 KB of results does. A fleet that knows better says so (`expected_session_usd`).
TURN_TOKENS = 5_000
#: What a turn generates; assumed.
TURN_OUTPUT_TOKENS = 700
#: System prompt, tools and brief; assumed.
BASE_TOKENS = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a session is expected to cost, and how that is known."""

    cost_nusd: int
    source: str


def expected_cost(
    price: Price, limits: Limits, closing_hold_nusd: int, measured_nusd: int | None = None
) -> Expectation:
    """Return what a session that uses all of its turns costs; never more than its cap.

    With caching, a turn reads all that was said before and writes what is new. Students cost nothing
    here; the teacher's own runs and the judge are in the margin between a session that uses all of its
    turns and the usual one.

    Args:
        price: Of the teacher's model.
        limits: Of the session.
        closing_hold_nusd: Held for the closing call: never less than that.
        measured_nusd: What nine of ten sessions of this fleet cost, where somebody says so.
    """
    if measured_nusd is not None:
        source = f"the setting expected_session_usd, {usd(measured_nusd)}"
        expected = measured_nusd
    else:
        turns = limits.max_turns
        source = (
            f"{turns} turns of {price.model} with {TURN_TOKENS} new tokens each, "
            f"at the prices of {PRICE_VERSION}"
        )
        expected = closing_hold_nusd + sum(_turn_nusd(price, turn) for turn in range(turns))
    expected = max(expected, closing_hold_nusd)
    if expected > limits.max_cost_nusd:
        return Expectation(cost_nusd=limits.max_cost_nusd, source=f"its cap; {source} is more")
    return Expectation(cost_nusd=expected, source=source)


def _turn_nusd(price: Price, turn: int) -> int:
    """Return what a turn costs; it reads what `turn` turns before it wrote."""
    usage = Usage(
        cache_write_5m_tokens=TURN_TOKENS if turn else BASE_TOKENS,
        cache_read_tokens=(BASE_TOKENS + TURN_TOKENS * (turn - 1)) if turn else 0,
        output_tokens=TURN_OUTPUT_TOKENS,
    )
    return cost_nusd(price, usage)


def _plan(price: Price, context_bytes: int) -> ClosingPlan:
    prompt = prompt_bound_tokens(context_bytes + OVERHEAD_BYTES)
    hold_nusd = call_bound_nusd(price, prompt, CLOSING_OUTPUT_TOKENS, has_5m=False, has_1h=False)
    return ClosingPlan(context_bytes=context_bytes, hold_nusd=hold_nusd)
