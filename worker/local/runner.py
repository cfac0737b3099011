"""`DiagnosisRunner`: one session, in this process, on threads.

Rule: the same core, steps and artifacts as on the fleet; only the adapters are in memory. A call of
a turn is a task of a thread pool, so the calls of a turn run side by side.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worker.artifacts.memory import MemoryArtifacts
from worker.clock import SystemClock
from worker.core import keys
from worker.core.admission import plan_closing
from worker.core.values import Limits, SessionSpec
from worker.errors import BudgetDenied, RequestInvalid
from worker.journal.memory import MemoryJournal
from worker.ledger.memory import MemoryLedger
from worker.local.collaborators import CallableStudent, TraceJudge
from worker.local.engine import EngineTeacher
from worker.local.home import snapshot
from worker.local.paying import EnginePayer, price_or_none
from worker.local.results import DiagnosisResult, FailureCluster, ToolCallRecord
from worker.payloads import Payloads
from worker.runner import Runner
from worker.steps.context import Ports, closing_hold_id
from worker.steps.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

__all__ = ["DiagnosisRunner"]

#: Calls and runs side by side; they wait for engines and students.
THREADS = 16
#: How often lost announcements are looked for; nothing is lost in one process, but back-offs end.
SWEEP_S = 0.05
#: The reference has no time limit; a day is none either.
MAX_DURATION_MS = 86_400_000
#: Names within the in-memory stores.
_SESSION = "local"
_SCOPES = ("fleet", "tenant:local", "campaign:local", f"session:{_SESSION}")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class DiagnosisRunner:
    """The reference's class: takes the same objects, returns the same result.

    Args:
        teacher_engine: Object with `generate(messages, model, max_tokens, tools)`.
        teacher_model: Frontier model id, such as `claude-opus-4-6`.
        trace_store: Object with `list_traces(limit=...)`; read once, at the start.
        benchmark_samples: Samples with `trace_id`, `query`, `reference_answer`, …
        student_runner: Callable `(query, session_id=...)`.
        judge: Object with `score_trace(trace) -> (score, reasoning)`.
        session_dir: Folder for the artifacts.
        session_id: Told to the student runner.
        config: `{"config_path": Path, "openjarvis_home": Path}`.
        max_turns: Calls of the teacher in the exploration.
        max_cost_usd: Hard cap for a model with a price; see `worker.local.paying`.
    """

    def __init__(
        self,
        *,
        teacher_engine: Any,  # noqa: ANN401 - any object with the method
        teacher_model: str,
        trace_store: Any,  # noqa: ANN401 - any object with the method
        benchmark_samples: Sequence[Any],
        student_runner: Callable[..., Any],
        judge: Any,  # noqa: ANN401 - any object with the method
        session_dir: Path | str,
        session_id: str,
        config: Mapping[str, Any],
        max_turns: int = 30,
        max_cost_usd: float = 5.0,
    ) -> None:
        self._engine = teacher_engine
        self._trace_store = trace_store
        self._samples = benchmark_samples
        self._student_runner = student_runner
        self._judge = judge
        self._session_dir = Path(session_dir)
        self._session_id = session_id
        self._config = config
        self._spec = _spec(teacher_model, max_turns, max_cost_usd)

    def run(self) -> DiagnosisResult:
        """Diagnose; return the result once all artifacts are in `session_dir`.

        Raises:
            BundleInvalid: The samples or the home cannot be used.
        """
        self._session_dir.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="diagnosis-local-") as directory,
            snapshot(
                trace_store=self._trace_store,
                samples=self._samples,
                config=self._config,
                directory=Path(directory),
            ) as bundle,
        ):
            return self._run(Workspace(bundle))

    def _run(self, workspace: Workspace) -> DiagnosisResult:
        process = _Process(self, workspace)
        process.run_to_end()
        files = process.files()
        for name, body in files.items():
            path = self._session_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return _result(files, process.result)

    def ports(self, process: _Process, workspace: Workspace) -> Ports:
        """Return the adapters of a run."""
        payer = EnginePayer(EngineTeacher(self._engine), process.ledger)
        return Ports(
            ledger=process.ledger,
            artifacts=process.artifacts,
            payloads=Payloads(process.artifacts, inline_bytes=1 << 20),
            workspaces=lambda _: workspace,
            teachers={"default": payer},
            students={"default": CallableStudent(self._student_runner, self._session_id)},
            judge=TraceJudge(self._judge),
            clock=SystemClock(),
            records=lambda session_id: process.journal.load(session_id).records,
            publish=process.publish,
        )

    @property
    def spec(self) -> SessionSpec:
        """The session that a run is."""
        return self._spec


class _Process:
    """One run: its stores, its threads, and the wait for its end."""

    def __init__(self, owner: DiagnosisRunner, workspace: Workspace) -> None:
        clock = SystemClock()
        self.journal = MemoryJournal(clock)
        self.ledger = MemoryLedger(clock)
        self.artifacts = MemoryArtifacts()
        self.result: DiagnoseResult | None = None
        self._ended = threading.Event()
        self._spec = owner.spec
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="diagnosis")
        tokens = itertools.count()
        self._runner = Runner(
            journal=self.journal,
            hints=self,
            ports=owner.ports(self, workspace),
            owner="local",
            new_token=lambda: str(next(tokens)),
            chance=lambda: 0.5,
        )

    def run_to_end(self) -> None:
        """Open the session and sweep until it has ended."""
        self._fund()
        try:
            self._runner.open(self._spec, {})
            while not self._ended.wait(SWEEP_S):
                self._runner.sweep()
        finally:
            self._pool.shutdown(wait=True)
            self._runner.close()

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Give due steps to the threads; after the end there is nothing to do."""
        for step in announcements:
            try:
                self._pool.submit(self._work, step.session_id, step.step_id)
            except RuntimeError:
                return

    def publish(self, result: DiagnoseResult, runtime_s: float) -> None:
        """Keep the session's result."""
        del runtime_s
        self.result = result

    def files(self) -> dict[str, bytes]:
        """Return the artifacts by name, as the manifest lists them."""
        spec = self._spec
        manifest = self.artifacts.get(
            keys.manifest(tenant=spec.tenant, campaign=spec.campaign, session_id=spec.session_id)
        )
        assert manifest is not None, "a session that has ended has a manifest"
        listed = json.loads(manifest)["files"]
        bodies = {name: self.artifacts.get(file["key"]) or b"" for name, file in listed.items()}
        return {**bodies, "manifest.json": manifest}

    def _fund(self) -> None:
        for scope in _SCOPES:
            self.ledger.open_account(scope, self._spec.limits.max_cost_nusd)
        if self._spec.closing_hold_nusd == 0:
            return
        try:
            self.ledger.reserve(
                closing_hold_id(_SESSION),
                self._spec.closing_hold_nusd,
                _SCOPES,
                kind="close",
                model=self._spec.teacher_model,
                step_id="close",
                price_version="local",
                deadline_ms=MAX_DURATION_MS,
            )
        except BudgetDenied as exc:
            _log.warning("no money kept for the closing call", error=str(exc))

    def _work(self, session_id: str, step_id: str) -> None:
        try:
            worked = self._runner.work(session_id, step_id)
            if worked.status in {"retry", "failed"}:
                _log.warning("step failed", step_id=step_id, detail=worked.detail)
        except Exception:
            _log.exception("step raised", step_id=step_id)
        session = self._runner.session(session_id)
        if session is not None and session.ended is not None:
            self._ended.set()


