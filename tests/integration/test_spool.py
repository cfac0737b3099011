"""Real workers killed by SIGKILL around a reply: what was heard is adopted, what was not has its id.

Rule: what must hold is read from the provider's own bill and from the ledger, never from a worker.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.real import RealFleet, real_fleet
from tests.waiting import until
from worker.core import keys
from worker.core.events import TeacherReplied
from worker.ports import EntryState
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.ports import Entry

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]

_TASKS = tuple(f"What is {number} + {number + 1}?" for number in range(6))
#: A reply takes a second or two: time to take Redis away while it streams.
_PACE = ["--first-ms", "300", "--event-ms", "60"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    """One worker, and servers of our own: they are killed here."""
    directory = tmp_path_factory.mktemp("spool")
    with real_fleet(directory, workers=1, tasks=_TASKS, teacher_options=_PACE) as real:
        yield real


def spooled(fleet: RealFleet) -> list[str]:
    folder = fleet.fleet.settings().spool_path
    return [path.name for path in folder.glob("*.reply")] if folder.is_dir() else []


def streaming(fleet: RealFleet, session_id: str, step_id: str) -> Entry | None:
    """Return the reservation of a step whose answer has begun, None where none has."""
    entries = fleet.system.ledger.entries(session_id)
    begun = (e for e in entries if e.step_id == step_id and e.state is EntryState.SENT)
    return next((entry for entry in begun if entry.request_id), None)


def begin(fleet: RealFleet, step_id: str) -> tuple[str, Entry]:
    """Begin a session; return its id and a step's reservation once the step's answer has begun."""
    session_id = f"spool-{uuid.uuid4().hex[:8]}"
    fleet.enqueue(session_id)
    entry = until(
        f"an answer to {step_id}",
        lambda: streaming(fleet, session_id, step_id),
        seconds=60,
        every_s=0.02,
    )
    return session_id, entry


def concluded(fleet: RealFleet, session_id: str) -> None:
    fleet.begin_worker()
    result = fleet.client.result(session_id, timeout_s=90)
    assert result is not None
    assert result.outcome in {"concluded", "inconclusive"}


def request_ids(fleet: RealFleet, session_id: str) -> dict[str, str]:
    """Return which request each of a session's turns goes on from."""
    records = fleet.system.journal.load(session_id).records
    events = zip(records, decode_all(records), strict=True)
    return {r.key: e.request_id for r, e in events if isinstance(e, TeacherReplied)}


def test_a_reply_that_was_heard_before_its_worker_was_killed_is_bought_once(
    fleet: RealFleet,
) -> None:
    billed_before = len(fleet.bill())
    session_id, entry = begin(fleet, "turn/2")

    # Without Redis the reply can neither be paid for nor committed; then its worker dies.
    fleet.stack.valkey.kill()
    until("a reply on the disk", lambda: spooled(fleet), seconds=30, every_s=0.02)
    fleet.kill(fleet.workers[0])
    fleet.stack.valkey.start()
    (left,) = [e for e in fleet.system.ledger.entries(session_id) if e.step_id == "turn/2"]
    assert left.state is EntryState.SENT
    concluded(fleet, session_id)

    entries = fleet.system.ledger.entries(session_id)
    (paid,) = [e for e in entries if e.step_id == "turn/2"]
    assert (paid.state, paid.reservation_id) == (EntryState.SETTLED, entry.reservation_id)
    assert request_ids(fleet, session_id)["turn/2"] == paid.request_id == entry.request_id
    bill = fleet.bill()[billed_before:]
    assert [line["request_id"] for line in bill].count(entry.request_id) == 1
    charged = [e for e in entries if e.actual_nusd]
    assert {e.state for e in charged} == {EntryState.SETTLED}
    assert len(bill) == len(charged)
    assert sum(line["amount_nano_usd"] for line in bill) == sum(e.actual_nusd for e in charged)
    until("an empty spool", lambda: not spooled(fleet), seconds=30)
    (log,) = [line for line in _logs(fleet) if "a spooled reply was adopted" in line]
    assert json.loads(log)["request_id"] == entry.request_id


def test_a_call_whose_worker_was_killed_before_the_reply_was_whole_has_its_id_in_the_costs(
    fleet: RealFleet,
) -> None:
    session_id, entry = begin(fleet, "turn/2")

    fleet.kill(fleet.workers[0])
    concluded(fleet, session_id)

    rows = [row for row in costs(fleet, session_id) if row["step_id"] == "turn/2"]
    assert [row["state"] for row in rows] == ["expired", "settled"]
    assert rows[0]["request_id"] == entry.request_id
    assert rows[1]["request_id"] == request_ids(fleet, session_id)["turn/2"]
    assert entry.request_id in [line["request_id"] for line in fleet.bill()]


def costs(fleet: RealFleet, session_id: str) -> list[dict[str, Any]]:
    place = {"tenant": "default", "campaign": "default", "session_id": session_id}
    manifest = json.loads(fleet.system.artifacts.get(keys.manifest(**place)) or b"")
    body = fleet.system.artifacts.get(manifest["files"]["costs.jsonl"]["key"]) or b""
    return [json.loads(line) for line in body.splitlines()]


def _logs(fleet: RealFleet) -> list[str]:
    folder = fleet.stack.directory / "logs"
    return [line for path in folder.glob("*.log") for line in path.read_text().splitlines()]
