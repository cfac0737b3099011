"""`DiagnosisRunner`: one session, in this process, on threads.

Rule: the same core, steps and artifacts as on the fleet; only the adapters are in memory, and the
collaborators are whatever objects the caller has.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.admission import plan_closing
from worker.core.prices import price_or_none
from worker.core.values import Limits, SessionSpec
from worker.errors import RequestInvalid
from worker.ledger.keys import MAX_NUSD
from worker.local.collaborators import CallableStudent, TraceJudge
from worker.local.engine import EngineTeacher
from worker.local.home import snapshot
from worker.local.results import DiagnosisResult, read_result
from worker.local.session import LocalSession
from worker.steps.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from worker.bundle.open import Bundle

__all__ = ["DiagnosisRunner"]

#: Calls and runs side by side: they wait for engines and students.
PARALLEL = 16
#: The reference has no time limit; a day is none either.
MAX_DURATION_MS = 86_400_000
#: The reference has no limit on the calls of a turn; no reply has room for so many.
CALLS_A_TURN = 200
#: The smallest context of a closing call, for caps that carry no larger one.
_SMALLEST_CONTEXT_BYTES = 6_000


class DiagnosisRunner:
    """The reference's class: takes the same objects, returns the same result.

    Args:
        teacher_engine: Object with `generate(messages, model, max_tokens, tools)`.
        teacher_model: Frontier model id, such as `claude-opus-4-6`.
        trace_store: Object with `list_traces(limit=...)`; read once, at the start.
        benchmark_samples: Samples with `trace_id`, `query`, `reference_answer`, …
        student_runner: Callable `(query, session_id=...)`.
        judge: Object with `score_trace(trace) -> (score, reasoning)`; None: tasks without a scorer
            of their own are not scored.
        session_dir: Folder for the artifacts.
        session_id: Told to the student runner.
        config: `{"config_path": Path, "openjarvis_home": Path}`.
        max_turns: Calls of the teacher in the exploration; one that writes the diagnosis comes on
            top where they are used up.
        max_cost_usd: A hard cap for a model with a price; see `worker.local.paying`.
        parallel: How many calls of a turn, and student runs, are made side by side. 1: one after
            another in the caller's thread, for collaborators that are not safe to share.
    """

    def __init__(
        self,
        *,
        teacher_engine: Any,  # noqa: ANN401 - any object with the method
        teacher_model: str,
        trace_store: Any,  # noqa: ANN401 - any object with the method
        benchmark_samples: Iterable[Any],
        student_runner: Callable[..., Any],
        judge: Any,  # noqa: ANN401 - any object with the method
        session_dir: Path | str,
        session_id: str,
        config: Mapping[str, Any],
        max_turns: int = 30,
        max_cost_usd: float = 5.0,
        parallel: int = PARALLEL,
    ) -> None:
        self._engine = teacher_engine
        self._trace_store = trace_store
        self._samples = benchmark_samples
        self._student_runner = student_runner
        self._judge = judge
        self._session_dir = Path(session_dir)
        self._session_id = session_id
        self._config = config
        self._spec = _spec(str(teacher_model), max_turns, _cap_nusd(max_cost_usd))
        self._parallel = parallel

    def run(self) -> DiagnosisResult:
        """Diagnose; return the result once all artifacts are in `session_dir`.

        Raises:
            BundleInvalid: The traces or samples are too large for any bundle, or the file of an
                OpenJarvis store is damaged.
            BaseException: What interrupted the run (Ctrl-C, an exit in a collaborator). The
                artifacts hold what was known by then.
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
            return self._run(bundle)

    def _run(self, bundle: Bundle) -> DiagnosisResult:
        session = self._session(bundle)
        try:
            session.run()
        finally:
            files = session.files()
            _write(files, self._session_dir)
        assert session.result is not None, "a session that has ended has a result"
        return read_result(files, session.result, (*bundle.report.remarks, *session.remarks))

    def _session(self, bundle: Bundle) -> LocalSession:
        redact = bundle.redactor.text
        return LocalSession(
            self._spec,
            workspace=Workspace(bundle),
            teacher=EngineTeacher(self._engine, redact),
            student=CallableStudent(self._student_runner, self._session_id, redact),
            judge=TraceJudge(self._judge, redact),
            parallel=self._parallel,
        )


def _cap_nusd(max_cost_usd: float) -> int:
    """Return the cap; one that is infinite is as large as amounts get.

    Raises:
        RequestInvalid: It is not a number.
    """
    if math.isnan(max_cost_usd):
        raise RequestInvalid("max_cost_usd is not a number: give an amount, or float('inf')")
    return round(min(max(max_cost_usd * 1e9, 0), MAX_NUSD))


def _spec(teacher_model: str, max_turns: int, cap_nusd: int) -> SessionSpec:
    hold_nusd, context_bytes = _closing(teacher_model, cap_nusd)
    return SessionSpec(
        session_id="local",
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
            max_turns=max(max_turns, 1),
            max_tool_calls=max(max_turns, 1) * CALLS_A_TURN,
            max_cost_nusd=cap_nusd,
            max_duration_ms=MAX_DURATION_MS,
        ),
        closing_hold_nusd=hold_nusd,
        closing_context_bytes=context_bytes,
        price_version="local",
    )


def _closing(teacher_model: str, cap_nusd: int) -> tuple[int, int]:
    """Return what is held for the closing call and the bytes of its context.

    A model without a price has no bound to hold: its payer keeps back what its dearest call cost.
    """
    price = price_or_none(teacher_model)
    if price is None:
        return 0, 48_000
    try:
        plan = plan_closing(price, cap_nusd)
    except RequestInvalid:
        return 0, _SMALLEST_CONTEXT_BYTES
    return plan.hold_nusd, plan.context_bytes


def _write(files: Mapping[str, bytes], directory: Path) -> None:
    """Write the artifacts, each whole or not at all, the manifest last."""
    for name, body in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(body)
        partial.replace(path)
