"""The Celery application: `celery -A worker.app …`, and what runs in every worker beside tasks.

Rule: importing this module connects to nothing. Task modules are named as strings; `worker` never
imports `tasks`.
"""

from __future__ import annotations

import functools
import os
import random
import threading
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, signals
from celery.utils.nodenames import default_nodename, host_format

from worker import bootstrap
from worker.chore import Chore
from worker.clock import SystemClock
from worker.consumer import RefillTicker
from worker.core import policy
from worker.core.commands import Queue
from worker.errors import Unavailable
from worker.messages import CeleryHints, CeleryResults
from worker.readiness import Readiness
from worker.retention import DAY_MS, prune
from worker.settings import load_settings
from worker.telemetry.logs import configure_logs
from worker.telemetry.metrics import Metrics, serve
from worker.transitions import LedgerWatch, archive

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.bootstrap import System
    from worker.settings import Settings
    from worker.wire.result import DiagnoseResult

__all__ = ["app", "metrics", "run_worker", "system"]

_log = structlog.get_logger(__name__)

app = Celery("diagnosis")
app.config_from_object("worker.celeryconfig")
app.steps["consumer"].add(RefillTicker)

_system: System | None = None
_system_pid = 0
_building = threading.Lock()
#: Under which monitors know this worker; None in other processes.
_hostname: str | None = None


@functools.cache
def metrics() -> Metrics:
    """Return this process's metrics."""
    return Metrics()


def system() -> System:
    """Return this process's adapters; a forked child builds its own."""
    global _system, _system_pid  # noqa: PLW0603 - one a process, made on first use

    with _building:
        if _system is None or _system_pid != os.getpid():
            _system = bootstrap.build(
                load_settings(),
                hints=CeleryHints(app),
                publish=_publish,
                publish_again=_publish_again,
                observer=metrics(),
                spooled=metrics().spooled,
            )
            _system_pid = os.getpid()
        return _system


def _publish(result: DiagnoseResult, runtime_s: float) -> None:
    CeleryResults(app, hostname=_hostname).publish(result, runtime_s)
    metrics().session(result.outcome, runtime_s, result.cost_nusd)


def _publish_again(result: DiagnoseResult, runtime_s: float) -> None:
    """Publish what was published before Redis was lost; it was counted then."""
    CeleryResults(app, hostname=_hostname).publish(result, runtime_s)


class Sweeper(Chore):
    """The sweep in every worker: tells overdue steps, whoever died."""

    chore = "sweep"
    every_s = policy.SWEEP_MS / 1000

    def round(self) -> None:
        """Sweep."""
        metrics().swept(system().runner.sweep())


class Watcher(Chore):
    """Looks after Redis' epoch in every worker, and says whether the worker can work.

    Apart from the sweep: steps are swept while a lost Redis is rebuilt, and a rebuilding that is cut
    is begun anew by another worker.
    """

    chore = "watch"
    every_s = 0.8

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._readiness = Readiness(load_settings().ready_file, metrics().ready.set)

    def first_pause_s(self) -> float:
        """Return 0: a worker that starts says at once how it stands."""
        return 0.0

    def round(self) -> None:
        """Look, and say what was found; a look that failed is not ready either."""
        try:
            tended = system().rescue.tend()
        except Exception as exc:
            self._readiness.say(ready=False, why=repr(exc))
            raise
        self._readiness.say(ready=tended.ready, why=tended.why)

    def ended(self) -> None:
        """Say nothing any more."""
        self._readiness.withdraw()


class Pruner(Chore):
    """Lets ended sessions leave Redis, once an hour in every worker that serves the control queue.

    Apart from the sweep, which must not wait while artifacts are read back. Workers start at odd times
    and what one has pruned is gone for the next, so they need no agreement.
    """

    chore = "prune"
    every_s = 3_600.0

    def is_wanted(self, parent: Any) -> bool:  # noqa: ANN401 - Celery's worker
        """Whether the worker serves the control queue."""
        queues: Any = parent.app.amqp.queues.consume_from
        return Queue.CONTROL.value in queues

    def first_pause_s(self) -> float:
        """Return any time within the hour."""
        return self.every_s * random.random()  # noqa: S311 - jitter

    def round(self) -> None:
        """Prune; a stop is heeded after the session at hand."""
        prune_now(self.is_stopped)


class Archivist(Chore):
    """Puts the ledger's transitions away, in every worker, and says how the ledger stands.

    Apart from the sweep, which must not wait for the object store. Workers need no agreement: Redis
    says which part is next, and one conditional write of it wins.
    """

    chore = "archive"
    every_s = 5.0

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._watch = LedgerWatch()

    def round(self) -> None:
        """Look first: what is wrong with the ledger is said while the object store is away, too."""
        parts = system()
        metrics().ledger(**self._watch.look(parts.ledger, parts.ledger.accounts()))
        archive(parts.ledger, parts.artifacts, stopped=self.is_stopped)


for _chore in (Sweeper, Watcher, Pruner, Archivist):
    app.steps["worker"].add(_chore)


def prune_now(stopped: Callable[[], bool]) -> int:
    """Prune what the settings no longer keep, until all is done or `stopped`; return how many left.

    Raises:
        Unavailable: Redis or the object store did not answer; what went is gone, the rest stays.
    """
    parts = system()
    keep_ms = round(parts.settings.keep_ended_sessions_days * DAY_MS)
    left = 0
    before_ms = SystemClock().now_ms() - keep_ms
    for one in prune(parts.journal, parts.artifacts, ended_before_ms=before_ms):
        left += one.pruned
        if not one.pruned:
            _log.warning("ended session stays", session_id=one.session_id, why=one.why)
        if stopped():
            break
    _log.info("pruned", sessions=left)
    return left


def run_worker(settings: Settings, queues: list[str], slots: int, pool: str, label: str) -> int:
    """Run Celery's worker in this process; return its exit code.

    Not by `app.worker_main`: Celery's own command line loads all of its commands, and Flower with
    its web server, which is 12 MB that a worker would keep for nothing.
    """
    running = app.Worker(
        hostname=host_format(default_nodename(label)),
        pool_cls=pool,
        concurrency=slots,
        queues=queues,
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=10,
        task_events=True,
    )
    running.start()
    return running.exitcode or 0


@signals.celeryd_init.connect
def _named(sender: str | None = None, **_: Any) -> None:
    global _hostname  # noqa: PLW0603 - one a process, known once the worker has its name
    _hostname = sender


@signals.setup_logging.connect
def _logs(**_: Any) -> None:
    settings = load_settings()
    configure_logs(level=settings.log_level, form=settings.log_format)


@signals.worker_init.connect
def _provision(**_: Any) -> None:
    """Make the accounts of the settings before the first task, and show the metrics."""
    port = load_settings().metrics_port
    if port is not None:
        serve(port)
    try:
        bootstrap.provision(system())
    except Unavailable as exc:
        _log.warning("accounts not checked", error=str(exc))
