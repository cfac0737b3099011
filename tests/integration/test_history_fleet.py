"""What the commands say of real sessions, one of whose workers was killed."""

from __future__ import annotations

import json
import os
import signal
import uuid
from typing import Any

import pytest

from tests.fleets import Harness, WorkerPlan, airline_home, harness
from tests.waiting import until
from worker.status import pruned_view

__all__ = ["airline_home", "harness"]

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]


def _rows(harness: Harness, *args: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in harness.said(*args, "--json").splitlines()]


def _works_on(harness: Harness, session_id: str, pid: int) -> bool:
    rows = harness.system.journal.steps(session_id)
    return any(row.owner.endswith(f".{pid}") for row in rows if row.step_id.startswith("run/"))


@pytest.fixture(scope="module")
def struck(harness: Harness) -> str:
    """A session that has ended, one of whose workers was killed while a student answered it."""
    doomed = harness.fleet.begin_worker(
        WorkerPlan(name=f"doomed-{uuid.uuid4().hex[:6]}", queues="student", concurrency=8)
    )
    harness.fleet.stack.wait_ready()
    assert doomed.info.pid is not None
    pid = doomed.info.pid
    session_id = f"struck-{uuid.uuid4().hex[:8]}"
    harness.client.enqueue(harness.request(session_id))
    until("a run on the doomed worker", lambda: _works_on(harness, session_id, pid))
    os.kill(pid, signal.SIGKILL)
    assert harness.wait(session_id).outcome == "concluded"
    return session_id


def test_explain_tells_the_takeover_and_its_money_is_the_ledgers(
    harness: Harness, struck: str
) -> None:
    rows = _rows(harness, "explain", struck)

    taken = [row for row in rows if row["source"] == "attempt"]
    assert any("whose lease ran out" in row["what"] for row in taken)
    for row in (row for row in taken if "whose lease ran out" in row["what"]):
        done = [r for r in rows if r["source"] == "journal" and r["step_id"] == row["step_id"]]
        assert [(r["owner"], r["attempt"]) for r in done] == [(row["owner"], row["attempt"])]
    account = harness.system.ledger.account(f"session:{struck}")
    assert account is not None
    assert sum(row["charged_nusd"] for row in rows) == account.posted_nusd > 0
    assert {row["source"] for row in rows} == {"journal", "attempt", "money", "artifact"}
    again = f"attempts taken over or tried again: {len(taken)}"
    assert again in harness.said("explain", struck)


def test_every_step_of_a_struck_session_was_asked_for(harness: Harness, struck: str) -> None:
    rows = _rows(harness, "replay", struck)

    assert {row["verdict"] for row in rows} <= {"outside", "wanted", "late"}
    assert rows[-1]["phase"] == "ended"


def test_a_pruned_session_of_the_fleet_is_explained_as_before_and_not_run_again(
    harness: Harness, struck: str
) -> None:
    before = _rows(harness, "explain", struck)

    assert struck in {
        row["session_id"] for row in _rows(harness, "prune", "--older-than-days", "0")
    }

    assert harness.system.journal.load(struck).length == 0
    assert _rows(harness, "explain", struck) == before
    left = pruned_view(struck, harness.system.journal)
    assert left is not None
    assert left.artifacts_uri.startswith("s3://")
    # Asked for again, its id is known: nothing is spent, and no journal begins.
    harness.client.enqueue(harness.request(struck))
    assert harness.wait(struck).outcome == "concluded"
    assert harness.system.journal.load(struck).length == 0
