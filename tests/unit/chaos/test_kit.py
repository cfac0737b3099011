"""The kit of the crash sweep: it repeats itself, and it sees what is broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.laws import Came, broken_laws, left_by, set_aside
from tests.chaos.points import Way
from tests.chaos.stories import STORIES, WHOLE
from tests.chaos.sweep import KILLS, Matrix, Sweep
from tests.chaos.world import MemoryStores, World, memory_stores
from worker.artifacts.memory import MemoryArtifacts
from worker.journal.keys import DRIVE
from worker.journal.memory import MemoryJournal
from worker.ledger.memory import MemoryLedger
from worker.ports import Committed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.points import Strikes
    from worker.ports import Announcement, Commit
    from worker.steps.workspace import Workspace
    from worker.testing import ManualClock


# ------------------------------------------------------------------------------- what it promises


def test_the_same_story_and_strikes_make_the_same_world(workspace: Workspace) -> None:
    worlds = [World(WHOLE, workspace, strikes={40: Way.BEFORE}, seed=3) for _ in range(2)]
    for world in worlds:
        world.run()

    assert worlds[0].points == worlds[1].points
    assert worlds[0].started == worlds[1].started
    assert left_by(worlds[0]).manifest == left_by(worlds[1]).manifest


def test_up_to_the_strike_a_run_is_the_calm_run(workspace: Workspace) -> None:
    calm, struck = (World(WHOLE, workspace, strikes=s) for s in ({}, {60: Way.AFTER}))
    calm.run()
    struck.run()

    assert struck.points[:61] == calm.points[:61]
    assert struck.points != calm.points


def test_a_whole_session_does_everything_that_a_session_can(workspace: Workspace) -> None:
    world = World(WHOLE, workspace)
    world.run()

    kinds = Counter(started.step_id.partition("/")[0] for started in world.started)
    assert kinds == {"prepare": 1, "turn": 4, "call": 7, "run": 2, "judge": 2, "conclude": 1}
    assert {entry.kind for entry in left_by(world).entries} >= {"explore", "self_run", "judge"}


@pytest.mark.parametrize("name", ["no bundle", "teacher refuses all"])
def test_a_short_session_survives_every_kill(workspace: Workspace, name: str) -> None:
    matrix = Sweep(STORIES[name], workspace).one_by_one(KILLS)

    assert matrix.runs > 100
    assert matrix.reds == []


# ------------------------------------------------------------------------------------ what it sees


class DeafJournal(MemoryJournal):
    """Forgets what is due: a lost message is lost for good."""

    def sweep(self, *, limit: int) -> tuple[Announcement, ...]:
        del limit
        return ()


class LooseJournal(MemoryJournal):
    """Ends a step without what follows from it, and has nobody asked."""

    def commit(self, commit: Commit) -> Committed:
        super().commit(replace(commit, follow=()))
        self._due.pop((commit.lease.session_id, DRIVE), None)
        return Committed(status="ok", length=0)


class HastyJournal(MemoryJournal):
    """Lets nobody's lease count."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, lease_ms=1)


class ForgivingLedger(MemoryLedger):
    """Gives back what may have been billed."""

    def expire_overdue(self, *, limit: int) -> int:
        for entry in self.entries("s-1"):
            self.void(entry.reservation_id, "who knows")
        return super().expire_overdue(limit=limit)


class StingyLedger(MemoryLedger):
    """Charges half."""

    def settle(self, reservation_id: str, actual_nusd: int, **more: Any) -> bool:
        return super().settle(reservation_id, actual_nusd // 2, **more)


class StuckLedger(MemoryLedger):
    """Holds for ever."""

    def expire_overdue(self, *, limit: int) -> int:
        del limit
        return 0


class LosingArtifacts(MemoryArtifacts):
    """Loses a file."""

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        return key.endswith("runs.jsonl") or super().put_new(key, body, content_type=content_type)


@pytest.mark.parametrize(
    ("stores", "at", "way", "says"),
    [
        (lambda: memory_stores(journal=DeafJournal), "hints.tell", Way.BEFORE, "not quiet"),
        (lambda: memory_stores(journal=LooseJournal), "journal.create", Way.AGAIN, "not quiet"),
        (lambda: memory_stores(journal=HastyJournal), "journal.create", Way.AGAIN, "began again"),
        (lambda: memory_stores(ledger=ForgivingLedger), "teacher.send", Way.AFTER, "billed"),
        (lambda: memory_stores(ledger=StingyLedger), "ledger.settle", Way.AFTER, "billed"),
        (lambda: memory_stores(ledger=StuckLedger), "teacher.send", Way.AFTER, "not quiet"),
        (lambda: memory_stores(artifacts=LosingArtifacts), "publish", Way.AFTER, "runs.jsonl"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_store_is_seen(
    workspace: Workspace, stores: Callable[[], MemoryStores], at: str, way: Way, says: str
) -> None:
    calm = World(WHOLE, workspace)
    calm.run()
    strikes: Strikes = {next(n for n, point in enumerate(calm.points) if point.name == at): way}

    world = World(WHOLE, workspace, strikes=strikes, stores=stores())
    world.run()
    left = left_by(world)

    assert says in "\n".join(broken_laws(world, left, left_by(calm)))


def test_a_step_that_is_begun_after_its_commit_is_seen(workspace: Workspace) -> None:
    world = World(WHOLE, workspace)
    world.run()
    left = left_by(world)
    assert broken_laws(world, left, left) == []

    world.started.append(replace(world.started[-1], committed=True))

    assert any("although it was committed" in line for line in broken_laws(world, left, left))


def test_another_byte_in_an_artifact_is_seen(workspace: Workspace) -> None:
    world = World(WHOLE, workspace)
    world.run()
    left = left_by(world)

    for name, body in left.files.items():
        files = {**left.files, name: body.replace(b"sums", b"sons").replace(b"explore", b"exploit")}
        if files[name] != body:
            other = replace(left, files=files)
            assert any(f"{name} differs" in line for line in broken_laws(world, other, left)), name


def test_only_what_the_table_names_is_set_aside() -> None:
    row = b'{"turn": 1, "purpose": "explore", "timestamp": "now", "cost_nusd": 5, "content": "x"}\n'

    kept = set_aside("transcript.jsonl", row, frozenset())
    bought = set_aside("transcript.jsonl", row, frozenset({"turn/1"}))
    others = set_aside("transcript.jsonl", row, frozenset({"turn/2"}))

    assert kept == '{"turn": 1, "purpose": "explore", "cost_nusd": 5, "content": "x"}'
    assert bought == '{"turn": 1, "purpose": "explore", "content": "x"}'
    assert others == kept


def test_a_matrix_counts_and_quotes() -> None:
    matrix = Matrix()
    matrix.add("journal.claim", Way.BEFORE, Came.SAME)
    matrix.add("journal.claim", Way.BEFORE, Came.RED, "it ended twice")

    assert matrix.reds == ["journal.claim killed before: it ended twice"]
    assert "1RED" in matrix.text("title")
    assert matrix.total(Came.SAME) == 1


# --------------------------------------------------------------------- two conclusions, one manifest


def test_the_first_manifest_says_what_a_later_conclusion_reports(workspace: Workspace) -> None:
    first = World(WHOLE, workspace)
    first.run()
    stores = memory_stores()
    for key in first.stores.artifacts.list("sessions/"):
        body = first.stores.artifacts.get(key)
        assert body is not None
        stores.artifacts.put(key, body, content_type="")

    second = World(STORIES["no bundle"], workspace, stores=stores)
    second.run()

    assert first.published[0].outcome == "concluded"
    assert second.published == first.published
