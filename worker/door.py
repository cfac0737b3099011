"""Where a request becomes a session, or is refused with the reason.

Rule: everything that can be known to be wrong is said here, before a cent is spent: unknown names,
models without a price, accounts without room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core import keys
from worker.core.admission import plan_closing
from worker.core.prices import PRICE_VERSION, price_of, usd
from worker.core.values import Limits, SessionSpec
from worker.errors import BudgetDenied, RequestInvalid
from worker.steps.context import closing_hold_id

if TYPE_CHECKING:
    from worker.ports import Ledger
    from worker.runner import Runner
    from worker.settings import Settings
    from worker.wire.request import DiagnoseRequest

__all__ = ["Door", "admit"]

#: The closing hold outlives the session's time limit by this much, for queues and retries.
HOLD_GRACE_MS = 1_800_000


def admit(request: DiagnoseRequest, settings: Settings) -> SessionSpec:
    """Return the session that a request asks for.

    Raises:
        RequestInvalid: It names a student, teacher, judge or bucket that is not in the settings.
        UnknownModel: The teacher's or the judge's model has no price.
    """
    _named("student", request.student, sorted(settings.students))
    _named("teacher", request.teacher, sorted(settings.teachers))
    judge = settings.judge(request.judge)
    if judge is None:
        raise _unknown("judge", request.judge, sorted(settings.judges))
    _named("judge", judge.teacher, sorted(settings.teachers))
    _our_bucket(request.bundle, settings.s3_bucket)
    teacher = settings.teachers[request.teacher]
    judge_model = judge.model or settings.teachers[judge.teacher].model
    price_of(judge_model)
    closing = plan_closing(price_of(teacher.model), request.max_cost_nusd)
    return SessionSpec(
        session_id=request.session_id,
        bundle_uri=request.bundle,
        student=request.student,
        teacher=request.teacher,
        judge=judge.teacher,
        teacher_model=teacher.model,
        judge_model=judge_model,
        tenant=request.tenant,
        campaign=request.campaign,
        trigger=request.trigger,
        flagged_trace_ids=request.flagged_trace_ids,
        reveal_references=request.reveal_references,
        limits=_limits(request),
        closing_hold_nusd=closing.hold_nusd,
        closing_context_bytes=closing.context_bytes,
        max_output_tokens=teacher.max_output_tokens,
        price_version=PRICE_VERSION,
    )


class Door:
    """Opens sessions: accounts first, then the journal, so that a session always has its money."""

    def __init__(self, runner: Runner, ledger: Ledger, settings: Settings) -> None:
        self._runner = runner
        self._ledger = ledger
        self._settings = settings

    def open(self, request: DiagnoseRequest) -> bool:
        """Start the request's session; False where it exists already.

        Raises:
            RequestInvalid, UnknownModel: As `admit` says.
            BudgetDenied: A scope has no room for even the closing call.
            Unavailable: Journal or ledger did not answer; it can be said again.
        """
        spec = admit(request, self._settings)
        if self._runner.session(spec.session_id) is not None:
            self._runner.drive(spec.session_id)
            return False
        self._fund(spec)
        return self._runner.open(spec, _labels(request))

    def _fund(self, spec: SessionSpec) -> None:
        cap_usd = self._settings.new_campaign_cap_usd
        if cap_usd is not None:
            self._ledger.open_account(f"campaign:{spec.campaign}", round(cap_usd * 1e9))
        self._ledger.open_account(f"session:{spec.session_id}", spec.limits.max_cost_nusd)
        try:
            self._ledger.reserve(
                closing_hold_id(spec.session_id),
                spec.closing_hold_nusd,
                spec.scopes,
                kind="close",
                model=spec.teacher_model,
                step_id="close",
                price_version=spec.price_version,
                deadline_ms=spec.limits.max_duration_ms + HOLD_GRACE_MS,
            )
        except BudgetDenied as exc:
            if exc.why == "closed":
                return
            raise _no_room(exc, spec) from exc


def _no_room(exc: BudgetDenied, spec: SessionSpec) -> RequestInvalid:
    if exc.why == "no_account":
        message = (
            f"there is no budget for {exc.scope!r}: make one with "
            f"`diagnosis budget set {exc.scope} USD`"
        )
    else:
        message = (
            f"{exc.scope!r} has {usd(exc.free_nusd)} left ({exc.why}), and the closing call alone "
            f"needs {usd(spec.closing_hold_nusd)}: raise it with `diagnosis budget set`"
        )
    return RequestInvalid(message, scope=exc.scope, why=exc.why)


def _labels(request: DiagnoseRequest) -> dict[str, str]:
    """Return what `status` shows of a session without reading its journal."""
    labels = {
        "tenant": request.tenant,
        "campaign": request.campaign,
        "trigger": request.trigger,
        "cap_nusd": str(request.max_cost_nusd),
    }
    return {**labels, "date": request.date.isoformat()} if request.date else labels


def _limits(request: DiagnoseRequest) -> Limits:
    limits = request.limits
    return Limits(
        max_turns=limits.max_turns,
        max_tool_calls=limits.max_tool_calls,
        max_student_runs=limits.max_student_runs,
        max_cost_nusd=request.max_cost_nusd,
        max_duration_ms=limits.max_duration_s * 1_000,
    )


def _named(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise _unknown(kind, name, known)


def _unknown(kind: str, name: str, known: list[str]) -> RequestInvalid:
    return RequestInvalid(
        f"{kind}: {name!r} is not in this worker's settings (it knows {known}): "
        f"correct the request, or add it to DIAGNOSIS_{kind.upper()}S",
        field=kind,
        value=name,
    )


def _our_bucket(uri: str, bucket: str) -> None:
    keys.bundle_sha256(uri)
    if not uri.startswith(f"s3://{bucket}/"):
        raise RequestInvalid(
            f"bundle: {uri!r} is not in this fleet's bucket {bucket!r}: "
            "pack and upload it with `diagnosis enqueue --home`",
            field="bundle",
        )
