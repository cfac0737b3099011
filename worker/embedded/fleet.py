"""A whole fleet on one machine: the stack, the simulated teacher, workers and Flower.

Rule: real processes with real settings, started by the commands that operators use. Used by the demo,
the integration tests, the benchmarks and the chaos tests; nothing of it survives the `with`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from worker.embedded.process import free_ports, http_status, log_shows
from worker.embedded.teacher.server import DEFAULT_API_KEY
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from worker.embedded.process import Program
    from worker.embedded.stack import EmbeddedStack

__all__ = ["Fleet", "WorkerPlan"]

#: What a worker's log says once it takes messages.
_READY = r"celery@.* ready|@.* ready\."


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """One worker process."""

    name: str
    queues: str
    concurrency: int
    pool: str = "threads"


#: Two processes: everything that waits, and the student's runs.
DEFAULT_WORKERS = (
    WorkerPlan(name="main", queues="control,tools,teacher,artifacts", concurrency=16),
    WorkerPlan(name="student", queues="student", concurrency=8),
)


class Fleet:
    """An embedded stack with workers on it."""

    def __init__(self, stack: EmbeddedStack) -> None:
        """Take a running stack; what is added here is stopped with it."""
        self._stack = stack
        self._environment: dict[str, str] = {"DIAGNOSIS_LOG_FORMAT": "json"}
        self.flower_url = ""
        self.teacher_url = ""

    @property
    def stack(self) -> EmbeddedStack:
        """The servers below."""
        return self._stack

    @property
    def environment(self) -> dict[str, str]:
        """The `DIAGNOSIS_*` variables of every process of the fleet."""
        return {**self._stack.environment(), **self._environment}

    def settings(self) -> Settings:
        """Return the fleet's settings for this process."""
        nested: dict[str, Any] = {}
        for name, value in self.environment.items():
            *parents, last = name.removeprefix("DIAGNOSIS_").lower().split("__")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = json.loads(value) if value.startswith("{") else value
        return load_settings(**nested)

    def set(self, **variables: str) -> None:
        """Set `DIAGNOSIS_<NAME>` for the processes that are started from now on."""
        self._environment.update({f"DIAGNOSIS_{name}": value for name, value in variables.items()})

    def add_simulated_teacher(
        self,
        *,
        answer_key: Path | None = None,
        judge_key: Path | None = None,
        options: Sequence[str] = (),
        name: str = "default",
    ) -> str:
        """Start the simulated teacher and let requests name it; return its address."""
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "worker.embedded.teacher", "--port", str(port), *options]
        for option, path in (("--answer-key", answer_key), ("--judge-key", judge_key)):
            argv += [option, str(path)] if path else []
        self._stack.add_process(
            f"teacher-{name}",
            argv,
            {"SIMULATED_TEACHER_API_KEY": DEFAULT_API_KEY},
            ready=_answers(port, "/health"),
        )
        self.teacher_url = url
        self.add_teacher(name, base_url=url, api_key=DEFAULT_API_KEY, simulated="true")
        return url

    def add_teacher(self, name: str, **fields: str) -> None:
        """Let requests name a teacher."""
        self._add("TEACHERS", name, fields)

    def add_student(self, name: str, **fields: str) -> None:
        """Let requests name a student."""
        self._add("STUDENTS", name, fields)

    def _add(self, kind: str, name: str, fields: Mapping[str, str]) -> None:
        self.set(**{f"{kind}__{name.upper()}__{key.upper()}": v for key, v in fields.items()})

    def begin_default_workers(self) -> None:
        """Start the two workers of a single machine and return at once."""
        for plan in DEFAULT_WORKERS:
            self.begin_worker(plan)

    def start_workers(self, plans: Sequence[WorkerPlan] = DEFAULT_WORKERS) -> list[Program]:
        """Start workers side by side; return once all of them take messages."""
        programs = [self.begin_worker(plan) for plan in plans]
        self._stack.wait_ready()
        return programs

    def begin_worker(self, plan: WorkerPlan, **variables: str) -> Program:
        """Start one worker, with these variables beside the fleet's, and return at once."""
        return self._stack.begin_process(
            f"worker-{plan.name}",
            [
                *(sys.executable, "-m", "worker.cli", "worker"),
                *("--queues", plan.queues, "--concurrency", str(plan.concurrency)),
                *("--pool", plan.pool, "--name", plan.name),
            ],
            {**self.environment, **variables},
            ready=log_shows(_READY),
        )

    def begin_flower(self) -> str:
        """Start Flower, read-only, on loopback, and return its address at once."""
        (port,) = free_ports(1)
        self.flower_url = f"http://127.0.0.1:{port}"
        self._stack.begin_process(
            "flower",
            [
                *(sys.executable, "-m", "celery", "--app", "worker.app", "flower"),
                *(f"--port={port}", "--address=127.0.0.1", "--read_only", "--max_tasks=10000"),
            ],
            self.environment,
            ready=_answers(port, "/healthcheck"),
        )
        return self.flower_url


def _answers(port: int, path: str) -> Callable[[Program], bool]:
    """Return a check: ready once a GET on loopback is answered with 200."""

    def ready(_: Program) -> bool:
        try:
            return http_status(port, path) == HTTPStatus.OK
        except OSError:
            return False

    return ready
