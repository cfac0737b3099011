"""Where a request becomes a session, or is refused with the reason.

Rule: everything that can be known to be wrong is said here, before a cent is spent: unknown names,
models without a price, accounts without room. A request that is refused leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from worker.core import keys
from worker.core.admission import Expectation, expected_cost, plan_closing
from worker.core.events import SessionOpened, SessionPaused
from worker.core.machine import fold
from worker.core.prices import PRICE_VERSION, nusd, price_of, usd
from worker.core.values import Cause, Limits, SessionSpec
from worker.errors import BadInput, BudgetDenied, RequestInvalid, UnknownModel
from worker.steps.funding import fund

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.core.admission import ClosingPlan
    from worker.core.events import Event
    from worker.core.machine import Session
    from worker.core.prices import Price
    from worker.ports import Ledger
    from worker.runner import Runner
    from worker.settings import Settings
    from worker.wire.request import DiagnoseRequest

__all__ = ["Door", "Forks", "admit"]


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
    if judge.teacher not in settings.teachers:
        raise _lost_judge(request.judge, judge.teacher)
    _our_bucket(request.bundle, settings.s3_bucket)
    teacher = settings.teachers[request.teacher]
    judge_model = judge.model or settings.teachers[judge.teacher].model
    _price("judge", request.judge, judge_model)
    price = _price("teacher", request.teacher, teacher.model)
    if teacher.extraction_model is not None:
        _price("teacher", request.teacher, teacher.extraction_model)
    closing = plan_closing(price, request.max_cost_nusd)
    limits = _limits(request)
    expected = _expected(request, settings, price, limits, closing)
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
        limits=limits,
        closing_hold_nusd=closing.hold_nusd,
        closing_context_bytes=closing.context_bytes,
        max_output_tokens=teacher.max_output_tokens,
        price_version=PRICE_VERSION,
        extraction_model=teacher.extraction_model or "",
        judge_name=request.judge,
        when_money_lacks=_when_money_lacks(request, settings),
        batches=settings.batches if request.batches is None else request.batches,
        expected_cost_nusd=expected.cost_nusd,
        expected_cost_source=expected.source,
    )


class Forks(Protocol):
    """Says what a session begins with that comes from another one."""

    def begin(
        self, spec: SessionSpec, session_id: str, *, at_turn: int | None, without: Sequence[str]
    ) -> tuple[Event, ...]:
        """Return its first events; see `worker.forking.Forks`."""
        ...


class Door:
    """Opens sessions: accounts first, then the journal, so that a session always has its money."""

    def __init__(
        self,
        runner: Runner,
        ledger: Ledger,
        settings: Settings,
        *,
        reopen: Callable[[str], bool] | None = None,
        trusted: Callable[[], None] = lambda: None,
        forks: Forks | None = None,
    ) -> None:
        """Take what sessions are opened in.

        Args:
            runner: Opens and drives them.
            ledger: Has their accounts.
            settings: Of this process.
            reopen: Puts a session back that Redis lost, if it is stored (`Recovery.reopen`): one
                that is asked for again must not be paid for again.
            trusted: Raises `Unavailable` while Redis may have lost something (`Epoch.check`): what is
                not there now may be there soon.
            forks: Says what sessions begin with that come from another one.
        """
        self._trusted = trusted
        self._runner = runner
        self._ledger = ledger
        self._settings = settings
        self._reopen = reopen
        self._forks = forks

    def open(self, request: DiagnoseRequest) -> bool:
        """Start the request's session; False where it exists already.

        Raises:
            RequestInvalid: As `admit` says, or a scope has no room for even the closing call.
            UnknownModel: As `admit` says.
            Unavailable: Journal or ledger did not answer, or are not trusted; it can be said again.
        """
        self._trusted()
        if self.knows(request.session_id):
            self._runner.drive(request.session_id)
            return False
        if self._reopen is not None and self._reopen(request.session_id):
            return False
        events = self._past(request, admit(request, self._settings))
        pause = self._fund(fold(events), _when_funds_lack(request, self._settings))
        return self._runner.begin(events if pause is None else (*events, pause), _labels(request))

    def _past(self, request: DiagnoseRequest, spec: SessionSpec) -> tuple[Event, ...]:
        """Return the events that the session begins with.

        Raises:
            RequestInvalid: It comes from a session that is not there, or cannot have gone so.
        """
        if request.fork is None:
            return (SessionOpened(spec=spec),)
        if self._forks is None:
            raise RequestInvalid("fork: sessions are not forked here", field="fork")
        fork = request.fork
        return self._forks.begin(spec, fork.session_id, at_turn=fork.at_turn, without=fork.without)

    def knows(self, session_id: str) -> bool:
        """Whether there is such a session, running, ended or pruned.

        Raises:
            Unavailable: The journal did not answer.
        """
        try:
            keys.valid_name("session_id", session_id)
        except BadInput:
            return False
        return self._runner.knows(session_id)

    def _fund(self, session: Session, when: str) -> SessionPaused | None:
        """Give the session its money; return the pause that it begins with where it must wait.

        Raises:
            RequestInvalid: It is refused.
        """
        spec = session.spec
        caps = self._own_caps(spec)
        known = bool(self._ledger.entries(spec.session_id))
        if not known:
            self._check_room(spec, caps, waits=when == "wait")
        for scope, cap_nusd in caps.items():
            opened = self._ledger.open_account(scope, cap_nusd)
            if not opened and scope == spec.scopes[-1]:
                # Left by a request that was refused, or died, just here: its cap may be another.
                self._ledger.set_cap(scope, cap_nusd)
        if when == "wait" and not known and not self._runner.waking.goes_first(spec):
            return _waits(session, "others came before it, and wait too")
        try:
            fund(self._ledger, spec)
        except BudgetDenied as exc:
            if when == "wait" and exc.why in _MENDABLE:
                return _waits(session, str(exc), exc.scope)
            raise _no_room(exc.why, exc.scope, exc.free_nusd, spec) from exc
        return None

    def _own_caps(self, spec: SessionSpec) -> dict[str, int]:
        """Return the accounts that a session may make: its own and, where allowed, its campaign's."""
        cap_usd = self._settings.new_campaign_cap_usd
        campaign = {} if cap_usd is None else {f"campaign:{spec.campaign}": nusd(cap_usd)}
        return {**campaign, spec.scopes[-1]: spec.limits.max_cost_nusd}

    def _check_room(self, spec: SessionSpec, caps: dict[str, int], *, waits: bool) -> None:
        """Look before anything is made: a refused request would leave an account otherwise.

        Raises:
            RequestInvalid: A scope has no account; or no room, for who does not wait for it.
        """
        for scope in spec.scopes[:-1]:
            account = self._ledger.account(scope)
            free_nusd = account.free_nusd if account else caps.get(scope)
            if free_nusd is None:
                raise _no_room("no_account", scope, 0, spec)
            if waits:
                continue
            if account is not None and account.frozen:
                raise _no_room("frozen", scope, free_nusd, spec)
            if free_nusd < max(spec.closing_hold_nusd, spec.expected_cost_nusd):
                raise _no_room("cap", scope, free_nusd, spec)


