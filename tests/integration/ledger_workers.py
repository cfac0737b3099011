"""Processes that spend money until there is none left, and a provider that bills them.

Rule: the bill is written before the worker hears of it, by one write of one line, so that a SIGKILL
at any instant leaves a bill that is true.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.prices import cost_nusd, price_of
from worker.core.teaching import TeacherReply, TeacherRequest
from worker.core.values import Usage
from worker.errors import BudgetDenied, TeacherFault, Unavailable
from worker.ledger.redis import RedisLedger
from worker.paid import PaidTeacher
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MODEL", "PROMPT_BOUND_TOKENS", "BilledCall", "read_bill", "spend"]

MODEL = "claude-haiku-4-5"
PROMPT_BOUND_TOKENS = 2_000
#: So many refusals in a row say that the money has gone.
_ENOUGH_REFUSALS = 25
#: How long a call takes, at most: wide enough for a SIGKILL to fall into it.
_CALL_S = 0.004
#: One call in a hundred takes longer than its deadline: it is swept, and its truth comes late.
_STALLS = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledCall:
    """A line of the bill: one HTTP request."""

    reservation_id: str
    cost_nusd: int
    scopes: tuple[str, ...]


def read_bill(path: Path) -> list[BilledCall]:
    """Return the bill as it stands."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return [
        BilledCall(reservation_id=row[0], cost_nusd=int(row[1]), scopes=tuple(row[2:]))
        for row in rows
    ]


class BillingTeacher:
    """Replies, fails and bills at random, within what was asked for."""

    def __init__(self, bill: int, chance: random.Random, ledger: RedisLedger) -> None:
        self._bill = bill
        self._chance = chance
        self._ledger = ledger
        self.call: tuple[str, ...] = ()

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        """Return a reply that was billed, or fail."""
        self._look()
        prompt = Usage(input_tokens=self._chance.randint(1, PROMPT_BOUND_TOKENS))
        usage = Usage(
            input_tokens=prompt.input_tokens,
            output_tokens=self._chance.randint(0, request.max_tokens),
        )
        outcome = self._chance.random()
        if outcome < 0.1:
            self._write(0)
            raise TeacherFault("529", billing="unbilled", retry="later", status=529)
        if self._chance.random() < 0.5:
            on_start(prompt)
        time.sleep(self._chance.uniform(0, _CALL_S))
        self._write(0 if 0.1 < outcome < 0.15 else cost_nusd(price_of(request.model), usage))
        stall_s = 3 * request.timeout_ms / 1000 if outcome > _STALLS else 0
        time.sleep(self._chance.uniform(0, _CALL_S) + stall_s)
        if outcome < 0.2:
            raise TeacherFault("read time-out", billing="unknown", retry="later")
        return TeacherReply(
            content=[],
            stop_reason="end_turn",
            usage=usage,
            model=request.model,
            message_id="",
            request_id="",
            latency_ms=1,
        )

    def _look(self) -> None:
        """Stop this process, with an exit code, where an account is above its cap."""
        for scope in self.call[1:]:
            with suppress(Unavailable):
                account = self._ledger.account(scope)
                assert account is not None
                assert account.posted_nusd + account.held_nusd <= account.cap_nusd, account

    def _write(self, cost: int) -> None:
        rid, *scopes = self.call
        os.write(self._bill, f"{rid} {cost} {' '.join(scopes)}\n".encode("ascii"))


def spend(
    url: str, bill_path: str, name: str, scopes: tuple[tuple[str, ...], ...], timeout_ms: int
) -> None:
    """Make calls from randomly chosen scopes until all of them refuse."""
    chance = random.Random(name)  # noqa: S311
    bill = os.open(bill_path, os.O_WRONLY | os.O_APPEND)
    refusals = number = 0
    with connect(url) as client:
        ledger = RedisLedger(client)
        teacher = BillingTeacher(bill, chance, ledger)
        paid = PaidTeacher(teacher, ledger, kept_ms=2 * timeout_ms)
        while refusals < _ENOUGH_REFUSALS:
            number += 1
            teacher.call = (f"{name}.{number}", *chance.choice(scopes))
            refusals = refusals + 1 if _one_call(paid, teacher.call, timeout_ms) else 0
    os.close(bill)


def _one_call(paid: PaidTeacher, call: tuple[str, ...], timeout_ms: int) -> bool:
    """Make one call; whether there was no money for it."""
    request = TeacherRequest(
        model=MODEL, max_tokens=8_000, system=[], messages=[], timeout_ms=timeout_ms
    )
    rid, *scopes = call
    try:
        paid.call(
            request,
            reservation_id=rid,
            scopes=scopes,
            kind="explore",
            step_id="turn/1",
            prompt_bound_tokens=PROMPT_BOUND_TOKENS,
            stopped=lambda: False,
        )
    except BudgetDenied:
        return True
    except (TeacherFault, Unavailable):
        pass
    return False
