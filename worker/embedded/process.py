"""Servers as child processes: started, watched until they are ready, and stopped for certain.

Rule: nothing outlives its parent. An orderly end stops every child (SIGTERM, then SIGKILL, with
all that it started); a parent that is killed takes its children with it (see `tether`). Waiting is
always for a condition, and a server that does not come up says why with the end of its own log.
"""

from __future__ import annotations

import os
import queue
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from worker.embedded import tether
from worker.embedded.tether import die_with_parent
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Child",
    "Launch",
    "ProcessInfo",
    "Program",
    "base_environment",
    "die_with_parent",
    "free_ports",
    "http_status",
    "log_shows",
    "start_all",
    "stop_all",
]

#: Slower than any of our servers on a busy machine.
START_TIMEOUT_MS = 60_000
#: How long a readiness check waits for an answer on loopback.
_PROBE_S = 1.0
#: Between two looks at a server that is coming up. Its end is noticed at once.
_LOOK_EVERY_MS = 20
#: What of a server's log goes into an error.
_TAIL_LINES = 20
_TAIL_CHARS = 8_000
#: How servers say that somebody else has their port, and how often they may then choose again.
_PORT_TAKEN = ("in use", "is not available")
_MAX_MOVES = 3
#: Servers' ports are taken from here: below the kernel's ephemeral ports (32768 on Linux), so that
#: no outgoing connection sits on one, also not on port + 10000, which SeaweedFS uses as well.
_FIRST_PORT, _LAST_PORT = 10_240, 22_000
#: Distance of the second port that SeaweedFS opens for each of its ports.
_TWIN = 10_000
#: Beginnings of the variables that `base_environment` passes on.
_HARMLESS = (
    *("HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER"),
    *("COVERAGE_", "PYTHON", "VIRTUAL_ENV"),
)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A child as it stands now."""

    name: str
    pid: int | None
    running: bool
    #: Resident memory, shared pages included; 0 where it is not running.
    rss_bytes: int
    #: From start to ready; None where it is not ready yet.
    start_ms: int | None
    log_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a child is started."""

    #: The program and its arguments. Other users of the machine see them: no secrets.
    argv: tuple[str, ...]
    #: The whole environment; None inherits ours.
    env: Mapping[str, str] | None = None
    #: Where it runs; None inherits ours.
    cwd: Path | None = None


class Child(ABC):
    """One server process with its log file.

    `start`, `stop` and `kill` may be called in any order, from any thread, and more than once; a
    stopped child can be started again and goes on writing to the same log.
    """

    def __init__(self, name: str, *, log_path: Path, stop_ms: int = 5_000) -> None:
        """Describe a child; nothing is started yet.

        Args:
            name: For messages and the list of processes.
            log_path: Takes standard output and standard error.
            stop_ms: How long it may take to end after SIGTERM.
        """
        self.name = name
        self.log_path = log_path
        self._stop_ms = stop_ms
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._log_start = 0
        self._began_ms = 0
        self._start_ms: int | None = None
        self._moves = 0

    @abstractmethod
    def launch(self) -> Launch:
        """Prepare what it needs and say how it is started. Called at every start."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers; asked again and again. OSError counts as "not yet"."""

    def move(self) -> bool:
        """Choose other ports because one was taken; False where that is not ours to do."""
        return False

    @property
    def pid(self) -> int | None:
        """The server's process id, None where it was not started or was stopped."""
        process = self._process
        return None if process is None else process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and not self._ended_within(0)

    @property
    def info(self) -> ProcessInfo:
        """How it stands now."""
        running = self.running
        return ProcessInfo(
            name=self.name,
            pid=self.pid if running else None,
            running=running,
            rss_bytes=_rss_bytes(self.pid) if running else 0,
            start_ms=self._start_ms,
            log_path=self.log_path,
        )

    def output(self) -> str:
        """Return what it has written since it was last started."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self) -> str:
        """Return the last lines it has written since it was last started."""
        return "\n".join(self.output()[-_TAIL_CHARS:].splitlines()[-_TAIL_LINES:])

    def start(self, timeout_ms: int = START_TIMEOUT_MS) -> None:
        """Start it and return once it is ready; does nothing where it runs.

        Raises:
            Misconfigured: It ended, or was not ready in time; with the end of its log. It is
                stopped then.
        """
        start_all([self], timeout_ms)

    def begin(self) -> None:
        """Start it without waiting; does nothing where it runs.

        It gets a session of its own: a Ctrl-C in the terminal reaches only us, and we stop the
        servers in order.
        """
        with self._lock:
            if self.running:
                return
            self._reap()
            launch = self.launch()
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._began_ms, self._start_ms = _monotonic_ms(), None
            with self.log_path.open("ab") as log:
                self._process = _spawn(lambda: _popen(launch, log.fileno()))
            self._pidfd = os.pidfd_open(self._process.pid)

    def look(self) -> bool:
        """Ask once whether it is ready; where it is not, wait a moment for its end.

        Raises:
            Misconfigured: It has ended; with the end of its log.
        """
        answers = False
        # Its end comes first: whoever took its port may answer as well as it would.
        if self.running:
            with suppress(OSError):  # nobody listens yet
                answers = self._start_ms is not None or self.ready()
        if self._process is None or self._ended_within(0 if answers else _LOOK_EVERY_MS):
            self._begin_elsewhere()
        elif answers:
            self._start_ms = self._start_ms or max(_monotonic_ms() - self._began_ms, 1)
        return answers and self.running

    def failure(self, what: str) -> Misconfigured:
        """Return an error that says `what` and shows the end of its log."""
        tail = self.log_tail()
        return Misconfigured(
            f"{self.name} {what} before it was ready. Its log, {str(self.log_path)!r}, ends:\n{tail}",
            server=self.name,
            log_path=str(self.log_path),
            log_tail=tail,
        )

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once. `stop` waits."""
        with self._lock:
            if self._process is not None and self.running:
                # Not Popen.terminate: that would reap a child which ends at this very moment.
                os.kill(self._process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End it and all that it started. Returns when it is gone."""
        with self._lock:
            self.ask_to_stop()
            if self._process is not None:
                self._ended_within(self._stop_ms)
            self.kill()

    def kill(self) -> None:
        """End it and all that it started by SIGKILL. Returns when it is gone."""
        with self._lock:
            if self._process is None:
                return
            # Before it is reaped: until then its id cannot belong to anybody else.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._reap()

    def _begin_elsewhere(self) -> None:
        failure = self.failure(f"ended with {self._exit()}")
        taken = any(word in failure.facts["log_tail"].lower() for word in _PORT_TAKEN)
        if not taken or self._moves == _MAX_MOVES or not self.move():
            raise failure
        self._moves += 1
        self.begin()

    def _ended_within(self, timeout_ms: int) -> bool:
        """Whether it ended, without reaping it."""
        return _readable_within(self._pidfd, timeout_ms)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            os.close(self._pidfd)
            self._process, self._pidfd = None, -1

    def _exit(self) -> str:
        if self._process is None:
            return "no exit status (it was stopped)"
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code != os.CLD_EXITED:
            return f"signal {ended.si_status}"
        return f"exit status {ended and ended.si_status}"


class Program(Child):
    """Any program: a worker, Flower, the simulated teacher."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        *,
        ready: Callable[[Program], bool],
        log_path: Path,
        stop_ms: int = 5_000,
    ) -> None:
        """Describe a program; `ready` says whether it answers."""
        super().__init__(name, log_path=log_path, stop_ms=stop_ms)
        self._launch = launch
        self._is_ready = ready

    def launch(self) -> Launch:
        """Return what the caller gave."""
        return self._launch

    def ready(self) -> bool:
        """Ask the caller's check."""
        return self._is_ready(self)


