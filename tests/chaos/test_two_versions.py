"""Workers of two versions on the same sessions: each takes over what the other one began.

Rule: the old version is a commit of this repository's own history, checked out beside this one and
run as it stood. Where the history is not there (a shallow clone), the tests say so and skip.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from tests.chaos.aftermath import balanced, committed_twice, ended_once, left_over, paid_again
from tests.chaos.real import HELD_QUERY, RealFleet, real_fleet, with_code
from tests.waiting import until
from worker.embedded.process import base_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.figures import Figures
    from worker.embedded.process import Program

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("600")]

ROOT = Path(__file__).parents[2]
#: The first version that is promised to live beside the next ones: the end of issue 2.
OLD = "4828b9c349f931a82471fc52966f0f88e581cab0"
_TASKS = (HELD_QUERY, *(f"What is {number} + {number + 1}?" for number in range(3)))
_LIMITS = {"max_turns": 6}
_SIDE_BY_SIDE = 8


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old version's sources."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed: the old version cannot be checked out")
    archive = subprocess.run(
        [git, "archive", "--format=zip", OLD, "worker", "tasks"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        pytest.skip(f"commit {OLD[:7]} is not in this clone: fetch the whole history")
    directory = tmp_path_factory.mktemp("old")
    with ZipFile(BytesIO(archive.stdout)) as files:
        files.extractall(directory)
    assert _imported(directory) == directory / "worker" / "__init__.py"
    return directory


def _imported(code: Path) -> Path:
    """Return which file a worker that is started with this code imports."""
    said = subprocess.run(
        [sys.executable, "-c", "import worker; print(worker.__file__)"],
        env={**base_environment(), **with_code(code)},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(said.stdout.strip())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    """Servers without a worker."""
    options = ["--repeats", "1", "--first-ms", "100"]
    with real_fleet(
        tmp_path_factory.mktemp("versions"), workers=0, tasks=_TASKS, teacher_options=options
    ) as real:
        yield real


@pytest.mark.parametrize("newer_begins", [False, True], ids=["old to new", "new to old"])
def test_a_session_is_taken_over_by_a_worker_of_the_other_version(
    real: RealFleet, old: Path, figures: Figures, *, newer_begins: bool
) -> None:
    name = "new-to-old" if newer_begins else "old-to-new"
    real.student.hold()
    first = _begin(real, None if newer_begins else old)
    real.enqueue(name, limits=_LIMITS)
    until("a run in mid-session", lambda: real.student.held, seconds=60, every_s=0.05)
    until("the other runs", lambda: len(real.system.journal.steps(name)) <= 2, seconds=60)
    done = {record.key for record in real.system.journal.load(name).records}
    first_pid = first.pid
    real.kill(first)

    second = _begin(real, old if newer_begins else None)
    second_pid = second.pid
    until("the run's restart", lambda: len(real.student.held) > 1, seconds=60)
    real.student.go_on()
    until(f"the end of {name}", lambda: real.ended(name), seconds=120)
    real.kill(second)

    by = _keys_by_pid(real, [name])
    assert {"open", "prepare", "turn/1"} <= by[first_pid] == done
    assert "conclude" in by[second_pid]
    assert by.keys() == {first_pid, second_pid}
    how = f"{len(done)} steps by one, {len(by[second_pid])} by the other"
    _hold_laws(real, [name], figures, f"two versions, {name.replace('-', ' ')}", how)


def test_both_versions_work_side_by_side(real: RealFleet, old: Path, figures: Figures) -> None:
    names = [f"both-{number}" for number in range(_SIDE_BY_SIDE)]
    real.student.go_on()
    workers = [_begin(real, old), _begin(real, None)]
    for name in names:
        real.enqueue(name, limits=_LIMITS)

    until("all ends", lambda: all(map(real.ended, names)), seconds=240)

    by = _keys_by_pid(real, names)
    assert by.keys() == {worker.pid for worker in workers}
    for worker in workers:
        real.kill(worker)
    steps = sorted(len(keys) for keys in by.values())
    _hold_laws(real, names, figures, "two versions, side by side", f"kinds of steps: {steps}")


def _begin(real: RealFleet, code: Path | None) -> Program:
    worker = real.begin_worker(code)
    real.wait_ready()
    return worker


def _keys_by_pid(real: RealFleet, names: list[str]) -> dict[int | None, set[str]]:
    """Return the keys of journals by the process that committed them; `open` is the door's."""
    by: defaultdict[int | None, set[str]] = defaultdict(set)
    for name in names:
        first, *rest = real.system.journal.load(name).records
        by[int(rest[0].owner.rpartition(".")[2])].add(first.key)
        for record in rest:
            by[int(record.owner.rpartition(".")[2])].add(record.key)
    return dict(by)


def _hold_laws(real: RealFleet, names: list[str], figures: Figures, kind: str, how: str) -> None:
    outcomes, again = ended_once(real, names), paid_again(real, names)
    left = left_over(real)
    balanced(real, sorted(real.names))

    said = f"commit {OLD[:7]} and this one; {how}; tests/chaos/test_two_versions.py"
    figures.least(f"{kind}: sessions ended once", outcomes.total(), "", len(names), said)
    figures.most(f"{kind}: finished steps paid again", len(again), "steps", 0, said)
    assert (again, committed_twice(real, names), left) == ([], [], [])
