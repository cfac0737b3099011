"""Whether a session can be afforded at all, and what is kept back for its closing call.

Rule: the closing call's money is held from the first moment, so that whatever limit ends the
exploration, there is a diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.bounds import call_bound_nusd, prompt_bound_tokens
from worker.core.prices import usd
from worker.core.transcript import CLOSING_OUTPUT_TOKENS
from worker.errors import RequestInvalid

if TYPE_CHECKING:
    from worker.core.prices import Price

__all__ = ["ClosingPlan", "plan_closing"]

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


def _plan(price: Price, context_bytes: int) -> ClosingPlan:
    prompt = prompt_bound_tokens(context_bytes + OVERHEAD_BYTES)
    hold_nusd = call_bound_nusd(price, prompt, CLOSING_OUTPUT_TOKENS, has_5m=False, has_1h=False)
    return ClosingPlan(context_bytes=context_bytes, hold_nusd=hold_nusd)
