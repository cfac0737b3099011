"""Every metric, once: name, kind, unit, meaning, labels.

Rule: a metric exists only in this list; `docs/metrics.md` is made from it. Labels have few values:
never a session, a tenant or a host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["METRICS", "Metric", "Metrics", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric as it is listed."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


#: Seconds: from a hint that finds nothing to do (1 ms) to a long teacher turn (10 min).
_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)

STEPS = Metric(
    name="diagnosis_steps_total",
    kind="counter",
    unit="steps",
    meaning="Hints worked on, by kind of step and what came of it: done, dropped, retry, failed, "
    "unavailable (a server of ours was away).",
    labels=("kind", "status"),
)
STEP_SECONDS = Metric(
    name="diagnosis_step_seconds",
    kind="histogram",
    unit="seconds",
    meaning="How long a step took, from the claim to the commit; dropped hints are left out.",
    labels=("kind",),
)
SESSIONS = Metric(
    name="diagnosis_sessions_ended_total",
    kind="counter",
    unit="sessions",
    meaning="Sessions concluded by this process, by outcome.",
    labels=("outcome",),
)
SESSION_SECONDS = Metric(
    name="diagnosis_session_seconds",
    kind="histogram",
    unit="seconds",
    meaning="From the opening of a session to its end.",
)
SPENT = Metric(
    name="diagnosis_spent_usd_total",
    kind="counter",
    unit="US dollars",
    meaning="What the sessions concluded by this process cost. The ledger is exact; this is a float.",
)
SWEPT = Metric(
    name="diagnosis_swept_steps_total",
    kind="counter",
    unit="steps",
    meaning="Steps that the sweep of this process told again: lost hints, back-offs, dead leases.",
)
UNDER_WAY = Metric(
    name="diagnosis_steps_under_way",
    kind="gauge",
    unit="steps",
    meaning="Steps that this process works on now; with the queue's length, what scaling needs.",
)
SPOOLED = Metric(
    name="diagnosis_spooled_replies_total",
    kind="counter",
    unit="replies",
    meaning="Replies of paid calls on this machine's disk, by what befell them: written, failed (not "
    "written: a crash now would buy again), adopted (not bought again), settled (by a sweep, for a "
    "worker that could not), damaged, too_old.",
    labels=("event",),
)

UNARCHIVED = Metric(
    name="diagnosis_ledger_unarchived_transitions",
    kind="gauge",
    unit="transitions",
    meaning="Transitions of the ledger that wait for the object store. Alert above 100,000: at 500,000 "
    "no call is paid for any more. All workers see the same: take the maximum.",
)
FROZEN = Metric(
    name="diagnosis_ledger_frozen_accounts",
    kind="gauge",
    unit="accounts",
    meaning="Accounts that take no reservation: a call cost more than its bound, or somebody froze "
    "them. Alert above 0. All workers see the same: take the maximum.",
)
BREACH = Metric(
    name="diagnosis_ledger_breach_usd",
    kind="gauge",
    unit="US dollars",
    meaning="How far calls ever went above their bounds, in the account with the most of it. Alert "
    "above 0: a bound is wrong. All workers see the same: take the maximum.",
)
LIMITED = Metric(
    name="diagnosis_limited_calls_total",
    kind="counter",
    unit="calls",
    meaning="Calls of a teacher or student that were sent away to wait, by server and what for: "
    "requests, input tokens, output tokens (a rate), slots (calls at once), pause.",
    labels=("server", "why"),
)
PUSHED_BACK = Metric(
    name="diagnosis_pushed_back_calls_total",
    kind="counter",
    unit="calls",
    meaning="Calls that their server refused for their rate (limited) or could not carry "
    "(overloaded). More than a few an hour: the limits in the settings are too high.",
    labels=("server", "outcome"),
)

READY = Metric(
    name="diagnosis_ready",
    kind="gauge",
    unit="0 or 1",
    meaning="Whether this worker can work: Redis and S3 answer, and Redis is trusted. What waits, waits.",
)

METRICS = (
    STEPS,
    STEP_SECONDS,
    SESSIONS,
    SESSION_SECONDS,
    SPENT,
    SWEPT,
    UNDER_WAY,
    UNARCHIVED,
    FROZEN,
    BREACH,
    LIMITED,
    PUSHED_BACK,
    READY,
    SPOOLED,
)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        #: None takes the process's default registry, which `serve` serves.
        self.registry = registry or prometheus_client.REGISTRY
        self._steps = Counter(STEPS.name, STEPS.meaning, STEPS.labels, registry=self.registry)
        self._step_seconds = Histogram(
            STEP_SECONDS.name,
            STEP_SECONDS.meaning,
            STEP_SECONDS.labels,
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._sessions = Counter(
            SESSIONS.name, SESSIONS.meaning, SESSIONS.labels, registry=self.registry
        )
        self._session_seconds = Histogram(
            SESSION_SECONDS.name,
            SESSION_SECONDS.meaning,
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._spent = Counter(SPENT.name, SPENT.meaning, registry=self.registry)
        self._swept = Counter(SWEPT.name, SWEPT.meaning, registry=self.registry)
        self._limited = Counter(
            LIMITED.name, LIMITED.meaning, LIMITED.labels, registry=self.registry
        )
        self._pushed_back = Counter(
            PUSHED_BACK.name, PUSHED_BACK.meaning, PUSHED_BACK.labels, registry=self.registry
        )
        self._spooled = Counter(
            SPOOLED.name, SPOOLED.meaning, SPOOLED.labels, registry=self.registry
        )
        self.under_way = Gauge(UNDER_WAY.name, UNDER_WAY.meaning, registry=self.registry)
        self._unarchived = Gauge(UNARCHIVED.name, UNARCHIVED.meaning, registry=self.registry)
        self._frozen = Gauge(FROZEN.name, FROZEN.meaning, registry=self.registry)
        self._breach = Gauge(BREACH.name, BREACH.meaning, registry=self.registry)
        self.ready = Gauge(READY.name, READY.meaning, registry=self.registry)

    def step(self, kind: str, status: str, seconds: float) -> None:
        """Count a hint; time it unless there was nothing to do."""
        self._steps.labels(kind, status).inc()
        if status != "dropped":
            self._step_seconds.labels(kind).observe(seconds)

    def session(self, outcome: str, seconds: float, cost_nusd: int) -> None:
        """Count a session that this process concluded."""
        self._sessions.labels(outcome).inc()
        self._session_seconds.observe(seconds)
        self._spent.inc(cost_nusd / 1e9)

    def ledger(self, *, unarchived: int, frozen: int, breach_nusd: int) -> None:
        """Say how the ledger stands."""
        self._unarchived.set(unarchived)
        self._frozen.set(frozen)
        self._breach.set(breach_nusd / 1e9)

    def limited(self, server: str, why: str) -> None:
        """Count a call that was sent away to wait."""
        self._limited.labels(server, why).inc()

    def pushed_back(self, server: str, outcome: str) -> None:
        """Count a call that its server refused or could not carry."""
        self._pushed_back.labels(server, outcome).inc()

    def swept(self, steps: int) -> None:
        """Count steps that were told again."""
        self._swept.inc(steps)

    def spooled(self, event: str) -> None:
        """Count what befell a reply in the spool."""
        self._spooled.labels(event).inc()


def serve(port: int) -> None:
    """Serve the process's metrics on `port`, on all interfaces."""
    prometheus_client.start_http_server(port)
