"""The gate before a call to somebody else's server: ask, wait a little or leave, say how it ended.

Rule: it is passed before any money is held. Whoever must wait for longer than a moment leaves with
`RateLimited`, which says when to come back, and holds no slot of a worker meanwhile. Where the limits
cannot be asked, calls go: a server's refusal is a nuisance, a fleet that stands still is worse.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from worker.core.rates import (
    SLOT_TTL_MS,
    Ask,
    Ending,
    ending_of_fault,
    ending_of_student_fault,
    model_group,
    new_input_tokens,
)
from worker.errors import RateLimited, StudentFault, TeacherFault, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from worker.core.rates import Limits, Standing
    from worker.core.teaching import TeacherRequest
    from worker.ports import Limiter

__all__ = ["Gate", "Keeper", "Observer", "Passed", "TeacherGate"]

#: A wait up to here is slept through: telling a step again takes about as long.
SHORT_MS = 1_000
#: Between two asks of a sleeper at the least; its turn may have been taken by who came first.
_LEAST_SLEEP_S = 0.01

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Observer(Protocol):
    """Hears what the gates do; `worker.telemetry.metrics.Metrics` does."""

    def limited(self, server: str, why: str) -> None:
        """Count a call that was sent away to wait."""
        ...

    def pushed_back(self, server: str, outcome: str) -> None:
        """Count a call that its server refused or could not carry."""
        ...


class Keeper:
    """Keeps the slots of calls that are under way, in one thread a process."""

    def __init__(self, limiter: Limiter, *, every_ms: int | None = SLOT_TTL_MS // 5) -> None:
        """Take the limits that slots are kept in.

        Args:
            limiter: The fleet's limits.
            every_ms: Time between two beats; None has no thread: its owner calls `beat`.
        """
        self._limiter = limiter
        self._every_s = None if every_ms is None else every_ms / 1000
        self._lock = threading.Lock()
        self._grants: dict[tuple[str, str], set[str]] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, account: str, group: str, grant: str) -> None:
        """Keep this call's slot from now on."""
        with self._lock:
            self._grants.setdefault((account, group), set()).add(grant)
            if self._thread is None and self._every_s is not None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._every_s,), name="slots", daemon=True
                )
                self._thread.start()

    def drop(self, account: str, group: str, grant: str) -> None:
        """Keep it no longer."""
        with self._lock:
            kept = self._grants.get((account, group), set())
            kept.discard(grant)
            if not kept:
                self._grants.pop((account, group), None)

    def close(self) -> None:
        """Stop; slots that are left end by themselves."""
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def beat(self) -> None:
        """Keep all slots of this process once."""
        with self._lock:
            under_way = [(*key, tuple(grants)) for key, grants in self._grants.items()]
        for account, group, grants in under_way:
            with suppress(Unavailable):
                self._limiter.keep(account, group, grants)

    def _run(self, every_s: float) -> None:
        while not self._closed.wait(every_s):
            self.beat()


@dataclass(slots=True)
class Passed:
    """A call that was let go; whoever makes it says how far it came."""

    ending: Ending = field(default_factory=lambda: Ending(outcome="unsent"))

    def begun(self) -> None:
        """Say that the request goes out now: what was taken for it is not given back any more."""
        self.ending = Ending(outcome="failed")


