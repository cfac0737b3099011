"""The cap: hard for a model with a price, kept as well as can be known for one without."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.local.user_code import (
    PRICED,
    UNPRICED,
    Engine,
    asks,
    cluster,
    diagnosis,
    make_runner,
    says,
)
from worker.clock import SystemClock
from worker.core.teaching import TeacherRequest
from worker.errors import BudgetDenied, RequestInvalid, TeacherFault
from worker.ledger.memory import MemoryLedger
from worker.local.engine import EngineTeacher
from worker.local.paying import EnginePayer

if TYPE_CHECKING:
    from pathlib import Path

    from worker.core.values import CallKind
    from worker.ports import Account, Entry

_SCOPES = ("fleet", "session:local")
_LOOK = asks(("get_current_config", {}))
_END = says(diagnosis(cluster("task-0")))
_CAP = 10_000_000_000


class Till:
    """A payer on a ledger, with what its engine says next."""

    def __init__(self, *script: Any, model: str = PRICED, cap_nusd: int = _CAP) -> None:
        self.engine = Engine(*script)
        self.ledger = MemoryLedger(SystemClock())
        for scope in _SCOPES:
            self.ledger.open_account(scope, cap_nusd)
        self.payer = EnginePayer(EngineTeacher(self.engine, str), self.ledger)
        self._model = model
        self._calls = 0
        self._lock = threading.Lock()

    def call(
        self, kind: CallKind = "explore", *, bound_tokens: int = 1_000, words: str = "Hi"
    ) -> int:
        with self._lock:
            self._calls += 1
            number = self._calls
        message = {"role": "user", "content": [{"type": "text", "text": words}]}
        paid = self.payer.call(
            TeacherRequest(model=self._model, max_tokens=8_192, system=[], messages=[message]),
            reservation_id=f"local/turn/{number}/1.1",
            scopes=_SCOPES,
            kind=kind,
            step_id=f"turn/{number}",
            prompt_bound_tokens=bound_tokens,
            stopped=lambda: False,
        )
        return paid.cost_nusd

    @property
    def account(self) -> Account:
        account = self.ledger.account("session:local")
        assert account is not None
        return account

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.ledger.entries("local")


# ------------------------------------------------------------------------------------ one call


def test_the_engines_word_is_the_truth() -> None:
    till = Till(says("a", cost_usd=0.07))

    assert till.call() == 70_000_000
    assert (till.account.posted_nusd, till.account.held_nusd) == (70_000_000, 0)


@pytest.mark.parametrize("cost_usd", [0.0, None, float("nan"), -1.0])
def test_tokens_are_priced_where_the_engine_names_no_cost(cost_usd: float | None) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 100}
    till = Till(says("a", cost_usd=cost_usd, usage=usage))

    # 1,000 at $5 and 100 at $25 the million.
    assert till.call() == 7_500_000
    assert not till.payer.unknown_costs


def test_a_cost_that_nobody_knows_is_said_to_be_unknown() -> None:
    till = Till(says("a", cost_usd=None), model=UNPRICED)

    assert till.call() == 0
    assert till.payer.unknown_costs


def test_an_engine_that_says_it_is_free_is_believed() -> None:
    till = Till(says("a", cost_usd=0.0), model=UNPRICED)

    assert till.call() == 0
    assert not till.payer.unknown_costs


@pytest.mark.parametrize(
    ("exc", "model", "state"),
    [
        (RuntimeError("boom"), PRICED, "expired"),
        (RuntimeError("boom"), UNPRICED, "void"),
        (ConnectionRefusedError(), PRICED, "void"),
        (KeyboardInterrupt(), PRICED, "expired"),
    ],
)
def test_a_call_that_raises_is_charged_at_its_bound_unless_nothing_was_sent(
    exc: BaseException, model: str, state: str
) -> None:
    till = Till(exc, model=model)

    with pytest.raises((TeacherFault, KeyboardInterrupt)):
        till.call()

    (entry,) = till.entries
    assert entry.state.value == state
    assert till.account.held_nusd == 0
    assert till.account.posted_nusd == (entry.amount_nusd if state == "expired" else 0)


def test_a_cost_above_the_bound_is_charged_to_the_same_step() -> None:
    till = Till(says("a", cost_usd=3.0))

    till.call()

    assert till.account.posted_nusd == 3_000_000_000
    assert not till.account.frozen
    assert {entry.step_id for entry in till.entries} == {"turn/1"}


def test_after_a_cost_above_its_bound_calls_are_held_at_that_cost() -> None:
    till = Till(says("a", cost_usd=3.0))
    till.call()

    till.call()
    till.call()
    with pytest.raises(BudgetDenied, match=r"may cost \$3\.00, and max_cost_usd leaves \$1\.00"):
        till.call()

    assert till.account.posted_nusd == 9_000_000_000


def test_a_call_gets_less_output_where_money_is_short() -> None:
    till = Till(says("a", cost_usd=0.01), cap_nusd=150_000_000)

    till.call()

    # $0.15 less the prompt's bound, at $25 the million.
    assert 4_096 <= till.engine.requests[0][1]["max_tokens"] < 8_192


def test_an_engine_that_does_not_count_its_prompts_is_bound_by_their_bytes() -> None:
    silent = says("a", usage=None)
    till = Till(silent)
    till.call(bound_tokens=10, words="x" * 50_000)
    till.call(bound_tokens=10, words="x" * 50_000)

    assert all(entry.amount_nusd > 50_000 * 5_000 for entry in till.entries)


def test_a_run_of_its_own_says_nothing_of_the_turn_before() -> None:
    till = Till(says("a", usage=None), says("a"), says("a"))
    till.call("explore", bound_tokens=10, words="x" * 50_000)
    till.call("self_run", bound_tokens=10)
    till.call("explore", bound_tokens=10, words="x" * 50_000)

    assert till.entries[-1].amount_nusd > 50_000 * 5_000


def test_an_engine_that_counts_its_prompts_is_taken_at_its_word() -> None:
    till = Till(says("a"))
    till.call(bound_tokens=10, words="x" * 50_000)
    till.call(bound_tokens=10, words="x" * 50_000)

    first, second = till.entries
    assert first.amount_nusd > 50_000 * 5_000 > second.amount_nusd


def test_without_a_price_the_exploration_leaves_enough_for_one_call_more() -> None:
    till = Till(says("a", cost_usd=3.0), model=UNPRICED)
    till.call()
    till.call()

    with pytest.raises(BudgetDenied):
        till.call("explore")

    assert till.call("close") == 3_000_000_000
    assert till.account.posted_nusd == 9_000_000_000


class Honest:
    """An engine that charges its model's price for a share of the output that it may use."""

    def __init__(self, says_cost: bool, shares: list[float | None]) -> None:
        self._says_cost = says_cost
        self._shares = shares
        self.calls = 0

    def generate(self, *, max_tokens: int, **more: Any) -> dict[str, Any]:
        share = self._shares[self.calls % len(self._shares)]
        self.calls += 1
        if share is None:
            raise RuntimeError("lost")
        output = round(max_tokens * share)
        usage = {"prompt_tokens": 500, "completion_tokens": output}
        cost_usd = (500 * 5 + output * 25) / 1e6
        self_run = ("run_self_on_task", {"task_id": "task-0"})
        line = asks(self_run, self_run) if "tools" in more else says("0")
        return {**line, "usage": usage, "cost_usd": cost_usd if self._says_cost else None}


