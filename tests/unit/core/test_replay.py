"""Old journals lead to the same commands, for ever; a journal that cannot be right is found out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from tests.unit.core.strategies import histories
from worker.core.commands import step_id_of
from worker.core.events import CancelRequested, key_of
from worker.core.machine import fold, wanted
from worker.core.replay import GOOD, Played, replay
from worker.wire.archive import archived_records
from worker.wire.journal import decode_all, encode

if TYPE_CHECKING:
    from worker.core.commands import Command
    from worker.core.events import Event

GOLDEN = Path(__file__).parents[2] / "golden" / "journals"
NAMES = sorted(path.name.removesuffix(".wanted.jsonl") for path in GOLDEN.glob("*.wanted.jsonl"))

Journal = list[tuple[str, "Event"]]


def journal_of(name: str) -> Journal:
    records = archived_records((GOLDEN / f"{name}.jsonl").read_bytes())
    return list(zip([record.key for record in records], decode_all(records), strict=True))


def expected(name: str) -> list[dict[str, Any]]:
    lines = (GOLDEN / f"{name}.wanted.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def as_kept(played: Played, golden: dict[str, Any]) -> dict[str, Any]:
    """Return what was played in the golden file's words, with the fields that it knows."""
    commands = [as_row(command) for command in played.wanted]
    known = [row.keys() for row in golden["wanted"]]
    if len(known) == len(commands):
        commands = [
            {key: row[key] for key in row if key in keys}
            for row, keys in zip(commands, known, strict=True)
        ]
    return {
        "key": played.key,
        "verdict": played.verdict,
        "phase": played.phase,
        "wanted": commands,
    }


def as_row(command: Command) -> dict[str, Any]:
    row = {"command": type(command).__name__, "step_id": step_id_of(command), **asdict(command)}
    return json.loads(json.dumps(row))


def test_there_are_golden_journals_and_each_has_its_commands() -> None:
    journals = {path.stem for path in GOLDEN.glob("*.jsonl") if ".wanted" not in path.name}

    assert journals == set(NAMES)
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_journal_leads_to_the_same_commands_for_ever(name: str) -> None:
    golden = expected(name)

    played = list(replay(journal_of(name)))

    assert [as_kept(p, row) for p, row in zip(played, golden, strict=True)] == golden


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_journal_is_complete_and_right(name: str) -> None:
    played = list(replay(journal_of(name)))

    assert {one.verdict for one in played} <= GOOD
    assert played[-1].phase == "ended"
    assert played[-1].wanted == ()


@pytest.mark.parametrize("name", NAMES)
def test_an_event_of_a_golden_journal_is_written_as_it_was(name: str) -> None:
    """So that a worker of the version that wrote it can read what this one writes."""
    for record in archived_records((GOLDEN / f"{name}.jsonl").read_bytes()):
        (event,) = decode_all([record])
        assert encode(event) == (record.key, record.body)


@given(history=histories())
def test_whatever_a_fleet_does_each_step_of_its_journal_was_asked_for(
    history: tuple[Event, ...],
) -> None:
    played = list(replay((key_of(event), event) for event in history))

    assert len(played) == len(history)
    assert {one.verdict for one in played} <= GOOD
    assert played[-1].wanted == wanted(fold(history))


def test_a_step_that_was_told_to_stop_is_late_and_no_fault() -> None:
    played = {one.key: one.verdict for one in replay(journal_of("cancelled"))}

    assert played["judge/2.1.0"] == "late"
    assert played["cancel"] == "outside"


def test_a_step_that_was_never_asked_for_is_found() -> None:
    """The step's call is still to be expanded: no run of it was asked for, and `apply` says so."""
    journal = journal_of("worker-killed")
    keys = [key for key, _ in journal]
    at = keys.index("call/2.0")
    run = journal.pop(keys.index("run/2.0.0"))
    journal.insert(at, run)

    *before, last = replay(journal)

    assert last.position == at
    assert last.verdict == "illegal"
    assert "nothing that was asked for" in last.detail
    assert {one.verdict for one in before} <= GOOD


def test_a_conclusion_that_was_taken_before_it_was_wanted_is_found() -> None:
    journal = [pair for pair in journal_of("poisoned-step") if pair[0] != "extract"]

    *_, last = replay(journal)

    assert (last.key, last.verdict) == ("conclude", "illegal")


def test_an_event_under_another_key_than_its_own_is_found() -> None:
    journal = journal_of("poisoned-step")
    journal.insert(3, ("turn/1", CancelRequested(reason="enough")))

    assert [one.verdict for one in replay(journal)][3] == "misplaced"


def test_a_key_that_is_there_twice_is_found() -> None:
    journal = journal_of("cancelled")
    twice = next(event for key, event in journal if key == "cancel")
    journal.insert(-1, ("cancel", twice))

    assert [one.verdict for one in replay(journal)][-2] == "again"


def test_a_turn_that_no_machine_wants_is_found_although_it_can_be_taken() -> None:
    """After the cancel nothing but `conclude` is wanted; a further turn was never asked for."""
    journal = journal_of("cancelled")
    turn = next(event for key, event in journal if key == "turn/2")
    further: Any = replace(turn, turn=3)
    journal.insert(-1, (key_of(further), further))

    assert [one.verdict for one in replay(journal)][-2] == "never"


def test_a_replay_stops_at_the_first_event_that_cannot_be_taken() -> None:
    journal = journal_of("cancelled")

    assert [one.verdict for one in replay(journal[1:])] == ["illegal"]
    assert list(replay([])) == []
