"""What has ended leaves Redis when its artifacts were read back, and nothing else ever does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.journals import seen
from tests.unit.history.sessions import (
    FILES,
    artifact_key,
    end_session,
    open_session,
    place,
    write_artifacts,
)
from worker.artifacts.memory import MemoryArtifacts
from worker.core import keys
from worker.journal.memory import MemoryJournal
from worker.retention import Retained, prune
from worker.testing import ManualClock
from worker.wire.archive import archived_notes, archived_records

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_MS = 86_400_000
URI = "memory://memory/sessions/acme/night/s-1/"


@dataclass
class Desk:
    clock: ManualClock = field(default_factory=ManualClock)
    artifacts: MemoryArtifacts = field(default_factory=MemoryArtifacts)
    journal: MemoryJournal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = MemoryJournal(self.clock)

    def ended(self, session_id: str = "s-1") -> None:
        open_session(self.journal, session_id)
        end_session(self.journal, self.artifacts, session_id)
        self.clock.advance(1)

    def prune(self, *, dry_run: bool = False) -> list[Retained]:
        return list(
            prune(
                self.journal,
                self.artifacts,
                ended_before_ms=self.clock.now_ms(),
                dry_run=dry_run,
            )
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_session_whose_artifacts_are_whole_leaves_and_says_where_they_are(desk: Desk) -> None:
    desk.ended()

    assert desk.prune() == [Retained(session_id="s-1", pruned=True, artifacts_uri=URI)]
    assert desk.prune() == []

    labels = desk.journal.labels("s-1")
    assert (labels["outcome"], labels["artifacts_uri"]) == ("cancelled", URI)
    assert desk.journal.load("s-1").length == 0


def test_its_journal_lies_beside_its_artifacts_byte_for_byte(desk: Desk) -> None:
    open_session(desk.journal, "s-1")
    claim = desk.journal.claim("s-1", "prepare", owner="w-1", token="t", since=0)
    assert claim.lease is not None
    desk.journal.retry(claim.lease, delay_ms=0, error="the store is away\u2028")
    end_session(desk.journal, desk.artifacts, "s-1")
    desk.clock.advance(1)
    before = desk.journal.load("s-1").records
    notes = desk.journal.notes("s-1")

    desk.prune()

    body = desk.artifacts.get(keys.journal_copy(**place("s-1")))
    assert body is not None
    assert archived_records(body) == before
    assert archived_notes(body) == notes
    assert len(notes) == 1


def test_a_dry_run_says_the_same_and_changes_nothing(desk: Desk) -> None:
    desk.ended()
    before, objects = seen(desk.journal, "s-1"), desk.artifacts.list("")

    assert desk.prune(dry_run=True) == [Retained(session_id="s-1", pruned=True, artifacts_uri=URI)]

    assert seen(desk.journal, "s-1") == before
    assert desk.artifacts.list("") == objects


def test_a_younger_session_is_not_looked_at(desk: Desk) -> None:
    desk.ended()

    early = prune(
        desk.journal, desk.artifacts, ended_before_ms=desk.clock.now_ms() - DAY_MS, dry_run=False
    )

    assert list(early) == []
    assert desk.journal.load("s-1").length == 3


MANIFEST = keys.manifest(**place("s-1"))
NOTES = artifact_key("s-1", "diagnosis.md")
COPY = keys.journal_copy(**place("s-1"))


def put(key: str, body: bytes) -> Callable[[MemoryArtifacts], None]:
    return lambda artifacts: artifacts.put(key, body, content_type="text/plain")


DAMAGES: dict[str, tuple[Callable[[MemoryArtifacts], None], str]] = {
    "no manifest": (lambda artifacts: artifacts.delete(MANIFEST), "manifest.json is missing"),
    "another manifest": (put(MANIFEST, b"{}"), "not the manifest that the session ended with"),
    "a missing file": (lambda artifacts: artifacts.delete(NOTES), "is missing, which"),
    "a shorter file": (put(NOTES, FILES["diagnosis.md"][:-1]), "has 9 bytes and not 10"),
    "other bytes": (put(NOTES, b"# Someth.\n"), "holds other bytes"),
    "another journal": (put(COPY, b"{}"), "holds another journal"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_session_with_damaged_artifacts_stays_and_says_why(desk: Desk, damage: str) -> None:
    do, why = DAMAGES[damage]
    desk.ended()
    before = seen(desk.journal, "s-1")
    do(desk.artifacts)

    (kept,) = desk.prune()

    assert not kept.pruned
    assert why in kept.why
    assert seen(desk.journal, "s-1") == before


def test_a_damaged_one_does_not_keep_the_others(desk: Desk) -> None:
    for name in ("s-1", "s-2"):
        desk.ended(name)
    desk.artifacts.delete(NOTES)

    assert [one.pruned for one in desk.prune()] == [False, True]
    assert desk.journal.sessions() == ("s-1",)


def test_a_pruner_that_died_after_it_copied_the_journal_is_followed_by_another(desk: Desk) -> None:
    desk.ended()
    journal = desk.journal.load("s-1").records
    desk.prune()
    copied = desk.artifacts.get(COPY)
    assert copied is not None
    again = Desk()
    again.ended()
    put(COPY, copied)(again.artifacts)

    assert again.journal.load("s-1").records == journal
    assert [one.pruned for one in again.prune()] == [True]


NAMES = ("a", "b", "c", "d")


@given(
    ended=st.sets(st.sampled_from(NAMES)),
    damaged=st.sets(st.sampled_from(NAMES)),
    claimed=st.sets(st.sampled_from(NAMES)),
    with_artifacts=st.booleans(),
)
def test_pruning_at_any_time_changes_nothing_for_open_sessions(
    ended: set[str], damaged: set[str], claimed: set[str], *, with_artifacts: bool
) -> None:
    desk = Desk()
    for name in NAMES:
        open_session(desk.journal, name)
    for name in sorted(claimed):
        desk.journal.claim(name, "prepare", owner="w", token=name, since=0)
    for name in sorted(ended - claimed):
        end_session(desk.journal, desk.artifacts, name)
    still_open = [name for name in NAMES if name not in ended - claimed]
    if with_artifacts:
        # A manifest lies there although the session goes on: its concluder died before its commit.
        for name in still_open:
            write_artifacts(desk.artifacts, name)
    for name in sorted(damaged):
        desk.artifacts.delete(artifact_key(name, "clusters.json"))
    desk.clock.advance(1)
    before = seen(desk.journal, *still_open)

    pruned = {one.session_id for one in desk.prune() if one.pruned}

    after = seen(desk.journal, *still_open)
    assert pruned == ended - claimed - damaged
    assert (after.journals, after.steps, after.labels) == (
        before.journals,
        before.steps,
        before.labels,
    )
    assert after.due == before.due
    assert set(desk.journal.sessions()) == set(NAMES) - pruned