_SHARES = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=5)


@given(cap_nusd=st.integers(0, 2_000_000_000), says_cost=st.booleans(), shares=_SHARES)
def test_whatever_is_called_for_a_model_with_a_price_its_cap_holds(
    cap_nusd: int, says_cost: bool, shares: list[float | None]
) -> None:
    till = Till(None, cap_nusd=cap_nusd)
    engine = Honest(says_cost, shares)
    till.payer = EnginePayer(EngineTeacher(engine, str), till.ledger)

    for kind in ("explore", "self_run", "explore", "close", "extract", "explore", "close"):
        with suppress(BudgetDenied, TeacherFault):
            till.call(kind)
        assert till.account.posted_nusd + till.account.held_nusd <= cap_nusd
        assert till.account.held_nusd == 0

    assert len([entry for entry in till.entries if entry.actual_nusd]) <= engine.calls


# ----------------------------------------------------------------------------------- whole runs


def _posted_nusd(folder: Path) -> int:
    return json.loads((folder / "session" / "session.json").read_text())["cost"]["total_nusd"]


@pytest.mark.parametrize("says_cost", [True, False])
@pytest.mark.parametrize("max_cost_usd", [0.01, 0.2, 0.5, 1.0, 2.0])
def test_the_cap_of_a_model_with_a_price_is_never_passed(
    tmp_path: Path, max_cost_usd: float, says_cost: bool
) -> None:
    engine = Honest(says_cost, [0.9, 1.0, 0.1])
    runner = make_runner(
        tmp_path, engine, teacher_model=PRICED, max_cost_usd=max_cost_usd, max_turns=8
    )

    result = runner.run()

    assert result.cost_usd <= max_cost_usd
    assert result.diagnosis_md
    assert result.cost_usd * 1e9 == pytest.approx(_posted_nusd(tmp_path))


