from __future__ import annotations

from hypothesis import settings

from tests.unit.money.ledger_machine import LedgerMachine

# After any schedule of operations, at every step: I1-I6 of the money.
TestEverySchedule = LedgerMachine.TestCase
TestEverySchedule.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
