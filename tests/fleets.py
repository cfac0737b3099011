"""A real fleet for the integration tests: servers, simulated teacher, recorded student, workers.

Rule: one fleet a test session, started by the operators' own commands; every test has session ids and
accounts of its own.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from worker import bootstrap
from worker.cli import cli
from worker.cli.enqueue import upload_home
from worker.client import Client
from worker.core import keys
from worker.embedded.fleet import Fleet, WorkerPlan
from worker.embedded.process import free_ports, log_shows
from worker.embedded.stack import EmbeddedStack
from worker.wire.request import DiagnoseRequest, parse_request

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from worker.bootstrap import System
    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

__all__ = ["AIRLINE_HOME", "Harness", "airline_home", "harness", "running"]

AIRLINE_HOME = Path(__file__).parents[2] / "shared" / "data" / "tau-airline-home"
#: A session of the simulated teacher takes about 5 s on two quiet cores.
PATIENCE_S = 60.0

WORKERS = (
    WorkerPlan(name="main", queues="control,tools,teacher,artifacts", concurrency=16),
    WorkerPlan(name="second", queues="control,tools,teacher,artifacts,student", concurrency=16),
)


class _Untold:
    """Hints of this process are not needed: the workers sweep."""

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell nobody."""


@dataclass(frozen=True)
class Harness:
    """A running fleet and a client of it."""

    fleet: Fleet
    system: System
    client: Client
    bundle_uri: str
    teacher_url: str
    judge_url: str

    def request(self, session_id: str, **fields: Any) -> DiagnoseRequest:
        """Return a request for the airline bundle."""
        return parse_request({"session_id": session_id, "bundle": self.bundle_uri, **fields})

    def run(self, session_id: str, **fields: Any) -> DiagnoseResult:
        """Enqueue a session and wait for its result."""
        self.client.enqueue(self.request(session_id, **fields))
        return self.wait(session_id)

    def wait(self, session_id: str) -> DiagnoseResult:
        """Return the result of a session that was enqueued."""
        result = self.client.result(session_id, timeout_s=PATIENCE_S)
        assert result is not None, f"{session_id} has not ended in {PATIENCE_S} s"
        return result

    def artifacts(self, session_id: str, tenant: str = "default") -> dict[str, str]:
        """Return a session's artifacts by name, as its manifest lists them."""
        place = {"tenant": tenant, "campaign": "default", "session_id": session_id}
        manifest = self.system.artifacts.get(keys.manifest(**place))
        assert manifest is not None, f"{session_id} has no manifest"
        files = json.loads(manifest)["files"]
        bodies = {name: self.system.artifacts.get(file["key"]) for name, file in files.items()}
        return {name: (body or b"").decode() for name, body in bodies.items()}

    def stored_turns(self, session_id: str) -> int:
        """Return how many turns of a session are stored outside of Redis."""
        if not self.system.artifacts.list(keys.checkpoints(session_id)):
            return 0
        stored = self.system.recovery.stored(session_id)
        return len(stored.session.turns) if stored else 0

    def said(self, *args: str, code: int = 0) -> str:
        """Return what a command prints, said as an operator of this fleet says it."""
        env = {**os.environ, **self.fleet.environment, "COLUMNS": "220"}
        result = CliRunner(env=env).invoke(cli, args, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout

    def rows(self, session_id: str, name: str) -> list[dict[str, Any]]:
        """Return the lines of a JSON Lines artifact."""
        return [json.loads(line) for line in self.artifacts(session_id)[name].splitlines()]

    def asked(
        self, path: str, body: object = None, *, of: str | None = None, api_key: str = ""
    ) -> Any:
        """Ask a simulator's control interface, or its provider's with a key."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{of or self.teacher_url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json", "x-api-key": api_key},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read() or b"null")

    def logs(self) -> str:
        """Return everything that the fleet's processes have logged."""
        folder = self.fleet.stack.directory / "logs"
        return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


@pytest.fixture(scope="session")
def airline_home() -> Path:
    """The recorded home; skipped where it is not beside the project."""
    if not AIRLINE_HOME.is_dir():
        pytest.skip("needs ../shared/data/tau-airline-home beside the project")
    return AIRLINE_HOME


@pytest.fixture(scope="session")
def harness(airline_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A fleet whose student plays the recorded airline runs back."""
    with running(airline_home, tmp_path_factory.mktemp("fleet")) as started:
        yield started


@contextmanager
def running(airline_home: Path, directory: Path, **variables: str) -> Generator[Harness]:
    """Start a fleet of one's own, with settings beside: for a test that breaks what others need."""
    with EmbeddedStack(directory / "stack", llama=False) as stack:
        fleet = Fleet(stack)
        teacher_url = fleet.add_simulated_teacher()
        judge_url = fleet.add_simulated_teacher(
            name="judging", judge_key=_judge_key(airline_home, directory / "judge.json")
        )
        fleet.set(JUDGES__DEFAULT__TEACHER="judging", BUDGETS=json.dumps(_BUDGETS), **variables)
        fleet.add_student(
            "default", base_url=_recorded_student(stack, airline_home), model="gpt-4o"
        )
        fleet.start_workers(WORKERS)
        settings = fleet.settings()
        system = bootstrap.build(settings, hints=_Untold(), publish=_never)
        client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
        uri = upload_home(airline_home, system.artifacts)
        yield Harness(fleet, system, client, uri, teacher_url, judge_url)
        client.close()
        system.close()


_BUDGETS = {"fleet": 1000.0, "tenant:default": 1000.0, "campaign:default": 1000.0}


def _never(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError("the tests' own process concludes nothing")


def _judge_key(home: Path, path: Path) -> Path:
    """Let the judge know the recorded reward of every recorded output."""
    runs = [json.loads(line) for line in (home / "student_runs.jsonl").read_text().splitlines()]
    samples = json.loads((home / "benchmark.json").read_text())["samples"]
    queries = {sample["trace_id"]: sample["query"] for sample in samples}
    rows = [
        {"task": queries[run["task_id"]], "output": run["output"], "score": run["reward"]}
        for run in runs
    ]
    path.write_text(json.dumps(rows))
    return path


def _recorded_student(stack: EmbeddedStack, home: Path) -> str:
    (port,) = free_ports(1)
    stack.add_process(
        "student",
        [
            *(sys.executable, "-m", "worker.student.playback", "--port", str(port)),
            *("--runs", str(home / "student_runs.jsonl")),
            *("--benchmark", str(home / "benchmark.json")),
        ],
        ready=log_shows("ready http"),
    )
    return f"http://127.0.0.1:{port}/v1"
