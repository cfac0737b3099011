"""The demo: a whole session on this machine, from an empty folder to a diagnosis.

Rule: everything is real but, without a key, the teacher: it is simulated and says so wherever it
shows. Whatever ends the demo, no process of it stays.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from worker import bootstrap
from worker.cli.enqueue import upload_home
from worker.cli.output import dollars, said
from worker.cli.panel import clusters_table
from worker.cli.session import follow
from worker.client import Client
from worker.clock import SystemClock
from worker.core import keys
from worker.embedded.demo_benchmark import (
    MAX_TOKENS,
    SYSTEM_PROMPT,
    TEMPERATURE,
    answer_key,
    demo_tasks,
    write_home,
)
from worker.embedded.fleet import Fleet
from worker.embedded.stack import EmbeddedStack
from worker.errors import DiagnosisError, Misconfigured
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from worker.bootstrap import System
    from worker.embedded.demo_benchmark import DemoTask
    from worker.ports import Announcement, Student, StudentAnswer
    from worker.wire.result import DiagnoseResult

__all__ = ["run_demo"]

#: Runs that the student answers side by side; one thread computes them all.
SLOTS = 8
#: Of the answers that become the recorded traces.
SEED = 4_711
#: Of the teacher, when it is a real one.
REAL_MODEL = "claude-opus-4-6"
#: What a demo may cost.
CAP_USD = 2

console = Console()


def run_demo(directory: Path, *, keep: bool) -> None:
    """Run the demo in `directory`, which is emptied first; `keep` leaves it up until Ctrl-C.

    Raises:
        Misconfigured: Something did not start; the message holds the end of its log.
    """
    _empty(directory)
    with _ends_on_sigterm(), EmbeddedStack(directory, llama_slots=SLOTS) as stack:
        _say("servers are up: Valkey, SeaweedFS, llama.cpp with SmolLM2-135M")
        fleet = Fleet(stack)
        simulated = _add_teacher(fleet, directory)
        fleet.set(
            STUDENTS__DEFAULT__MAX_TOKENS=str(MAX_TOKENS),
            STUDENTS__DEFAULT__TEMPERATURE=str(TEMPERATURE),
            STUDENTS__DEFAULT__SYSTEM_PROMPT=SYSTEM_PROMPT,
        )
        fleet.begin_default_workers()
        flower_url = fleet.begin_flower()
        stack.wait_ready()
        _say(f"workers are up; Flower: {flower_url}")
        result = _diagnose(fleet, directory)
        _show(result, directory, simulated=simulated)
        if keep:
            _say(f"Flower stays at {flower_url} until Ctrl-C")
            threading.Event().wait()


def _diagnose(fleet: Fleet, directory: Path) -> DiagnoseResult:
    """Record the student, enqueue a session as a scheduler would, show it, fetch what it left."""
    settings = fleet.settings()
    system = bootstrap.build(settings, hints=_NoHints(), publish=_publishes_nothing)
    client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
    try:
        _make_home(system.ports.students["default"], directory / "home")
        session_id = f"demo-{SystemClock().today()}"
        request = {
            "session_id": session_id,
            "bundle": upload_home(directory / "home", system.artifacts),
            "trigger": "demo",
            "limits": {"max_cost_usd": CAP_USD},
        }
        client.enqueue(parse_request(request))
        follow(system, session_id, wait_s=30)
        result = client.result(session_id, timeout_s=30)
        if result is None:
            raise DiagnosisError(f"session {session_id} ended without a result")
        _fetch(system, session_id, directory / "artifacts")
        return result
    finally:
        client.close()
        system.close()


def _fetch(system: System, session_id: str, folder: Path) -> None:
    """Copy the session's artifacts to a folder, so that they outlive the demo's own store."""
    place = {"tenant": "default", "campaign": "default", "session_id": session_id}
    manifest = system.artifacts.get(keys.manifest(**place)) or b'{"files": {}}'
    for name, file in json.loads(manifest)["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        system.artifacts.get_file(file["key"], path)


def _make_home(student: Student, home: Path) -> None:
    """Have the student answer every task once; its answers become the recorded traces."""

    def ask(task: DemoTask) -> StudentAnswer:
        return student.answer(task.query, seed=SEED, run_id=f"recording-{task.task_id}")

    tasks = demo_tasks()
    with ThreadPoolExecutor(SLOTS) as pool:
        answers = dict(zip((task.task_id for task in tasks), pool.map(ask, tasks), strict=True))
    write_home(home, answers, SystemClock())
    _say(f"the student has answered {len(answers)} tasks once: these are its recorded traces")


def _add_teacher(fleet: Fleet, directory: Path) -> bool:
    """Let requests name a teacher: Claude where there is a key, else the simulated one."""
    key = os.environ.get("ANTHROPIC_API_KEY")
    if key:
        fleet.add_teacher("default", api_key=key, model=REAL_MODEL)
        _say(f"the teacher is {REAL_MODEL}: this costs up to ${CAP_USD}")
        return False
    path = directory / "answer-key.json"
    path.write_text(json.dumps(answer_key()), encoding="utf-8")
    fleet.add_simulated_teacher(answer_key=path)
    _say("the teacher is SIMULATED (no ANTHROPIC_API_KEY is set); its dollars are not real")
    return True


def _show(result: DiagnoseResult, directory: Path, *, simulated: bool) -> None:
    word = "simulated, " if simulated else ""
    console.print(said(result.outcome, style="bold") + said(f": {result.reason}"))
    console.print(clusters_table(result))
    console.print(f"cost: {dollars(result.cost_nusd)} ({word}exact to the nano-dollar)")
    console.print(f"artifacts: {directory / 'artifacts'} (start with diagnosis.md)")
    console.print(f"logs: {directory / 'logs'}")


def _empty(directory: Path) -> None:
    """Remove what an earlier demo left, and nothing else.

    Raises:
        Misconfigured: The folder holds something that is not a demo's.
    """
    if not directory.exists():
        return
    if any(directory.iterdir()) and not (directory / "stack.lock").exists():
        raise Misconfigured(f"{str(directory)!r} is not empty and no demo's: give another folder")
    shutil.rmtree(directory)


@contextmanager
def _ends_on_sigterm() -> Generator[None]:
    """Turn SIGTERM into an orderly end: the stack stops its processes on the way out."""

    def leave(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    console.print(f"[dim]·[/] {text}")


class _NoHints:
    """This process only watches; the workers sweep."""

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell nobody."""


def _publishes_nothing(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError(f"the demo's own process concludes nothing ({result}, {runtime_s})")