@pytest.mark.parametrize("model", [PRICED, UNPRICED])
def test_a_spent_budget_still_gives_the_teachers_diagnosis(tmp_path: Path, model: str) -> None:
    def answer(_: list[Any], more: dict[str, Any]) -> dict[str, Any]:
        reads = any(tool["function"]["name"] == "list_traces" for tool in more["tools"])
        return {**(_LOOK if reads else _END), "cost_usd": 0.08}

    result = make_runner(tmp_path, Engine(answer), teacher_model=model, max_cost_usd=1.0).run()

    assert result.diagnosis_md.startswith("The student cannot add.")
    assert "budget" in result.reason
    assert 0.5 < result.cost_usd <= 1.0


@pytest.mark.parametrize("model", [PRICED, UNPRICED])
@pytest.mark.parametrize("max_cost_usd", [0.0, -1.0])
def test_without_money_nobody_is_asked(tmp_path: Path, model: str, max_cost_usd: float) -> None:
    engine = Engine(AssertionError("asked"))

    result = make_runner(tmp_path, engine, teacher_model=model, max_cost_usd=max_cost_usd).run()

    assert engine.requests == []
    assert (result.outcome, result.cost_usd) == ("inconclusive", 0.0)
    assert "budget" in result.reason
    assert result.diagnosis_md


def test_a_cap_may_be_infinite_but_not_no_number(tmp_path: Path) -> None:
    assert make_runner(tmp_path, Engine(_END), max_cost_usd=float("inf")).run().clusters

    with pytest.raises(RequestInvalid, match="not a number"):
        make_runner(tmp_path, Engine(_END), max_cost_usd=float("nan"))


def test_an_engine_that_charges_more_than_any_bound_passes_the_cap_by_one_call(
    tmp_path: Path,
) -> None:
    engine = Engine({**_LOOK, "cost_usd": 4.0})

    result = make_runner(tmp_path, engine, teacher_model=PRICED, max_cost_usd=5.0).run()

    # The third call cannot be made; what the second cost was not to be foreseen from the first.
    assert result.cost_usd <= 9.0
    assert len(engine.requests) <= 3


def test_self_runs_side_by_side_stay_under_the_cap_too(tmp_path: Path) -> None:
    calls = asks(*(("run_self_on_task", {"task_id": "task-0"}) for _ in range(8)))

    def answer(messages: list[Any], more: dict[str, Any]) -> dict[str, Any]:
        runs_itself = "tools" not in more
        return says("1", cost_usd=0.15) if runs_itself else {**calls, "cost_usd": 0.05}

    runner = make_runner(tmp_path, Engine(answer), teacher_model=PRICED, max_cost_usd=1.0)

    assert 0.5 < runner.run().cost_usd <= 1.0


def test_what_the_cost_could_not_be_known_is_said(tmp_path: Path) -> None:
    result = make_runner(tmp_path, Engine({**_END, "cost_usd": None})).run()

    assert any("the cap was not kept" in remark for remark in result.remarks)
