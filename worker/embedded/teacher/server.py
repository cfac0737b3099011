"""The simulated teacher as a server: started, asked, stopped.

Rule: it listens on loopback unless told otherwise, and leaves no thread and no socket behind.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from worker.embedded.teacher.bill import Bill
from worker.embedded.teacher.brain import SimulatedBrain
from worker.embedded.teacher.clock import SystemClock
from worker.embedded.teacher.desk import Desk
from worker.embedded.teacher.http import TeacherServer
from worker.embedded.teacher.keys import AnswerKey, JudgeKey
from worker.embedded.teacher.limits import Buckets
from worker.embedded.teacher.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.embedded.teacher.desk import Clock
    from worker.embedded.teacher.explorer import Plan
    from worker.embedded.teacher.limits import BucketLimits
    from worker.embedded.teacher.reply import Brain

__all__ = ["DEFAULT_API_KEY", "SimulatedTeacher"]

#: Opens nothing but a simulator.
DEFAULT_API_KEY = "sk-ant-simulated"  # pragma: allowlist secret


class SimulatedTeacher:
    """A stand-in for the Messages API. Use it as a context manager, or `start` and `stop` it."""

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        api_key: str = DEFAULT_API_KEY,
        more_api_keys: Sequence[str] = (),
        answer_key: Path | None = None,
        judge_key: Path | None = None,
        bill_path: Path | None = None,
        plan: Plan | None = None,
        pace: Pace | None = None,
        limits: BucketLimits | None = None,
        clock: Clock | None = None,
        brain: Brain | None = None,
    ) -> None:
        """Describe a teacher and take its port; nobody is answered before `start`.

        Args:
            port: Where to listen; 0 takes a free one.
            host: Which address to listen on.
            api_key: The key that clients must send.
            more_api_keys: Keys of other workspaces, each with a prompt cache of its own.
            answer_key: JSON file of `{"query", "answer"}` for its own runs on tasks.
            judge_key: JSON file of `{"output", "score"}` that overrules the judge's rule.
            bill_path: File to which every line of the bill is appended.
            plan: How thoroughly it explores.
            pace: How slowly it speaks.
            limits: How much a minute it bears; None for any amount.
            clock: The time; None for the machine's.
            brain: What it says; None for the simulated brain with the keys above.

        Raises:
            Misconfigured: A key's file is wrong.
            OSError: The port is taken.
        """
        self._brain = brain or SimulatedBrain(
            answers=AnswerKey.read(answer_key) if answer_key else None,
            scores=JudgeKey.read(judge_key) if judge_key else None,
            plan=plan,
        )
        self.api_key = api_key
        self.desk = Desk(
            brain=self._brain,
            clock=clock or SystemClock(),
            api_keys=frozenset({api_key, *more_api_keys}),
            bill=Bill(bill_path),
            pace=pace or Pace(),
            buckets=Buckets(limits),
        )
        self._server = TeacherServer((host, port), self.desk)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """The `base_url` for the SDK."""
        return f"http://{self._server.server_address[0]!s}:{self.port}"

    @property
    def bill(self) -> Bill:
        """Its bill."""
        return self.desk.bill

    def start(self) -> None:
        """Answer from now on, in threads of its own."""
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="simulated-teacher",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop: open requests are cut, and billed for what was given. May be called twice."""
        if self._thread is not None:
            self._server.stop()
            self._thread.join()
            self._thread = None
        else:
            self._server.server_close()
        self.desk.bill.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
