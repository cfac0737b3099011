"""A session that begins where another one was: its money is its own, the other one is as it was."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.runner.desk import usual
from tests.unit.runner.test_door import BUNDLE, SESSION_ID, SETTINGS, Hall
from worker.artifacts.memory import MemoryArtifacts
from worker.checkpoints import Checkpoints
from worker.core import keys
from worker.core.events import CallAnswered, Event, SessionOpened
from worker.core.values import Blob
from worker.door import Door
from worker.errors import RequestInvalid
from worker.forking import Forks
from worker.journal.memory import MemoryJournal
from worker.recovery import Recovery
from worker.retention import stored_history
from worker.settings import Settings
from worker.wire.request import parse_request

LONG = b"a long result, " * 100
SHA256 = hashlib.sha256(LONG).hexdigest()
CHILD = "s-9-fork"


class ForkHall(Hall):
    """A hall in which one session has ended: two turns, one call with a long result."""

    def __init__(self) -> None:
        super().__init__()
        self.artifacts = MemoryArtifacts()
        self.forks = Forks(self.desk.journal, self.artifacts, lambda _: None)
        settings = Settings.model_validate(SETTINGS)
        self.door = Door(self.desk.runner, self.ledger, settings, forks=self.forks)
        self.artifacts.put(keys.blob(SESSION_ID, SHA256), LONG, content_type="text/plain")
        self.open()
        self.desk.then(usual, usual, with_a_long_result)
        self.play(SESSION_ID, "prepare", "turn/1", "call/1.0", "turn/2", "conclude")
        self.desk.begun.clear()
        self.desk.hints.take()

    def play(self, session_id: str, *step_ids: str) -> None:
        for step_id in step_ids:
            assert self.desk.runner.work(session_id, step_id).status == "done", step_id

    def fork(self, at_turn: int | None, *without: str, **fields: Any) -> bool:
        fork = {"session_id": SESSION_ID, "at_turn": at_turn, "without": without}
        body = {"session_id": CHILD, "bundle": BUNDLE, "fork": fork, **fields}
        return self.door.open(parse_request(body))


def with_a_long_result(command: Any, step: Any) -> Event:
    event = usual(command, step)
    assert isinstance(event, CallAnswered)
    return replace(event, result=Blob(sha256=SHA256, size_bytes=len(LONG)), cost_nusd=7)


@pytest.fixture
def hall() -> ForkHall:
    return ForkHall()


def test_a_fork_goes_on_after_the_turn_with_money_of_its_own(hall: ForkHall) -> None:
    before = hall.desk.journal.load(SESSION_ID), hall.ledger.entries(SESSION_ID)

    assert hall.fork(1)

    assert [hint.step_id for hint in hall.desk.hints.take()] == ["turn/2"]
    hall.play(CHILD, "turn/2", "conclude")
    assert hall.desk.begun == ["turn/2", "conclude"]
    assert (hall.desk.journal.load(SESSION_ID), hall.ledger.entries(SESSION_ID)) == before
    child = hall.desk.runner.session(CHILD)
    assert child is not None
    assert child.spec.forked is not None
    assert child.spec.forked.inherited_nusd == 7
    assert hall.artifacts.get(keys.blob(CHILD, SHA256)) == LONG
    (hold,) = hall.ledger.entries(CHILD)
    assert hold.kind == "close"


def test_a_fork_said_twice_is_one_session(hall: ForkHall) -> None:
    assert hall.fork(1)
    assert not hall.fork(1)


def test_a_step_that_is_left_out_is_done_again_alone(hall: ForkHall) -> None:
    hall.fork(1, "call/1.0")

    assert [hint.step_id for hint in hall.desk.hints.take()] == ["call/1.0"]


def test_a_fork_of_everything_only_concludes(hall: ForkHall) -> None:
    hall.fork(None)

    assert [hint.step_id for hint in hall.desk.hints.take()] == ["conclude"]


def test_a_fork_may_have_more_turns_and_another_student(hall: ForkHall) -> None:
    hall.fork(1, limits={"max_turns": 60, "max_cost_usd": 1})

    child = hall.desk.runner.session(CHILD)
    assert child is not None
    assert child.spec.limits.max_turns == 60
    account = hall.ledger.account(f"session:{CHILD}")
    assert account is not None
    assert account.cap_nusd == 1_000_000_000


def test_a_session_that_redis_has_lost_is_forked_from_what_is_stored(hall: ForkHall) -> None:
    desk = hall.desk
    Checkpoints(desk.journal, hall.ledger, hall.artifacts, desk.clock).save(SESSION_ID)
    (opened, *_) = hall.forks.past(SESSION_ID)
    assert isinstance(opened, SessionOpened)
    spec = replace(opened.spec, session_id=CHILD)
    emptied = MemoryJournal(desk.clock)
    recovery = Recovery(
        runner=desk.runner, journal=emptied, ledger=hall.ledger, artifacts=hall.artifacts
    )

    forked = Forks(emptied, hall.artifacts, recovery.stored).begin(
        spec, SESSION_ID, at_turn=1, without=()
    )

    assert forked == hall.forks.begin(spec, SESSION_ID, at_turn=1, without=())
    assert hall.artifacts.get(keys.blob(CHILD, SHA256)) == LONG


@pytest.mark.parametrize(
    ("at_turn", "fields", "says"),
    [
        (3, {}, "has 2 turns, and none with the number 3"),
        (1, {"bundle": BUNDLE.replace("0" * 64, "1" * 64)}, "cannot go on with"),
        (2, {"limits": {"max_turns": 1}}, "could not have gone as they did"),
        (
            1,
            {"fork": {"session_id": "nobody", "at_turn": 1}},
            "there is no session 'nobody', or its journal is gone",
        ),
    ],
)
def test_a_fork_that_cannot_be_is_refused_and_leaves_nothing(
    hall: ForkHall, at_turn: int, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(RequestInvalid, match=says):
        hall.fork(at_turn, **fields)

    assert hall.desk.journal.load(CHILD).length == 0
    assert hall.ledger.account(f"session:{CHILD}") is None


@pytest.mark.parametrize("body", [None, b"something else"])
def test_a_long_text_that_is_gone_or_damaged_is_named(hall: ForkHall, body: bytes | None) -> None:
    if body is None:
        hall.artifacts.delete(keys.blob(SESSION_ID, SHA256))
    else:
        hall.artifacts.put(keys.blob(SESSION_ID, SHA256), body, content_type="text/plain")

    with pytest.raises(RequestInvalid, match=f"{SHA256}.*is gone from the object store or damaged"):
        hall.fork(1)


def test_a_running_session_is_forked_and_goes_on_by_itself() -> None:
    hall = ForkHall()
    assert hall.fork(1)
    hall.desk.hints.take()

    body = {"session_id": "grandchild", "bundle": BUNDLE}
    fork = {"session_id": CHILD, "at_turn": 1}
    assert hall.door.open(parse_request({**body, "fork": fork}))

    assert [hint.step_id for hint in hall.desk.hints.take()] == ["turn/2"]
    assert stored_history(hall.desk.journal, hall.artifacts, CHILD) is not None
    grandchild = hall.desk.runner.session("grandchild")
    assert grandchild is not None
    assert grandchild.spec.forked is not None
    assert (grandchild.spec.forked.session_id, grandchild.spec.forked.inherited_nusd) == (CHILD, 7)
