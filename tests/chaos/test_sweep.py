"""Crash points swept, not sampled: whole sessions, struck at every operation in every way."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.chaos.laws import Came, broken_laws, left_by
from tests.chaos.points import Way
from tests.chaos.stories import BATCHES, LIMITED, PAUSES, STORIES, WHOLE
from tests.chaos.sweep import ALL_WAYS, KILLS, Matrix, Sweep
from tests.chaos.world import SESSION, World
from worker.core import policy

if TYPE_CHECKING:
    from tests.chaos.figures import Figures
    from tests.chaos.stories import Story
    from worker.steps.workspace import Workspace

pytestmark = pytest.mark.timeout("600")

#: Pairs of strikes that are drawn for the whole session, and for each other story.
PAIRS_OF_WHOLE, PAIRS_OF_OTHERS = 150, 12
#: How many operations after a reply was spooled are struck: past the commit of its step.
NEXT = 24
OTHERS = tuple(story for story in STORIES.values() if story is not WHOLE)
_HOW = "virtual clock, one thread; tests/chaos/test_sweep.py"


def note(figures: Figures, name: str, matrix: Matrix) -> None:
    """Note a matrix: how many runs, and no red one."""
    figures.show(matrix.text(name))
    figures.most(f"{name}: red", matrix.total(Came.RED), f"of {matrix.runs} runs", 0, _HOW)


def test_a_whole_session_survives_every_strike(workspace: Workspace, figures: Figures) -> None:
    began_s = time.process_time()
    sweep = Sweep(WHOLE, workspace)
    matrix = sweep.one_by_one()

    note(figures, "whole session", matrix)
    figures.least("whole session: operations", len(sweep.points), "struck, each way", 250, _HOW)
    seconds = round(time.process_time() - began_s, 1)
    figures.most("whole session: sweep", seconds, "CPU seconds", 100, _HOW)
    assert not matrix.reds


def test_messages_in_another_order_some_of_them_lost(
    workspace: Workspace, figures: Figures
) -> None:
    matrix = Sweep(WHOLE, workspace, seed=7).one_by_one(KILLS)

    note(figures, "whole session, other messages lost and doubled", matrix)
    assert not matrix.reds


def test_what_is_said_again_after_a_lost_reply_changes_nothing(workspace: Workspace) -> None:
    sweep = Sweep(WHOLE, workspace)
    changed = {
        sweep.points[number].name
        for number, way in sweep.places([Way.AGAIN])
        if sweep.strike({number: way})[0] is not Came.SAME
    }

    # What these tell the workers stood in the reply that was lost: it is told two seconds later. A
    # hint that comes twice puts others in another order.
    assert changed <= {"journal.create", "journal.drive", "hints.tell"}


def test_what_was_heard_is_paid_for_once_whoever_dies_next(
    workspace: Workspace, figures: Figures
) -> None:
    sweep, matrix = Sweep(WHOLE, workspace), Matrix()
    written = [n for n, point in enumerate(sweep.points) if point.name == "spool.write"]

    for first in written:
        # The worker dies with the reply on its disk, and then whoever does one of the next things.
        for gap in range(1, NEXT + 1):
            matrix.add(
                "spool.write", KILLS[0], *sweep.strike({first: Way.AFTER, first + gap: Way.BEFORE})
            )
            matrix.add(
                "spool.write", KILLS[1], *sweep.strike({first: Way.AFTER, first + gap: Way.AFTER})
            )

    note(figures, "a reply was heard, and its taker dies as well", matrix)
    assert len(written) == 8
    assert not matrix.reds


def test_a_crash_while_concluding_leaves_the_same_bytes_manifest_included(
    workspace: Workspace,
) -> None:
    sweep = Sweep(WHOLE, workspace)
    concluding = [n for n, point in enumerate(sweep.points) if point.step_id == "conclude"]

    left = [sweep.left({n: way}) for n in concluding for way in KILLS]

    assert len(left) > 20
    assert {one.manifest for one in left} == {sweep.calm.manifest}


@pytest.mark.parametrize("story", OTHERS, ids=lambda story: story.name)
def test_every_other_story_survives_every_strike(
    workspace: Workspace, figures: Figures, story: Story
) -> None:
    matrix = Sweep(story, workspace).one_by_one(KILLS)

    note(figures, story.name, matrix)
    assert not matrix.reds


def test_the_stories_are_of_what_their_names_say(workspace: Workspace) -> None:
    def calm(story: Story) -> World:
        world = World(story, workspace)
        world.run()
        return world

    for story in PAUSES:
        records = calm(story).stores.journal.load(SESSION).records
        assert any(record.key == "pause/1" for record in records), story.name
    for story in BATCHES:
        entries = calm(story).stores.ledger.entries(SESSION)
        assert any(entry.kind.endswith("_batch") for entry in entries), story.name
    assert any(point.name == "limiter.admit" for point in calm(LIMITED).points)


def test_two_strikes_in_one_session(workspace: Workspace, figures: Figures) -> None:
    matrix = Matrix()
    for number, story in enumerate(STORIES.values()):
        count = PAIRS_OF_WHOLE if story is WHOLE else PAIRS_OF_OTHERS
        matrix.join(Sweep(story, workspace).pairs(count, ALL_WAYS, chance=number))

    note(figures, "two strikes at random", matrix)
    assert not matrix.reds


def test_a_step_that_kills_its_workers_is_given_up(workspace: Workspace, figures: Figures) -> None:
    calm = World(WHOLE, workspace)
    calm.run()
    steps = {started.step_id for started in calm.started}
    kills: dict[str, int] = {}

    for step_id in sorted(steps):
        world = World(_poisoned(step_id), workspace)
        world.run()
        left = left_by(world)
        assert broken_laws(world, left, left) == [], step_id
        assert world.published[0].reason
        assert any(letter.step_id == step_id for letter in world.stores.journal.dead_letters())
        kills[step_id] = world.poisoned

    figures.most("poison: workers killed by one step", max(kills.values()), "workers", _LIMIT, _HOW)
    assert set(kills.values()) == {policy.POISON_DEATHS}


_LIMIT = policy.POISON_DEATHS


def _poisoned(step_id: str) -> Story:
    return replace(
        WHOLE,
        name=f"{step_id} kills",
        poison=frozenset({step_id}),
        exact=False,
        outcomes=frozenset({"concluded", "inconclusive", "failed"}),
        stops=frozenset(),
    )


@pytest.mark.parametrize("step_id", ["prepare", "call/2.1", "conclude"])
def test_poison_and_a_strike(workspace: Workspace, figures: Figures, step_id: str) -> None:
    matrix = Sweep(_poisoned(step_id), workspace).one_by_one(KILLS)

    note(figures, f"{step_id} kills its workers", matrix)
    assert not matrix.reds
