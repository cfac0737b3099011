"""A run that takes its worker with it, each time: given up, told of, and done again by somebody.

Rule: nothing here is played: each worker is a process group, and dies by SIGKILL while it has the run.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tests.chaos.real import HELD_QUERY, RealFleet, real_fleet
from tests.chaos.restarts import only_run_under_way
from tests.waiting import until
from worker.cli import cli
from worker.core import keys
from worker.core.policy import POISON_DEATHS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.figures import Figures

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("300")]

SESSION = "poisoned"
_POISONED = "task-0"
_TASKS = (HELD_QUERY, *(f"What is {number} + {number + 1}?" for number in range(3)))


def test_a_step_that_kills_its_workers_is_given_up_and_done_again_when_somebody_says_so(
    tmp_path: Path, figures: Figures
) -> None:
    options = ["--repeats", "1"]
    with real_fleet(tmp_path, workers=2, tasks=_TASKS, teacher_options=options) as real:
        real.enqueue(SESSION, limits={"max_turns": 4})
        victim = ""
        for death in range(1, POISON_DEATHS + 1):
            until(f"try {death}", lambda: len(real.student.held) == death, every_s=0.01)  # noqa: B023 - used at once
            (step,) = until("it alone", lambda: only_run_under_way(real, SESSION))
            victim = step.step_id
            real.kill(real.worker_of(step.owner))
            real.begin_worker()
        until("the end", lambda: real.ended(SESSION))

        assert len(real.student.held) == POISON_DEATHS, "it was tried again after it was given up"
        (letter,) = _said(real, "dead-letters", "--json")
        assert (letter["session_id"], letter["step_id"]) == (SESSION, victim)
        runs = _student_runs(real, SESSION)
        assert runs.pop(_POISONED) == "fault"
        assert set(runs.values()) == {"answered"}, "the batch goes on with what it has"

        real.student.go_on()
        real.wait_ready()
        (request,) = _said(real, "dead-letters", "retry", str(letter["number"]), "--json")
        child = request["session_id"]
        until("the end of its retry", lambda: real.ended(child))

        assert _student_runs(real, child) == {**runs, _POISONED: "answered"}
        paid = {row["step_id"] for row in _rows(real, child, "costs.jsonl")}
        assert "turn/1" not in paid, "a turn before it was paid for again"
        how = f"{victim} was killed {POISON_DEATHS} times, given up, and done in {child}"
        figures.most("poison: workers lost to one run", letter["deaths"], "", POISON_DEATHS, how)


def _said(real: RealFleet, *args: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a command prints, a line each."""
    env = {**os.environ, **real.fleet.environment}
    result = CliRunner(env=env).invoke(cli, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _student_runs(real: RealFleet, session_id: str) -> dict[str, str]:
    """Return what came of the student's run on each task."""
    runs = _rows(real, session_id, "runs.jsonl")
    return {run["task_id"]: run["outcome"] for run in runs if run["runner"] == "student"}


def _rows(real: RealFleet, session_id: str, name: str) -> list[dict[str, Any]]:
    place = {"tenant": "default", "campaign": "default", "session_id": session_id}
    manifest = json.loads(real.system.artifacts.get(keys.manifest(**place)) or b"{}")
    body = real.system.artifacts.get(manifest["files"][name]["key"]) or b""
    return [json.loads(line) for line in body.splitlines()]