def start_all(children: Sequence[Child], timeout_ms: int = START_TIMEOUT_MS) -> None:
    """Start all side by side and return once all are ready.

    Raises:
        Misconfigured: One of them ended, or was not ready in time; with the end of its log. All of
            them are stopped then.
    """
    give_up_ms = _monotonic_ms() + timeout_ms
    with ExitStack() as undo:
        for child in children:
            undo.callback(child.kill)
            child.begin()
        left = list(children)
        while left := [child for child in left if not child.look()]:
            if _monotonic_ms() > give_up_ms:
                raise left[0].failure(f"was given {timeout_ms} ms, which passed")
        undo.pop_all()


def stop_all(children: Sequence[Child]) -> None:
    """Stop all side by side. Returns when they are gone, whatever goes wrong with one of them."""
    with ExitStack() as stops:
        for child in children:
            stops.callback(child.stop)
            child.ask_to_stop()


def base_environment() -> dict[str, str]:
    """Return what any Python program needs of our environment, and no key of anybody's."""
    return {name: value for name, value in os.environ.items() if name.startswith(_HARMLESS)}


def log_shows(pattern: str) -> Callable[[Child], bool]:
    """Return a check: ready once a line of the log matches the regular expression."""
    wanted = re.compile(pattern, re.MULTILINE)
    return lambda child: wanted.search(child.output()) is not None


def http_status(port: int, path: str) -> int | None:
    """Return the status that a GET on loopback is answered with; None for what is no HTTP.

    Raises:
        OSError: Nobody answers.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=_PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except HTTPException:
        return None
    finally:
        connection.close()


def free_ports(count: int, *, twins: bool = False) -> tuple[int, ...]:
    """Return ports that nobody listens on right now, all different.

    Somebody else may take one before the server does: it then fails to start, and is started
    again on others.

    Args:
        count: How many.
        twins: Each port's partner, 10000 above it, is free as well.
    """
    chance = random.SystemRandom()
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = chance.randrange(_FIRST_PORT, _LAST_PORT)
            wanted = [port, port + _TWIN] if twins else [port]
            if port not in ports and all(_hold(one, held) for one in wanted):
                ports.append(port)
    return tuple(ports)


def _hold(port: int, held: ExitStack) -> bool:
    taken = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # As servers do it: connections of a stopped server that still linger are no obstacle.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _readable_within(fd: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def _popen(launch: Launch, log: int) -> subprocess.Popen[bytes]:
    tie = (sys.executable, "-I", "-S", tether.__file__, str(os.getpid()))
    return subprocess.Popen(
        (*tie, *launch.argv),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=None if launch.env is None else dict(launch.env),
        cwd=launch.cwd,
        start_new_session=True,
    )


def _rss_bytes(pid: int | None) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Spawner:
    """Starts children from one thread that lives as long as this process.

    The kernel kills a tied child when the thread that forked it ends; a stack that is started
    from a short-lived thread would lose its servers with that thread.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="spawner", daemon=True).start()

    def spawn(self, popen: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        job = _Job(popen, Future())
        self._jobs.put(job)
        return job.done.result()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job.done.set_result(job.popen())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                job.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Job:
    popen: Callable[[], subprocess.Popen[bytes]]
    done: Future[subprocess.Popen[bytes]]


#: By process id: a forked process has none of its parent's threads.
_spawners: dict[int, _Spawner] = {}
_spawners_lock = threading.Lock()


def _spawn(popen: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    with _spawners_lock:
        spawner = _spawners.get(os.getpid())
        if spawner is None:
            spawner = _spawners[os.getpid()] = _Spawner()
    return spawner.spawn(popen)
