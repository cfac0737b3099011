"""The limits of a fleet of processes: kept under load, and given back by those that are killed."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.fleets import airline_home
from tests.integration.limits_workers import ACCOUNT, GROUP, LIMITS, MARKS, call_on
from worker import bootstrap
from worker.cli.enqueue import upload_home
from worker.client import Client
from worker.core.rates import SLOT_TTL_MS
from worker.embedded.fleet import Fleet, WorkerPlan
from worker.embedded.stack import EmbeddedStack
from worker.limits.redis import RedisLimiter
from worker.redis_connection import connect
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

__all__ = ["airline_home"]

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

PROCESSES, KILLED = 6, 3
SECONDS = 4.0


def under_way_at_most(marks: list[str], killed: dict[int, int]) -> int:
    """Return the most calls that were under way at once; a killed one ends when its process does."""
    changes: list[tuple[int, int]] = []
    open_calls: Counter[int] = Counter()
    for mark in marks:
        at_ns, pid, sign = mark.split()
        change = 1 if sign == "+" else -1
        open_calls[int(pid)] += change
        changes.append((int(at_ns), change))
    changes += [(killed[pid], -1) for pid, left in open_calls.items() if left and pid in killed]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.timeout(90)
def test_processes_keep_to_the_limits_together_and_the_killed_ones_leave_no_slot(
    redis_url: str,
) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=call_on, args=(redis_url,), daemon=True) for _ in range(PROCESSES)
    ]
    pause = threading.Event()
    killed: dict[int, int] = {}
    with connect(redis_url) as client:
        limiter = RedisLimiter(client)
        for process in processes:
            process.start()
        while client.llen(MARKS) < 2 * PROCESSES:
            pause.wait(0.02)
        began_ns, before = time.monotonic_ns(), client.llen(MARKS)
        for process in processes[:KILLED]:
            pause.wait(SECONDS / PROCESSES)
            process.kill()
            process.join()
            assert process.pid is not None
            killed[process.pid] = time.monotonic_ns()
        pause.wait(SECONDS / 2)
        took_s = (time.monotonic_ns() - began_ns) / 1e9
        for process in processes[KILLED:]:
            process.kill()
            process.join()
            assert process.pid is not None
            killed[process.pid] = time.monotonic_ns()
        marks = cast("list[str]", client.lrange(MARKS, 0, -1))

        assert under_way_at_most(marks, killed) == LIMITS.most
        begun = sum(mark.endswith("+") for mark in marks[before:])
        assert begun <= 10 * took_s + 10
        assert begun >= 2 * took_s, "the killed ones' slots are not waited for by everybody"

        # Nobody is left: every slot goes by itself, and with the last one its key.
        until_s = time.monotonic() + SLOT_TTL_MS / 1_000 + 5
        while client.keys("*:s") and time.monotonic() < until_s:
            pause.wait(0.25)
        assert client.keys("*:s") == client.keys("*:g") == []
        (view,) = limiter.groups(ACCOUNT)
        assert (view.group, view.under_way) == (GROUP, 0)


# --------------------------------------------------------------------- a student's server that is small


class SmallServer(ThreadingHTTPServer):
    """A student's server that counts how many ask at once, and refuses more than it takes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *, takes: int, answer_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.takes = takes
        self.answer_s = answer_s
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = self.answered = self.refused = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @contextmanager
    def counted(self) -> Generator[bool]:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            takes = self.at_once <= self.takes
            self.answered += takes
            self.refused += not takes
        yield takes
        with self.lock:
            self.at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = cast("SmallServer", self.server)
        self.rfile.read(int(self.headers["content-length"]))
        with server.counted() as takes:
            if takes:
                threading.Event().wait(server.answer_s)
            choice = {"message": {"content": "no"}, "finish_reason": "stop"}
            body = json.dumps({"choices": [choice]} if takes else {"error": {"message": "full"}})
            self.send_response(200 if takes else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class _Untold:
    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell nobody: the workers sweep."""


def _never(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError("the tests' own process concludes nothing")


@contextmanager
def serving(*, takes: int, answer_s: float) -> Generator[SmallServer]:
    server = SmallServer(takes=takes, answer_s=answer_s)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("configured", [True, False], ids=["configured", "learned"])
def test_a_small_student_server_is_not_overrun_by_a_fleet(
    tmp_path: Path, airline_home: Path, *, configured: bool
) -> None:
    with (
        serving(takes=3, answer_s=0.3) as server,
        EmbeddedStack(tmp_path / "stack", llama=False) as stack,
    ):
        fleet = Fleet(stack)
        fleet.add_simulated_teacher(options=["--repeats", "4"])
        fleet.add_student("default", base_url=server.base_url, model="small")
        if configured:
            fleet.set(STUDENTS__DEFAULT__MAX_CONCURRENCY="3")
        fleet.start_workers(
            [
                WorkerPlan(
                    name=f"w{number}",
                    queues="control,tools,teacher,artifacts,student",
                    concurrency=12,
                )
                for number in range(2)
            ]
        )
        settings = fleet.settings()
        system = bootstrap.build(settings, hints=_Untold(), publish=_never)
        client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
        request: dict[str, Any] = {
            "session_id": "small",
            "bundle": upload_home(airline_home, system.artifacts),
        }
        client.enqueue(parse_request(request))

        result = client.result("small", timeout_s=120)

        records = system.journal.load("small").records
        runs = [record for record in records if record.key.startswith("run/")]
        account = settings.students["default"].account
        (view,) = system.limiter.groups(account)
        client.close()
        system.close()
    assert result is not None
    asks = sum(record.attempt for record in runs)
    told = f"{len(runs)} runs, {asks} asks, {server.refused} refused, {view}"
    assert len(runs) >= 20, told
    assert (view.under_way, view.waiting) == (0, 0)
    if configured:
        assert server.most_at_once <= 3
        assert server.refused == 0
    else:
        assert view.slots is not None, told
        assert server.refused <= len(runs), told
    assert server.answered >= len(runs) * 9 // 10, told
    # Who waits comes back when it is its turn, and seldom before.
    assert asks <= 12 * len(runs), told
