"""One run of the in-process runner: its stores, its threads, and its way to the end.

Rule: what a session does one after another (turns, the conclusion) is done by the caller's thread,
the calls and runs of a turn by threads beside it. So Ctrl-C ends a turn at once, as in the reference.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from worker.artifacts.memory import MemoryArtifacts
from worker.clock import SystemClock
from worker.core import keys
from worker.core.commands import Conclude
from worker.errors import Cancelled, NotYet
from worker.journal.memory import MemoryJournal
from worker.ledger.memory import MemoryLedger
from worker.local.crew import Crew
from worker.local.paying import EnginePayer
from worker.payloads import Payloads
from worker.runner import Runner
from worker.steps import perform
from worker.steps.context import Ports, closing_hold_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.core.values import SessionSpec
    from worker.local.collaborators import CallableStudent, TraceJudge
    from worker.local.engine import EngineTeacher
    from worker.ports import Announcement
    from worker.steps.context import Step
    from worker.steps.workspace import Workspace
    from worker.wire.result import DiagnoseResult

__all__ = ["LocalSession"]

#: How often ended back-offs are looked for while nothing else is to do.
SWEEP_S = 0.05
#: How long an interrupted run takes to write what it knows, and a run to wait for its threads.
GRACE_S = 10.0
#: How often the conclusion may fail before the run does: nothing in it waits for a server.
CONCLUSIONS_MAX = 3
#: Payloads below this stand in the journal, which lies in the same memory as the artifacts.
_INLINE_BYTES = 1 << 20

_UNKNOWN_COST = "the engine does not say what its calls cost"

_log = logging.getLogger(__name__)


class LocalSession:
    """Runs a session to its end, in this process."""

    def __init__(
        self,
        spec: SessionSpec,
        *,
        workspace: Workspace,
        teacher: EngineTeacher,
        student: CallableStudent,
        judge: TraceJudge,
        parallel: int,
    ) -> None:
        clock = SystemClock()
        self._spec = spec
        self._journal = MemoryJournal(clock)
        self._ledger = MemoryLedger(clock)
        self._artifacts = MemoryArtifacts()
        self._payer = EnginePayer(teacher, self._ledger)
        #: Known once the session has ended.
        self.result: DiagnoseResult | None = None
        self._ended = threading.Event()
        #: The conclusion fails again and again: there will be no artifacts.
        self._gave_up = threading.Event()
        self._interrupt: BaseException | None = None
        #: Steps for the caller's thread.
        self._own: queue.SimpleQueue[Announcement] = queue.SimpleQueue()
        self._crew = Crew(self._work, parallel) if parallel > 1 else None
        tokens = itertools.count()
        self._runner = Runner(
            journal=self._journal,
            hints=self,
            ports=self._ports(clock, workspace, teacher=self._payer, student=student, judge=judge),
            owner="local",
            new_token=lambda: str(next(tokens)),
            chance=lambda: 0.5,
            perform=self._perform,
        )

    def run(self) -> None:
        """Work on the session until it has ended.

        Raises:
            BaseException: What interrupted it (Ctrl-C, an exit in somebody's code); the session
                was cancelled, and has ended if that did not take longer than the grace period.
        """
        try:
            self._fund()
            self._runner.open(self._spec, {})
            self._serve()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            self._interrupt = exc
        until_s = time.monotonic() + GRACE_S
        try:
            if self._interrupt is not None:
                with suppress(Exception):
                    self._wind_up(self._interrupt, until_s)
                raise self._interrupt
        finally:
            self._close(until_s)

    def files(self) -> dict[str, bytes]:
        """Return the artifacts by name, the manifest last; none of a session that has not ended."""
        spec = self._spec
        place = keys.manifest(
            tenant=spec.tenant, campaign=spec.campaign, session_id=spec.session_id
        )
        manifest = self._artifacts.get(place)
        if manifest is None:
            return {}
        listed: Mapping[str, Mapping[str, str]] = json.loads(manifest)["files"]
        bodies = {name: self._artifacts.get(file["key"]) or b"" for name, file in listed.items()}
        return {**bodies, "manifest.json": manifest}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the run could not know."""
        if not self._payer.unknown_costs:
            return ()
        model = self._spec.teacher_model
        return (f"{_UNKNOWN_COST}, and the model {model!r} has no price: the cap was not kept",)

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Give due steps to whoever does them."""
        for step in announcements:
            if self._crew is None or step.step_id.partition("/")[0] not in _SIDE_BY_SIDE:
                self._own.put(step)
            else:
                self._crew.put(step)

    # ------------------------------------------------------------------------------ to the end

    def _serve(self, until_s: float = float("inf")) -> None:
        """Do the steps of this thread until the session has ended, is interrupted, or time is up."""
        interrupt = self._interrupt
        over = (self._ended, self._gave_up)
        while not any(event.is_set() for event in over) and time.monotonic() < until_s:
            if self._interrupt is not interrupt:
                return
            try:
                step = self._own.get(timeout=SWEEP_S)
            except queue.Empty:
                self._runner.sweep()
            else:
                self._work(step)

    def _wind_up(self, interrupt: BaseException, until_s: float) -> None:
        """Cancel the session and have it conclude, so that what is known and was paid is written."""
        reason = f"interrupted by {type(interrupt).__name__}"
        if self._runner.cancel(self._spec.session_id, reason):
            self._serve(until_s)

    def _close(self, until_s: float) -> None:
        self._runner.close()
        left = self._crew.close(until_s - time.monotonic()) if self._crew else 0
        if left:
            _log.warning("%s calls of a session that has ended are still under way", left)

    # ---------------------------------------------------------------------------------- steps

    def _work(self, step: Announcement) -> None:
        """Work on a step; a bug in doing so ends the run, since nobody else will try again."""
        try:
            worked = self._runner.work(step.session_id, step.step_id)
            if worked.status in {"retry", "failed"}:
                _log.warning("step %s: %s: %s", step.step_id, worked.status, worked.detail)
            session = self._runner.session(step.session_id)
        except Exception as exc:  # noqa: BLE001 - raised by `run`
            self._interrupt = self._interrupt or exc
            return
        if session is not None and session.ended is not None:
            self._ended.set()

    def _perform(self, command: Command, step: Step) -> Event:
        """Carry a command out; what would end the process gives the step back first."""
        try:
            return perform(command, step)
        except NotYet:
            raise
        except Exception as exc:
            if isinstance(command, Conclude) and step.attempt >= CONCLUSIONS_MAX:
                self._interrupt = self._interrupt or exc
                self._gave_up.set()
            raise
        except BaseException as exc:
            self._interrupt = self._interrupt or exc
            raise Cancelled(f"interrupted by {type(exc).__name__}") from exc

    # --------------------------------------------------------------------------------- outside

    def _ports(
        self,
        clock: SystemClock,
        workspace: Workspace,
        *,
        teacher: EnginePayer,
        student: CallableStudent,
        judge: TraceJudge,
    ) -> Ports:
        return Ports(
            ledger=self._ledger,
            artifacts=self._artifacts,
            payloads=Payloads(self._artifacts, inline_bytes=_INLINE_BYTES),
            workspaces=lambda _: workspace,
            teachers={self._spec.teacher: teacher},
            students={self._spec.student: student},
            judge=judge,
            clock=clock,
            records=lambda session_id: self._journal.load(session_id).records,
            publish=self._publish,
        )

    def _publish(self, result: DiagnoseResult, runtime_s: float) -> None:
        del runtime_s
        self.result = result

    def _fund(self) -> None:
        """Open the accounts and hold the closing call's money."""
        spec = self._spec
        for scope in spec.scopes:
            self._ledger.open_account(scope, spec.limits.max_cost_nusd)
        if spec.closing_hold_nusd:
            self._ledger.reserve(
                closing_hold_id(spec.session_id),
                spec.closing_hold_nusd,
                spec.scopes,
                kind="close",
                model=spec.teacher_model,
                step_id="close",
                price_version=spec.price_version,
                deadline_ms=spec.limits.max_duration_ms,
            )


#: First words of the ids of steps that many threads may do at a time.
_SIDE_BY_SIDE = frozenset({"call", "run", "judge"})
