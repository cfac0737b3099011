"""The single-machine stack: which servers run, where they are, and that all of them end together.

Rule: whatever happens inside the `with`, nothing of the stack runs after it. What was added last is
stopped first; the servers that everything else stands on are stopped last.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self, TypeVar

from worker.embedded.llama import LlamaServer
from worker.embedded.process import (
    START_TIMEOUT_MS,
    Child,
    Launch,
    ProcessInfo,
    Program,
    base_environment,
    start_all,
    stop_all,
)
from worker.embedded.seaweed import SeaweedServer
from worker.embedded.valkey import ValkeyServer
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["EmbeddedStack"]


class EmbeddedStack:
    """Valkey, SeaweedFS and llama.cpp on this machine, and what is added to them.

    Example:
        ```python
        with EmbeddedStack(directory) as stack:
            stack.add_process("worker", argv, environment, ready=log_shows("ready"))
        ```
    """

    def __init__(
        self,
        directory: Path,
        *,
        valkey: bool = True,
        bucket: str | None = "diagnosis",
        llama: bool = True,
        llama_slots: int = 8,
        llama_threads: int = 1,
    ) -> None:
        """Describe a stack; nothing is started yet.

        Args:
            directory: Takes everything: data, logs, configuration. It is made where it is
                missing. A directory used again goes on with its data.
            valkey: Whether Valkey is wanted.
            bucket: The bucket that SeaweedFS shall have; None wants no SeaweedFS.
            llama: Whether the demo's student is wanted.
            llama_slots: How many runs the student answers side by side.
            llama_threads: How many cores the student takes.
        """
        self.directory = directory.absolute()
        self._valkey = ValkeyServer(self.directory / "valkey") if valkey else None
        self._seaweed = SeaweedServer(self.directory / "s3", bucket=bucket) if bucket else None
        self._llama = (
            LlamaServer(self.directory / "llama", slots=llama_slots, threads=llama_threads)
            if llama
            else None
        )
        self._programs: list[Program] = []
        self._running = ExitStack()

    @property
    def valkey(self) -> ValkeyServer:
        """The broker, journal and ledger.

        Raises:
            Misconfigured: The stack was made without it.
        """
        return _wanted(self._valkey, "valkey=True")

    @property
    def seaweed(self) -> SeaweedServer:
        """The artifact store.

        Raises:
            Misconfigured: The stack was made without it.
        """
        return _wanted(self._seaweed, "a bucket")

    @property
    def llama(self) -> LlamaServer:
        """The student's server.

        Raises:
            Misconfigured: The stack was made without it.
        """
        return _wanted(self._llama, "llama=True")

    def __enter__(self) -> Self:
        """Start the servers side by side and return once all are ready.

        Raises:
            Misconfigured: One did not come up (with the end of its log; nothing is left running),
                or the directory is used by another stack.
        """
        with ExitStack() as undo:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._hold_directory(undo)
            undo.callback(stop_all, self._servers)
            start_all(self._servers)
            self._running = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def add_process(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        ready: Callable[[Program], bool],
        stop_ms: int = 10_000,
        timeout_ms: int = START_TIMEOUT_MS,
    ) -> Program:
        """Start one more program and return once it is ready; it is stopped with the stack.

        Args:
            name: For messages and the log file; no other program of the stack has it.
            argv: The program and its arguments. Others see them: secrets belong into `env`.
            env: Its environment beside the harmless part of ours.
            ready: Asked again and again until it says yes; see `log_shows` and `http_status`.
            stop_ms: How long it may take to end after SIGTERM.
            timeout_ms: How long it may take until it is ready.

        Raises:
            Misconfigured: It ended, or was not ready in time; with the end of its log.
        """
        program = self.begin_process(name, argv, env, ready=ready, stop_ms=stop_ms)
        start_all([program], timeout_ms)
        return program

    def begin_process(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        ready: Callable[[Program], bool],
        stop_ms: int = 10_000,
    ) -> Program:
        """Start one more program and return at once; `wait_ready` waits for all of those."""
        if name in [child.name for child in (*self._servers, *self._programs)]:
            raise Misconfigured(f"The stack has a process called {name!r} already. Name it anew.")
        program = Program(
            name,
            Launch(argv=tuple(argv), env={**base_environment(), **(env or {})}),
            ready=ready,
            log_path=self.directory / "logs" / f"{name}.log",
            stop_ms=stop_ms,
        )
        self._running.callback(program.stop)
        self._programs.append(program)
        program.begin()
        return program

    def wait_ready(self, timeout_ms: int = START_TIMEOUT_MS) -> None:
        """Return once everything that was begun is ready.

        Raises:
            Misconfigured: Something ended, or was not ready in time; with the end of its log.
        """
        start_all(self._programs, timeout_ms)

    def environment(self) -> dict[str, str]:
        """Return the `DIAGNOSIS_*` settings of a worker of this stack, keys included.

        The student is called `default`.
        """
        settings = {"CACHE_DIR": str(self.directory / "cache")}
        if self._valkey is not None:
            settings["REDIS_URL"] = self._valkey.url
        if self._seaweed is not None:
            settings["S3_ENDPOINT"] = self._seaweed.endpoint_url
            settings["S3_BUCKET"] = self._seaweed.bucket
            settings["S3_ACCESS_KEY"] = self._seaweed.access_key
            settings["S3_SECRET_KEY"] = self._seaweed.secret_key
        if self._llama is not None:
            settings["STUDENTS__DEFAULT__BASE_URL"] = self._llama.base_url
            settings["STUDENTS__DEFAULT__MODEL"] = self._llama.model
            settings["STUDENTS__DEFAULT__API_KEY"] = self._llama.api_key
        return {f"DIAGNOSIS_{name}": value for name, value in settings.items()}

    def processes(self) -> tuple[ProcessInfo, ...]:
        """Return what there is, in the order in which it was started."""
        return tuple(child.info for child in (*self._servers, *self._programs))

    @property
    def _servers(self) -> list[Child]:
        wanted = (self._valkey, self._seaweed, self._llama)
        return [server for server in wanted if server is not None]

    def _hold_directory(self, undo: ExitStack) -> None:
        """Keep other stacks out: two servers that append to the same file would spoil it."""
        lock = undo.enter_context((self.directory / "stack.lock").open("a+", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Misconfigured(
                f"Process {lock.read().strip()} runs a stack in {str(self.directory)!r}. Stop it, "
                "or use another directory."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()


_Server = TypeVar("_Server", bound=Child)


def _wanted(server: _Server | None, how: str) -> _Server:
    if server is None:
        raise Misconfigured(f"This stack was made without it. Make it with {how}.")
    return server
