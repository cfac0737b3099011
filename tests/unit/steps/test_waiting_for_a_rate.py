"""A step's first call leaves when it must wait; a later one waits where it is, since the first is paid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.core.strategies import spec_with
from tests.unit.runner.desk import Desk
from worker.core.events import SessionOpened
from worker.core.machine import fold
from worker.core.teaching import TeacherRequest
from worker.core.values import Limits
from worker.errors import Cancelled, RateLimited
from worker.paid import PaidReply
from worker.steps.context import Step
from worker.testing import says

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST = TeacherRequest(model="claude-opus-4-6", max_tokens=1, system=[], messages=[])
PAID = PaidReply(reply=says("yes"), cost_nusd=1, max_tokens=1)


class LatePayer:
    """Has somebody wait a few times before it pays."""

    def __init__(self, waits: int, *, wait_ms: int = 1) -> None:
        self.waits = waits
        self.wait_ms = wait_ms
        self.asked: list[str] = []

    def call(self, request: TeacherRequest, *, reservation_id: str, **more: Any) -> PaidReply:
        self.asked.append(reservation_id)
        if len(self.asked) <= self.waits:
            raise RateLimited("waits", retry_after_ms=self.wait_ms, why="requests")
        return PAID


def pay(payer: LatePayer, number: int, stopped: Callable[[], bool] = lambda: False) -> PaidReply:
    spec = spec_with(Limits())
    ports = replace(Desk().runner._ports, teachers={spec.judge: cast("Any", payer)})
    step = Step(
        session=fold([SessionOpened(spec=spec)]),
        step_id="judge/1.0.0",
        attempt=1,
        stopped=stopped,
        ports=ports,
    )
    return step.pay(REQUEST, kind="judge", account=spec.judge, prompt_bound_tokens=1, number=number)


def test_the_first_call_of_a_step_leaves() -> None:
    payer = LatePayer(1)

    with pytest.raises(RateLimited):
        pay(payer, 1)

    assert len(payer.asked) == 1


def test_a_later_call_waits_within_the_step() -> None:
    payer = LatePayer(3)

    assert pay(payer, 2) is PAID
    assert len(payer.asked) == 4
    assert len(set(payer.asked)) == 1


def test_a_later_call_that_would_wait_for_long_leaves_too() -> None:
    with pytest.raises(RateLimited):
        pay(LatePayer(1, wait_ms=31_000), 2)


def test_a_step_that_is_told_to_stop_waits_no_longer() -> None:
    payer = LatePayer(9, wait_ms=20_000)
    answers = iter([False, False, True, True])

    with pytest.raises(Cancelled):
        pay(payer, 2, lambda: next(answers))
