"""A real fleet whose Redis loses everything in mid-session, and which waits for an operator's word.

`test_redis_epoch.py` has the fleet that helps itself, as it does unless the settings say otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.fleets import Harness, airline_home, running
from tests.waiting import until
from worker.core.events import TeacherReplied
from worker.doctor import examine
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from worker.ports import Record

__all__ = ["airline_home"]

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]


@pytest.fixture(scope="module")
def fleet(airline_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A fleet of our own: no other test's sessions are in its Redis."""
    directory = tmp_path_factory.mktemp("lost")
    with running(airline_home, directory, RECOVER_BY_ITSELF="false") as started:
        yield started


def test_a_session_whose_redis_was_flushed_goes_on_with_every_turn_that_was_stored(
    fleet: Harness,
) -> None:
    session_id = lost_in_mid_session(fleet)
    stored = fleet.system.recovery.stored(session_id)
    assert stored is not None
    turns = message_ids(stored.records)
    assert "1 are not in Redis" in doctors_word(fleet)
    assert "lost all its data" in doctors_word(fleet, of="epoch")

    (row,) = recover(fleet, "--all")

    assert (row["session_id"], row["status"]) == (session_id, "restored")
    assert row["turns"] >= len(turns)
    assert fleet.wait(session_id).outcome == "concluded"
    records = fleet.system.journal.load(session_id).records
    assert message_ids(records)[: len(turns)] == turns
    assert posted_nusd(fleet, session_id) >= billed_nusd(fleet)
    assert "clusters.json" in fleet.artifacts(session_id)
    assert recover(fleet, "--all") == []
    assert doctors_word(fleet) == "all are in Redis"
    assert "is whole" in doctors_word(fleet, of="epoch")


def test_a_session_that_is_enqueued_again_after_the_loss_waits_and_is_not_begun_again(
    fleet: Harness,
) -> None:
    session_id = lost_in_mid_session(fleet)
    stored = fleet.system.recovery.stored(session_id)
    assert stored is not None
    assert [row["status"] for row in recover(fleet, session_id, "--dry-run")] == ["found"]

    fleet.client.enqueue(fleet.request(session_id))
    assert fleet.client.result(session_id, timeout_s=1.5) is None
    assert not fleet.system.journal.labels(session_id)
    recover(fleet, "--all")

    assert fleet.wait(session_id).outcome == "concluded"
    records = fleet.system.journal.load(session_id).records
    assert message_ids(records)[: len(stored.session.turns)] == message_ids(stored.records)


def lost_in_mid_session(fleet: Harness) -> str:
    """Begin a session and flush Redis, broker and all, once two turns of it are stored."""
    session_id = f"lost-{uuid.uuid4().hex[:8]}"
    fleet.client.enqueue(fleet.request(session_id))
    until("two turns are stored", lambda: fleet.stored_turns(session_id) >= 2)
    fleet.system.client.flushall()
    return session_id


def recover(fleet: Harness, *options: str) -> list[dict[str, Any]]:
    """Say `diagnosis recover` as an operator does."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "recover", *options, "--json"],
        env={**os.environ, **fleet.fleet.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def doctors_word(fleet: Harness, *, of: str = "stored sessions") -> str:
    """Return what `diagnosis doctor` says of the stored sessions, or of something else."""
    checks = examine(fleet.fleet.settings())
    return next(check.found for check in checks if check.name == of)


def message_ids(records: Iterable[Record]) -> list[str]:
    """Return the provider's ids of the replies in a journal."""
    happened = decode_all(records)
    return [event.message_id for event in happened if isinstance(event, TeacherReplied)]


def posted_nusd(fleet: Harness, session_id: str) -> int:
    account = fleet.system.ledger.account(f"session:{session_id}")
    assert account is not None
    return account.posted_nusd


def billed_nusd(fleet: Harness) -> int:
    """Return what the provider billed by now: this was the only session."""
    urls = (fleet.teacher_url, fleet.judge_url)
    lines = [line for url in urls for line in fleet.asked("/_sim/bill", of=url)["entries"]]
    assert lines
    return sum(line["amount_nano_usd"] for line in lines)