def _spec(teacher_model: str, max_turns: int, max_cost_usd: float) -> SessionSpec:
    cap_nusd = max(round(max_cost_usd * 1e9), 0)
    hold_nusd, context_bytes = 0, 48_000
    price = price_or_none(teacher_model)
    if price is not None:
        try:
            plan = plan_closing(price, cap_nusd)
            hold_nusd, context_bytes = plan.hold_nusd, plan.context_bytes
        except RequestInvalid:
            context_bytes = 6_000
    return SessionSpec(
        session_id=_SESSION,
        bundle_uri="local",
        student="default",
        teacher="default",
        judge="default",
        teacher_model=teacher_model,
        judge_model=teacher_model,
        tenant="local",
        campaign="local",
        trigger="local",
        limits=Limits(
            max_turns=max_turns,
            max_tool_calls=max(max_turns * 10, 1),
            max_cost_nusd=cap_nusd,
            max_duration_ms=MAX_DURATION_MS,
        ),
        closing_hold_nusd=hold_nusd,
        closing_context_bytes=context_bytes,
        price_version="local",
    )


def _result(files: Mapping[str, bytes], ended: DiagnoseResult | None) -> DiagnosisResult:
    assert ended is not None, "a session that has ended has a result"
    rows = [json.loads(line) for line in files["teacher_traces/diagnose.jsonl"].splitlines()]
    return DiagnosisResult(
        diagnosis_md=files["diagnosis.md"].decode(),
        clusters=[_cluster(row) for row in json.loads(files["clusters.json"])],
        cost_usd=ended.cost_nusd / 1e9,
        tool_call_records=[_record(row) for row in rows],
        outcome=ended.outcome,
        reason=ended.reason,
    )


def _cluster(row: Mapping[str, Any]) -> FailureCluster:
    return FailureCluster(
        id=row["id"],
        description=row["description"],
        sample_trace_ids=row["sample_trace_ids"],
        student_failure_rate=_rate(row, "student_failure_rate"),
        teacher_success_rate=_rate(row, "teacher_success_rate"),
        skill_gap=row["skill_gap"],
        addressed_by_edit_ids=row["addressed_by_edit_ids"],
        evidence=row["evidence"],
    )


def _rate(row: Mapping[str, Any], name: str) -> float:
    """Return the measured rate, else the claimed one, else 0: the reference's field is a number."""
    measured, claimed = row[name], row.get(f"claimed_{name}")
    return next((rate for rate in (measured, claimed) if rate is not None), 0.0)


def _record(row: Mapping[str, Any]) -> ToolCallRecord:
    args = row["args"]
    return ToolCallRecord(
        timestamp=dt.datetime.fromisoformat(row["timestamp"]),
        tool=row["tool"],
        args=args if isinstance(args, dict) else {"arguments": args},
        result=row["result"],
        latency_ms=row["latency_ms"],
        cost_usd=row["cost_usd"],
    )
