"""A real fleet that may be killed piece by piece: processes, Valkey, S3, a simulated provider.

Rule: everything that is struck is a process of its own, started by the operators' own command; what
looks on (this process) reads the stores and kills nothing but what it started.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from tests.chaos.broker import BadWire
from tests.unit.bundle.homes import make_home
from tests.waiting import until
from worker import bootstrap
from worker.cli.enqueue import upload_home
from worker.client import Client
from worker.embedded.fleet import Fleet, WorkerPlan
from worker.embedded.stack import EmbeddedStack
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from worker.bootstrap import System
    from worker.embedded.process import Program
    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

__all__ = ["HELD_QUERY", "RealFleet", "real_fleet", "until", "with_code"]

QUEUES = "control,tools,teacher,artifacts,student"
#: A run on this task is answered when the test says so.
HELD_QUERY = "What is 100 + 100?"
_BUDGETS = {"fleet": 1000.0, "tenant:default": 1000.0, "campaign:default": 1000.0}


def with_code(checkout: Path) -> dict[str, str]:
    """Return the variables of a process that shall run another checkout's code."""
    return {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}


class StudentServer:
    """An OpenAI-compatible student in this process: fast, bad at sums, and patient with one task."""

    def __init__(self) -> None:
        #: When each run on `HELD_QUERY` arrived, by `time.monotonic`.
        self.held: list[float] = []
        self._go_on = threading.Event()
        student = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                student._answer(self, json.loads(self.rfile.read(size)))

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
                del format, args

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        """Where it is, as settings want it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def go_on(self) -> None:
        """Answer the held runs, those to come included, until `hold`."""
        self._go_on.set()

    def hold(self) -> None:
        """Keep the runs on `HELD_QUERY` waiting again."""
        self.held.clear()
        self._go_on.clear()

    def close(self) -> None:
        """Answer what waits, and end."""
        self.go_on()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        query: str = request["messages"][-1]["content"]
        if query == HELD_QUERY:
            self.held.append(time.monotonic())
            self._go_on.wait(50)
        said = "The answer is 7." if sum(query.encode()) % 2 else "The answer is 200."
        message = {"role": "assistant", "content": said}
        body = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "model": "student",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
            }
        ).encode()
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


class _QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that were killed while they waited."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address


class _Untold:
    """Hints of this process are not needed: the workers sweep."""

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell nobody."""


def _never(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError("the tests' own process concludes nothing")


@dataclass(slots=True)
class RealFleet:
    """A running fleet, its client and its stores as this process sees them."""

    stack: EmbeddedStack
    fleet: Fleet
    system: System
    client: Client
    student: StudentServer
    bundle_uri: str
    concurrency: int
    #: What workers and client reach the broker through.
    wire: BadWire
    #: Everything that was ever asked for.
    names: set[str] = field(default_factory=set[str])
    workers: list[Program] = field(default_factory=list["Program"])
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def begin_worker(self, code: Path | None = None) -> Program:
        """Start a worker for all queues, of this checkout or of another; return at once."""
        name = f"any{next(self._numbers)}"
        plan = WorkerPlan(name=name, queues=QUEUES, concurrency=self.concurrency)
        variables = {} if code is None else with_code(code)
        worker = self.fleet.begin_worker(plan, **variables)
        self.workers.append(worker)
        return worker

    def wait_ready(self) -> None:
        """Return once every worker takes messages."""
        until("ready workers", lambda: all(w.look() for w in self.workers), seconds=120)

    def kill(self, worker: Program) -> float:
        """Kill a worker's process group; return when, by `time.monotonic`."""
        self.workers.remove(worker)
        at_s = time.monotonic()
        worker.kill()
        return at_s

    def worker_of(self, owner: str) -> Program:
        """Return the worker that a journal names as `host.pid`."""
        pid = int(owner.rpartition(".")[2])
        return next(worker for worker in self.workers if worker.pid == pid)

    def enqueue(self, session_id: str, *, taken_within_s: float = 0, **fields: Any) -> None:
        """Ask for a session, and wait for so long until a worker has opened it."""
        self.names.add(session_id)
        raw = {"session_id": session_id, "bundle": self.bundle_uri, **fields}
        self.client.enqueue(parse_request(raw), taken_within_s=taken_within_s)

    def ended(self, session_id: str) -> bool:
        """Whether a session has ended."""
        return self.system.journal.labels(session_id).get("status") == "ended"

    def opened(self, session_id: str) -> bool:
        """Whether there is such a session."""
        return bool(self.system.journal.labels(session_id))

    def bill(self) -> list[dict[str, Any]]:
        """Return the provider's bill: a line a request."""
        with urlopen(f"{self.fleet.teacher_url}/_sim/bill", timeout=10) as answer:  # noqa: S310
            lines: list[dict[str, Any]] = json.loads(answer.read())["entries"]
            return lines


@contextmanager
def real_fleet(
    directory: Path,
    *,
    workers: int,
    concurrency: int = 8,
    tasks: Sequence[str],
    teacher_options: Sequence[str] = (),
    budgets: Mapping[str, float] = _BUDGETS,
    settings: Mapping[str, str] | None = None,
) -> Generator[RealFleet]:
    """Start a fleet of `workers`; everything of it is gone after the block."""
    student = StudentServer()
    home = make_home(directory / "home", traces=_traces(tasks), samples=_samples(tasks))
    try:
        with (
            EmbeddedStack(directory / "stack", llama=False) as stack,
            BadWire(stack.valkey.port, seed=7) as wire,
        ):
            fleet = Fleet(stack)
            login = f":{stack.valkey.password}@127.0.0.1"
            fleet.set(
                BROKER_URL=f"redis://{login}:{wire.port}/1", RESULT_URL=stack.valkey.url_of(1)
            )
            fleet.add_simulated_teacher(options=teacher_options)
            fleet.add_student("default", base_url=student.base_url, model="student")
            fleet.set(BUDGETS=json.dumps(dict(budgets)), **(settings or {}))
            known = fleet.settings()
            system = bootstrap.build(known, hints=_Untold(), publish=_never)
            client = Client(known.broker, known.results, key_prefix=known.key_prefix)
            uri = upload_home(home, system.artifacts)
            real = RealFleet(stack, fleet, system, client, student, uri, concurrency, wire)
            for _ in range(workers):
                real.begin_worker()
            real.wait_ready()
            yield real
            client.close()
            system.close()
    finally:
        student.close()


def _samples(tasks: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "trace_id": f"task-{number}",
            "query": query,
            "reference_answer": "200",
            "category": f"sums-{number % 3}",
            "metadata": {"scorer": "numeric"},
        }
        for number, query in enumerate(tasks)
    ]


def _traces(tasks: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "trace_id": f"trace-{number}",
            "query": query,
            "agent": "chat",
            "model": "student",
            "engine": "e",
            "result": "The answer is 7.",
            "outcome": "failure",
            "feedback": 0.1,
            "started_at": 1.0 + number,
            "ended_at": 2.0 + number,
            "total_tokens": 5,
            "total_latency_seconds": 0.5,
            "metadata": json.dumps({"task_id": f"task-{number}"}),
            "messages": "[]",
        }
        for number, query in enumerate(tasks)
    ]