#: What more money, or somebody's word, can mend.
_MENDABLE = frozenset({"cap", "frozen", "killed"})

#: Why a scope says no -> what is wrong and what to do, after "campaign: the account 'campaign:c' ".
_NO_ROOM = {
    "no_account": "does not exist: make it with `diagnosis budget set {scope} USD`",
    "cap": ("has {free} left, and {needs}: raise it with `diagnosis budget set {scope} USD`"),
    "frozen": "is frozen, since a call cost more than its bound: see the runbook",
    "killed": "is stopped with all others by the kill switch: enqueue again when it is off",
}


def _no_room(why: str, scope: str, free_nusd: int, spec: SessionSpec) -> RequestInvalid:
    words = _NO_ROOM.get(why, f"says no ({why})")
    needs = f"the closing call alone needs {usd(spec.closing_hold_nusd)}"
    if spec.expected_cost_nusd:
        expected = usd(spec.expected_cost_nusd)
        needs = f"the session is expected to cost {expected} ({spec.expected_cost_source})"
    said = words.format(scope=scope, free=usd(free_nusd), needs=needs)
    field = scope.partition(":")[0]
    return RequestInvalid(
        f"{field}: the account {scope!r} {said}", field=field, scope=scope, why=why
    )


def _waits(session: Session, detail: str, scope: str = "") -> SessionPaused:
    return SessionPaused(
        number=session.pauses + 1,
        cause=Cause.FUNDS,
        detail=detail,
        needed_nusd=session.spec.expected_cost_nusd,
        scope=scope,
    )


def _when_money_lacks(request: DiagnoseRequest, settings: Settings) -> Literal["conclude", "pause"]:
    said = request.when_money_lacks or settings.when_money_lacks
    return "pause" if said == "pause" else "conclude"


def _when_funds_lack(request: DiagnoseRequest, settings: Settings) -> str:
    return request.when_funds_lack or settings.when_funds_lack


def _expected(
    request: DiagnoseRequest,
    settings: Settings,
    price: Price,
    limits: Limits,
    closing: ClosingPlan,
) -> Expectation:
    """Return what must be there before the session starts; nothing where it starts anyway."""
    if _when_funds_lack(request, settings) == "start":
        return Expectation(cost_nusd=0, source="")
    measured_usd = settings.expected_session_usd
    measured_nusd = None if measured_usd is None else nusd(measured_usd)
    return expected_cost(price, limits, closing.hold_nusd, measured_nusd)


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
        max_parallel_calls=limits.max_parallel_calls,
        max_parallel_runs=limits.max_parallel_runs,
        max_pause_ms=limits.max_pause_s * 1_000,
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


def _lost_judge(name: str, teacher: str) -> RequestInvalid:
    return RequestInvalid(
        f"judge: {name!r} is a model of the teacher {teacher!r}, which is not in this worker's "
        f"settings: correct DIAGNOSIS_JUDGES or add it to DIAGNOSIS_TEACHERS",
        field="judge",
        value=name,
    )


def _price(kind: str, name: str, model: str) -> Price:
    try:
        return price_of(model)
    except UnknownModel as exc:
        raise UnknownModel(f"{kind}: {name!r}: {exc.message}", field=kind, **exc.facts) from exc


def _our_bucket(uri: str, bucket: str) -> None:
    keys.bundle_sha256(uri)
    if not uri.startswith(f"s3://{bucket}/"):
        raise RequestInvalid(
            f"bundle: {uri!r} is not in this fleet's bucket {bucket!r}: "
            "pack and upload it with `diagnosis enqueue --home`",
            field="bundle",
        )
