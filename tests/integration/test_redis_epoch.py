"""A real fleet whose Redis loses everything, or goes back in time, and nobody says a word to it.

Rule: one fleet, whose teachers' bill is never above its ledger, whatever was lost in between.
"""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.fleets import Harness, airline_home, running
from tests.waiting import until
from worker.core import keys
from worker.core.epoch import Verdict
from worker.core.events import SessionEnded, TeacherReplied
from worker.wire.epoch import StoredEpoch, decode_epoch
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.embedded.valkey import ValkeyServer

__all__ = ["airline_home"]

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]


@pytest.fixture(scope="module")
def fleet(airline_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with running(airline_home, tmp_path_factory.mktemp("epoch"), MARK_EVERY_S="0.5") as started:
        yield started


def test_an_ordinary_restart_raises_no_alarm(fleet: Harness) -> None:
    until("an epoch has begun", lambda: newest_epoch(fleet) is not None)
    before = newest_epoch(fleet)
    session_id = in_mid_session(fleet, turns=1)

    valkey = fleet.fleet.stack.valkey
    valkey.kill()
    valkey.start()

    assert fleet.wait(session_id).outcome == "concluded"
    assert newest_epoch(fleet) == before
    assert fleet.system.epoch.look(deep=True).verdict is Verdict.WHOLE
    assert_the_bill_is_covered(fleet)


def test_a_flushed_redis_is_rebuilt_by_the_workers(fleet: Harness) -> None:
    ended_id = fleet.run(name("ended")).session_id
    session_id = in_mid_session(fleet, turns=2)
    turns = fleet.stored_turns(session_id)

    fleet.system.client.flushall()

    assert_it_goes_on(fleet, session_id, turns, why="empty")
    # Whoever waits for a session that had ended hears of it again.
    assert fleet.wait(ended_id).outcome == "concluded"
    assert_the_bill_is_covered(fleet)


def test_an_empty_server_in_the_place_of_a_killed_one_is_filled(fleet: Harness) -> None:
    session_id = in_mid_session(fleet, turns=2)
    turns = fleet.stored_turns(session_id)
    fleet.system.ledger.set_cap("campaign:default", 777_000_000_000)
    assert fleet.system.epoch.mark(at_once=True)

    valkey = fleet.fleet.stack.valkey
    valkey.kill()
    shutil.rmtree(data_of(valkey))
    valkey.start()

    assert_it_goes_on(fleet, session_id, turns, why="empty")
    account = fleet.system.ledger.account("campaign:default")
    assert account is not None
    assert account.cap_nusd == 777_000_000_000
    assert_the_bill_is_covered(fleet)


def test_an_older_copy_is_brought_forward(fleet: Harness, tmp_path: Path) -> None:
    session_id, turns = set_back(fleet, tmp_path / "copy", by_turns=2)

    assert_it_goes_on(fleet, session_id, turns, why="older")
    assert_the_bill_is_covered(fleet)


def test_a_copy_that_is_younger_than_the_newest_mark_is_brought_forward_too(
    airline_home: Path, tmp_path: Path
) -> None:
    """As a replica is that had fallen behind by a second: no mark tells it from the right one."""
    with running(airline_home, tmp_path / "fleet", MARK_EVERY_S="3600") as fleet:
        until("an epoch has begun", lambda: newest_epoch(fleet) is not None)
        session_id, turns = set_back(fleet, tmp_path / "copy", by_turns=1)

        assert_it_goes_on(fleet, session_id, turns, why="older")
        assert_the_bill_is_covered(fleet)


def set_back(fleet: Harness, copy: Path, *, by_turns: int) -> tuple[str, int]:
    """Have Redis come back as it was some turns ago; return whose, and how many of them are stored."""
    session_id = in_mid_session(fleet, turns=1)
    valkey = fleet.fleet.stack.valkey
    shutil.copytree(data_of(valkey), copy)
    until("more turns are stored", lambda: fleet.stored_turns(session_id) > by_turns)
    turns = fleet.stored_turns(session_id)
    valkey.kill()
    shutil.rmtree(data_of(valkey))
    shutil.copytree(copy, data_of(valkey))
    valkey.start()
    return session_id, turns


def assert_it_goes_on(fleet: Harness, session_id: str, turns: int, *, why: str) -> None:
    """See that the workers began a new epoch, and the session ended once, with its turns."""
    before = newest_epoch(fleet)
    assert fleet.wait(session_id).outcome == "concluded"
    after = newest_epoch(fleet)
    assert after is not None
    assert before is not None
    assert after.why == why
    records = fleet.system.journal.load(session_id).records
    events = decode_all(records)
    assert [type(event) for event in events].count(SessionEnded) == 1
    assert sum(isinstance(event, TeacherReplied) for event in events) >= turns
    assert "clusters.json" in fleet.artifacts(session_id)
    assert fleet.system.epoch.look(deep=True).verdict is Verdict.WHOLE


def assert_the_bill_is_covered(fleet: Harness) -> None:
    account = fleet.system.ledger.account("fleet")
    assert account is not None
    urls = (fleet.teacher_url, fleet.judge_url)
    lines = [line for url in urls for line in fleet.asked("/_sim/bill", of=url)["entries"]]
    billed_nusd = sum(line["amount_nano_usd"] for line in lines)
    assert 0 < billed_nusd <= account.posted_nusd <= account.cap_nusd


def in_mid_session(fleet: Harness, *, turns: int) -> str:
    """Begin a session and return once so many turns of it are stored."""
    session_id = name("mid")
    fleet.client.enqueue(fleet.request(session_id))
    until(f"{turns} turns are stored", lambda: fleet.stored_turns(session_id) >= turns)
    return session_id


def newest_epoch(fleet: Harness) -> StoredEpoch | None:
    names = fleet.system.artifacts.list(keys.epochs())
    return decode_epoch(fleet.system.artifacts.get(names[-1]) or b"") if names else None


def data_of(valkey: ValkeyServer) -> Path:
    return valkey.log_path.parent / "data"


def name(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:8]}"
