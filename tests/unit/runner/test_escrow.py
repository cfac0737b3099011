"""A session starts when its accounts can carry it: at once, later, or not at all, as the request says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.runner.test_door import BUNDLE, NOTHING, RICH_NUSD, SESSION_ID, Hall
from worker.core import policy
from worker.core.values import Cause, Phase, Stop
from worker.errors import RequestInvalid
from worker.status import PauseView, view
from worker.steps.context import closing_hold_id
from worker.wire.request import parse_request

USD = 1_000_000_000
#: Of a fleet that says what nine of ten sessions cost.
EXPECTED = 2 * USD


@pytest.fixture
def hall() -> Hall:
    return Hall(expected_session_usd=2)


def ask(hall: Hall, session_id: str = SESSION_ID, **fields: Any) -> bool:
    body = {"session_id": session_id, "bundle": BUNDLE, "when_funds_lack": "wait", **fields}
    return hall.door.open(parse_request(body))


def poor(hall: Hall, usd: float = 1) -> None:
    hall.ledger.set_cap("tenant:default", round(usd * USD))


def told(hall: Hall) -> list[tuple[str, str]]:
    return [(hint.session_id, hint.step_id) for hint in hall.desk.hints.take()]


def look(hall: Hall) -> None:
    hall.desk.clock.advance(policy.WAKE_MS)
    hall.desk.runner.sweep()


def paused(hall: Hall, session_id: str = SESSION_ID) -> PauseView | None:
    seen = view(session_id, hall.desk.runner, hall.desk.journal, hall.ledger)
    assert seen is not None
    return seen.paused


def test_a_session_whose_accounts_carry_it_starts_at_once_and_is_promised_its_cost(
    hall: Hall,
) -> None:
    assert ask(hall)

    assert told(hall) == [(SESSION_ID, "prepare")]
    (entry,) = hall.ledger.entries(SESSION_ID)
    room = hall.ledger.rooms(["fleet"])["fleet"]
    assert room.promised_nusd == EXPECTED - entry.amount_nusd
    assert paused(hall) is None


def test_a_session_that_its_accounts_cannot_carry_waits_and_says_for_what(hall: Hall) -> None:
    poor(hall)

    assert ask(hall)

    assert told(hall) == []
    assert hall.ledger.entries(SESSION_ID) == ()
    pause = paused(hall)
    assert pause is not None
    assert pause.words == (
        "waiting to start: needs $2.00, and the tightest account 'tenant:default' has $1.00; "
        "`diagnosis budget set` lets it go on"
    )
    for _ in range(50):
        look(hall)
    assert told(hall) == []


def test_it_starts_by_itself_with_its_money_when_there_is_enough(hall: Hall) -> None:
    poor(hall)
    ask(hall)
    poor(hall, 2)

    look(hall)
    assert told(hall) == [(SESSION_ID, "resume/1")]
    assert hall.desk.runner.work(SESSION_ID, "resume/1").status == "done"

    assert told(hall) == [(SESSION_ID, "prepare")]
    (entry,) = hall.ledger.entries(SESSION_ID)
    assert entry.reservation_id == closing_hold_id(SESSION_ID)
    session = hall.desk.runner.session(SESSION_ID)
    assert session is not None
    assert (session.phase, session.paused) == (Phase.PREPARING, None)


def test_what_one_session_was_promised_no_other_one_starts_on(hall: Hall) -> None:
    poor(hall, 3.9)

    ask(hall, "s-first")
    ask(hall, "s-second")

    assert told(hall) == [("s-first", "prepare")]
    assert paused(hall, "s-second") is not None
    hall.ledger.release("s-first", ("fleet", "tenant:default", "campaign:default"))
    hall.ledger.void(closing_hold_id("s-first"), "not needed")
    look(hall)
    assert told(hall) == [("s-second", "resume/1")]


def test_sessions_start_in_the_order_in_which_they_came(hall: Hall) -> None:
    poor(hall)
    ask(hall, "s-first")
    hall.desk.clock.advance(10)
    ask(hall, "s-second")
    poor(hall, 2.5)
    hall.desk.clock.advance(10)

    ask(hall, "s-third")

    pause = paused(hall, "s-third")
    assert pause is not None
    assert pause.detail == "others came before it, and wait too"
    look(hall)
    assert told(hall) == [("s-first", "resume/1")]


def test_a_tenant_without_money_holds_no_other_tenant_up(hall: Hall) -> None:
    hall.ledger.open_account("tenant:other", RICH_NUSD)
    poor(hall)
    ask(hall, "s-first")

    ask(hall, "s-second", tenant="other")

    assert told(hall) == [("s-second", "prepare")]


def test_a_session_that_waits_can_be_cancelled_and_costs_nothing(hall: Hall) -> None:
    poor(hall)
    ask(hall)

    assert hall.desk.runner.cancel(SESSION_ID, "not needed any more")

    assert told(hall) == [(SESSION_ID, "conclude")]
    assert hall.desk.journal.waiting() == ()
    assert hall.ledger.entries(SESSION_ID) == ()


def test_a_session_that_waited_too_long_ends_and_says_why(hall: Hall) -> None:
    poor(hall)
    ask(hall, limits={"max_pause_s": 3_600})
    hall.desk.clock.advance(3_600_000)
    hall.desk.runner.sweep()
    assert told(hall) == [(SESSION_ID, "resume/1")]

    hall.desk.runner.work(SESSION_ID, "resume/1")

    session = hall.desk.runner.session(SESSION_ID)
    assert session is not None
    assert (session.phase, session.stop) == (Phase.CONCLUDING, Stop.FUNDS)
    assert session.stop_detail.startswith(
        "1 hours went by, and no hold of $2.00: the account 'tenant:default' has $1.00 free"
    )


def test_a_request_that_does_not_wait_is_refused_with_the_number_and_its_source(
    hall: Hall,
) -> None:
    poor(hall)

    with pytest.raises(
        RequestInvalid,
        match=r"has \$1.00 left, and the session is expected to cost \$2.00 \(the setting "
        r"expected_session_usd, \$2.00\): raise it",
    ):
        ask(hall, when_funds_lack="refuse")

    assert hall.left() == NOTHING
    assert hall.ledger.rooms(["fleet"])["fleet"].promised_nusd == 0


def test_a_request_that_says_nothing_starts_as_before(hall: Hall) -> None:
    poor(hall)

    assert hall.open()

    assert told(hall) == [(SESSION_ID, "prepare")]
    assert hall.ledger.rooms(["fleet"])["fleet"].promised_nusd == 0


def test_the_setting_speaks_for_requests_that_say_nothing() -> None:
    hall = Hall(expected_session_usd=2, when_funds_lack="wait", when_money_lacks="pause")
    poor(hall)

    assert hall.open()

    session = hall.desk.runner.session(SESSION_ID)
    assert session is not None
    assert session.paused is not None
    assert session.paused.cause is Cause.FUNDS
    assert session.spec.when_money_lacks == "pause"


def test_an_account_that_does_not_exist_is_refused_and_not_waited_for(hall: Hall) -> None:
    with pytest.raises(RequestInvalid, match="campaign: the account 'campaign:night' does not"):
        ask(hall, campaign="night")


@pytest.mark.parametrize("shut", ["freeze", "kill"])
def test_what_somebody_has_stopped_is_waited_for(hall: Hall, shut: str) -> None:
    if shut == "freeze":
        hall.ledger.freeze("tenant:default")
    else:
        hall.ledger.kill(on=True)

    assert ask(hall)
    look(hall)
    assert told(hall) == []

    if shut == "freeze":
        hall.ledger.unfreeze("tenant:default")
    else:
        hall.ledger.kill(on=False)
    look(hall)
    assert told(hall) == [(SESSION_ID, "resume/1")]


def test_a_door_that_died_between_money_and_journal_starts_the_session_all_the_same(
    hall: Hall,
) -> None:
    poor(hall, 2)
    ask(hall)
    lost, hall.desk.journal._sessions = dict(hall.desk.journal._sessions), {}
    assert lost

    assert ask(hall)

    assert paused(hall) is None
    assert len(hall.ledger.entries(SESSION_ID)) == 1
