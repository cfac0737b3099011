"""A request becomes one session with its money, or nothing at all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.corpus.bad_requests import BadRequest, bad_requests
from tests.unit.runner.desk import Desk
from worker.core.bounds import MIN_USEFUL_OUTPUT_TOKENS
from worker.core.events import SessionOpened
from worker.core.machine import Session, fold
from worker.core.transcript import extraction_request
from worker.door import Door, admit
from worker.errors import BadInput, RequestInvalid, UnknownModel
from worker.settings import Settings
from worker.steps.context import closing_hold_id
from worker.wire.request import parse_request

SETTINGS: dict[str, Any] = {
    "teachers": {
        "default": {"api_key": "k"},
        "cheap": {"model": "claude-haiku-4-5"},
        "unpriced": {"model": "gpt-4o"},
    },
    "students": {"default": {"base_url": "http://student/v1", "model": "m"}},
    "judges": {
        "lost": {"teacher": "nobody"},
        "unpriced": {"model": "gpt-4o"},
        "cheap": {"teacher": "cheap"},
    },
}
BUNDLE = f"s3://diagnosis/bundles/{'0' * 64}.tar.gz"
SESSION_ID = "s-9"
RICH_NUSD = 100_000_000_000

BAD = [case for case in bad_requests(BUNDLE) if case.at == "door" and "session_id" not in case.body]


class Hall:
    """A door with its stores."""

    def __init__(self, **settings: Any) -> None:
        self.desk = Desk()
        self.ledger = self.desk.ledger
        self.door = Door(
            self.desk.runner, self.ledger, Settings.model_validate(SETTINGS | settings)
        )
        for scope in ("fleet", "tenant:default", "campaign:default"):
            self.ledger.open_account(scope, RICH_NUSD)

    def open(self, **fields: Any) -> bool:
        """Open a session."""
        body = {"session_id": SESSION_ID, "bundle": BUNDLE, **fields}
        return self.door.open(parse_request(body))

    def left(self) -> dict[str, int | None]:
        """Return what there is of the session: account, money that is held, records."""
        account = self.ledger.account(f"session:{SESSION_ID}")
        return {
            "cap": account.cap_nusd if account else None,
            "held": sum(account.held_nusd for account in self.ledger.accounts()),
            "records": self.desk.journal.load(SESSION_ID).length,
        }


NOTHING = {"cap": None, "held": 0, "records": 0}


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_a_session_is_opened_with_its_account_and_the_closing_calls_money(hall: Hall) -> None:
    assert hall.open()

    (entry,) = hall.ledger.entries(SESSION_ID)
    assert entry.reservation_id == closing_hold_id(SESSION_ID)
    assert entry.amount_nusd > 0
    assert hall.left() == {"cap": 5_000_000_000, "held": 3 * entry.amount_nusd, "records": 1}
    assert hall.desk.told() == ["prepare"]


def test_opening_twice_is_one_session_with_one_hold(hall: Hall) -> None:
    hall.open()
    once = hall.left()

    assert not hall.open()
    assert not hall.open(limits={"max_cost_usd": 1}, student="nobody")

    assert hall.left() == once


@pytest.mark.parametrize("case", BAD, ids=[case.name for case in BAD])
def test_a_refused_request_leaves_nothing(hall: Hall, case: BadRequest) -> None:
    with pytest.raises(BadInput) as refused:
        hall.open(**case.body)

    assert re.search(case.says, refused.value.message), refused.value.message
    assert hall.left() == NOTHING
    assert hall.desk.told() == []


@pytest.mark.parametrize("scope", ["fleet", "tenant:default", "campaign:default"])
def test_an_account_without_room_is_named_and_nothing_is_left(hall: Hall, scope: str) -> None:
    hall.ledger.set_cap(scope, 1_000)

    with pytest.raises(
        RequestInvalid,
        match=rf"{scope.partition(':')[0]}: the account '{scope}' has \S+ left, and the closing "
        rf"call alone needs \S+: raise it with `diagnosis budget set {scope} USD`",
    ):
        hall.open()

    assert hall.left() == NOTHING


def test_a_frozen_account_is_named_and_nothing_is_left(hall: Hall) -> None:
    hall.ledger.freeze("tenant:default")

    with pytest.raises(RequestInvalid, match="tenant: the account 'tenant:default' is frozen"):
        hall.open()

    assert hall.left() == NOTHING


def test_a_stopped_fleet_says_so(hall: Hall) -> None:
    hall.ledger.kill(on=True)

    with pytest.raises(RequestInvalid, match="is stopped with all others by the kill switch"):
        hall.open()

    assert hall.left()["held"] == 0


def test_a_request_that_is_corrected_gets_the_cap_that_it_asks_for(hall: Hall) -> None:
    hall.ledger.kill(on=True)
    with pytest.raises(RequestInvalid):
        hall.open(limits={"max_cost_usd": 50})
    hall.ledger.kill(on=False)

    assert hall.open(limits={"max_cost_usd": 2})

    assert hall.left()["cap"] == 2_000_000_000


def test_a_hold_that_was_made_before_the_worker_died_is_the_sessions_own(hall: Hall) -> None:
    request = parse_request({"session_id": SESSION_ID, "bundle": BUNDLE})
    spec = admit(request, Settings.model_validate(SETTINGS))
    hall.door._fund(fold([SessionOpened(spec=spec)]), "start")
    for scope in spec.scopes[:-1]:
        hall.ledger.set_cap(scope, spec.closing_hold_nusd)

    assert hall.open(), "the accounts have no room beside the hold, and need none"


def test_a_campaign_is_made_only_where_the_settings_say_so() -> None:
    strict, generous = Hall(), Hall(new_campaign_cap_usd=20)

    with pytest.raises(RequestInvalid, match="campaign: the account 'campaign:night' does not"):
        strict.open(campaign="night")
    assert generous.open(campaign="night")

    account = generous.ledger.account("campaign:night")
    assert account is not None
    assert account.cap_nusd == 20_000_000_000
    assert strict.ledger.account("campaign:night") is None


def test_a_refused_request_makes_no_campaign() -> None:
    hall = Hall(new_campaign_cap_usd=20)

    with pytest.raises(RequestInvalid):
        hall.open(campaign="night", tenant="nobody")

    assert hall.ledger.account("campaign:night") is None


def test_a_campaign_that_is_too_small_for_one_session_is_not_made() -> None:
    hall = Hall(new_campaign_cap_usd=0.01)

    with pytest.raises(RequestInvalid, match="campaign: the account 'campaign:night' has"):
        hall.open(campaign="night")

    assert hall.ledger.account("campaign:night") is None


def test_a_model_without_a_price_is_refused_by_who_names_it(hall: Hall) -> None:
    with pytest.raises(
        UnknownModel, match=r"^teacher: 'unpriced': there is no price for the model"
    ):
        hall.open(teacher="unpriced")
    with pytest.raises(UnknownModel, match=r"^judge: 'unpriced': there is no price for the model"):
        hall.open(judge="unpriced")

    assert hall.left() == NOTHING


def test_a_judge_whose_teacher_is_gone_is_the_fleets_fault(hall: Hall) -> None:
    with pytest.raises(
        RequestInvalid, match=r"^judge: 'lost' is a model of the teacher 'nobody', which is not in"
    ):
        hall.open(judge="lost")


def test_a_request_is_admitted_as_it_was_asked(hall: Hall) -> None:
    request = parse_request(
        {
            "session_id": SESSION_ID,
            "bundle": BUNDLE,
            "teacher": "cheap",
            "judge": "cheap",
            "trigger": "nightly",
            "flagged_trace_ids": ["t-1"],
            "reveal_references": True,
            "limits": {
                "max_turns": 3,
                "max_tool_calls": 4,
                "max_student_runs": 5,
                "max_cost_usd": "0.25",
                "max_duration_s": 60,
            },
        }
    )

    spec = admit(request, Settings.model_validate(SETTINGS))

    assert (spec.teacher_model, spec.judge_model) == ("claude-haiku-4-5", "claude-haiku-4-5")
    assert (spec.limits.max_turns, spec.limits.max_tool_calls) == (3, 4)
    assert (spec.limits.max_student_runs, spec.limits.max_cost_nusd) == (5, 250_000_000)
    assert spec.limits.max_duration_ms == 60_000
    assert (spec.trigger, spec.flagged_trace_ids, spec.reveal_references) == (
        "nightly",
        ("t-1",),
        True,
    )
    assert spec.max_output_tokens >= MIN_USEFUL_OUTPUT_TOKENS


@pytest.mark.parametrize("session_id", ["nobody", "../../etc", "", "\ud800", "a..b"])
def test_what_is_no_session_is_not_known(hall: Hall, session_id: str) -> None:
    assert not hall.door.knows(session_id)


def test_a_session_is_known_from_its_opening_on(hall: Hall) -> None:
    hall.open()

    assert hall.door.knows(SESSION_ID)


def test_extractions_are_asked_of_the_model_that_the_teacher_names() -> None:
    teachers = {
        "default": {"model": "claude-opus-5", "extraction_model": "claude-haiku-5-5"},
        "plain": {"model": "claude-opus-5"},
        "wrong": {"model": "claude-opus-5", "extraction_model": "gpt-4o"},
    }
    settings = Settings.model_validate(SETTINGS | {"teachers": teachers, "judges": {}})

    def model_of(teacher: str) -> str:
        fields = {"session_id": SESSION_ID, "bundle": BUNDLE, "teacher": teacher}
        session = Session(spec=admit(parse_request(fields), settings))
        return extraction_request(session, lambda _: "").model

    assert model_of("default") == "claude-haiku-5-5"
    assert model_of("plain") == "claude-opus-5"
    with pytest.raises(UnknownModel, match=r"^teacher: 'wrong': there is no price for the model"):
        model_of("wrong")