class Gate:
    """The gate of one account. Safe to share among threads."""

    def __init__(
        self,
        limiter: Limiter,
        keeper: Keeper,
        *,
        account: str,
        limits: Limits,
        server: str,
        new_token: Callable[[], str],
        chance: Callable[[], float],
        observer: Observer | None = None,
        short_ms: int = SHORT_MS,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Describe a gate.

        Args:
            limiter: The fleet's limits.
            keeper: Keeps the slots of this process.
            account: What shares these limits.
            limits: What the settings say.
            server: Its name for people and metrics, such as `teacher default`.
            new_token: Makes names that no other call has.
            chance: 0..1, for jitter.
            observer: Hears of waits and refusals.
            short_ms: Waits up to here, all together, are slept through.
            sleep: Sleeps for so many seconds.
        """
        self._limiter = limiter
        self._keeper = keeper
        self._account = account
        self._limits = limits
        self._server = server
        self._new_token = new_token
        self._chance = chance
        self._observer = observer
        self._short_ms = short_ms
        self._sleep = sleep

    @contextmanager
    def passing(
        self, group: str, name: str, *, input_tokens: int = 0, max_output_tokens: int = 0
    ) -> Generator[Passed]:
        """Let one call go, and free its slot when the block ends.

        The block sets how the call ended; where it does not, the call was never made, and all that
        was taken for it is given back.

        Args:
            group: Of the account's models.
            name: Who waits: the same for every try of a step.
            input_tokens: About how many of its prompt count.
            max_output_tokens: The most that it may say.

        Raises:
            RateLimited: It has to wait for longer than a moment.
            TeacherFault: The account is stopped: no call goes until somebody lifts it.
        """
        ask = Ask(
            grant=self._new_token(),
            name=name,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
        )
        granted = self._enter(group, ask)
        passed = Passed()
        if granted:
            self._keeper.add(self._account, group, ask.grant)
        try:
            yield passed
        finally:
            if granted:
                self._keeper.drop(self._account, group, ask.grant)
            self._leave(group, ask.grant, passed.ending)

    def _enter(self, group: str, ask: Ask) -> bool:
        """Return when the call may go; False where nobody could be asked."""
        slept_ms = 0
        while True:
            try:
                standing = self._limiter.admit(self._account, group, self._limits, ask)
            except Unavailable as exc:
                _log.warning("limits not asked, the call goes", server=self._server, error=str(exc))
                return False
            match standing.status:
                case "go":
                    return True
                case "stopped":
                    raise self._stopped(standing)
                case "wait":
                    if slept_ms + standing.wait_ms > self._short_ms:
                        raise self._limited(standing)
            slept_ms += standing.wait_ms
            self._sleep(max(standing.wait_ms / 1000, _LEAST_SLEEP_S))

    def _leave(self, group: str, grant: str, ending: Ending) -> None:
        if self._observer is not None and ending.outcome in {"limited", "overloaded"}:
            self._observer.pushed_back(self._server, ending.outcome)
        if ending.stops:
            _log.error("account stopped", server=self._server, said=ending.said)
        try:
            self._limiter.end(self._account, group, self._limits, grant, ending)
        except Unavailable as exc:
            _log.warning("a call's end was not told", server=self._server, error=str(exc))

    def _limited(self, standing: Standing) -> RateLimited:
        if self._observer is not None:
            self._observer.limited(self._server, standing.why)
        what = f"its pause ({standing.said})" if standing.why == "pause" else standing.why
        return RateLimited(
            f"waits for {self._server}: {what}",
            retry_after_ms=standing.wait_ms,
            why=standing.why,
        )

    def _stopped(self, standing: Standing) -> TeacherFault:
        return TeacherFault(
            f"No call is made to {self._server}, whose account is stopped: {standing.said} "
            "When that is put right, `diagnosis limits lift` lets calls go again.",
            billing="unbilled",
            retry="stop",
            pushback="spend",
        )

    def failed(self, fault: TeacherFault | StudentFault) -> Ending:
        """Return what a fault says about the load."""
        if isinstance(fault, TeacherFault):
            return ending_of_fault(fault, self._chance())
        return ending_of_student_fault(fault, self._chance())


class TeacherGate:
    """The gate before a teacher's calls: `PaidTeacher` passes it before it reserves money."""

    def __init__(self, gate: Gate, *, group: str | None = None) -> None:
        """Take the account's gate; `group` None takes the group of each call's model."""
        self._gate = gate
        self._group = group

    @contextmanager
    def passing(self, request: TeacherRequest, name: str) -> Generator[Passed]:
        """Let one call go; a fault that leaves the block is read for what it says about the load.

        Raises:
            RateLimited, TeacherFault: As `Gate.passing`.
        """
        with self._gate.passing(
            self._group or model_group(request.model),
            name,
            input_tokens=new_input_tokens(request),
            max_output_tokens=request.max_tokens,
        ) as passed:
            try:
                yield passed
            except TeacherFault as fault:
                passed.ending = self._gate.failed(fault)
                raise
