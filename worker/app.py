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
from celery import Celery, bootsteps, signals
from celery.utils.nodenames import default_nodename, host_format

from worker import bootstrap
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


class Sweeper(bootsteps.StartStopStep):
    """The sweep in every worker: tells overdue steps, whoever died."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Sweep from now on."""
        del parent
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Stop sweeping."""
        del parent
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    terminate = stop

    def _run(self) -> None:
        while not self._stopped.wait(_sweep_pause_s()):
            try:
                metrics().swept(system().runner.sweep())
            except Unavailable as exc:
                _log.warning("sweep waits", error=str(exc))
            except Exception:  # noqa: BLE001 - the sweep goes on, whatever one round met
                _log.exception("sweep failed")


def _sweep_pause_s() -> float:
    """Return the time to the next sweep; half of it is chance, so that a fleet spreads out."""
    return policy.SWEEP_MS / 1000 * (0.5 + random.random())  # noqa: S311 - jitter


app.steps["worker"].add(Sweeper)


class Watcher(bootsteps.StartStopStep):
    """Looks after Redis' epoch in every worker, and says whether the worker can work.

    It has a thread of its own: steps are swept while a lost Redis is rebuilt.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Watch from now on."""
        del parent
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Stop watching; a rebuilding that is cut is begun anew by another worker."""
        del parent
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    terminate = stop

    def _run(self) -> None:
        readiness = Readiness(load_settings().ready_file, metrics().ready.set)
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            pause_s = _WATCH_S * (0.5 + random.random())  # noqa: S311 - jitter
            try:
                tended = system().rescue.tend()
                readiness.say(ready=tended.ready, why=tended.why)
            except Exception as exc:  # noqa: BLE001 - it goes on, whatever one round met
                _log.exception("watch failed")
                readiness.say(ready=False, why=repr(exc))
        readiness.withdraw()


#: Between two looks at Redis; half of it is chance.
_WATCH_S = 0.8

app.steps["worker"].add(Watcher)


class Pruner(bootsteps.StartStopStep):
    """Lets ended sessions leave Redis, once an hour in every worker that serves the control queue.

    It has a thread of its own: a sweep must not wait while artifacts are read back. Workers start at
    odd times and what one has pruned is gone for the next, so they need no agreement.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pruner", daemon=True)

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Prune from now on, the first time within an hour."""
        queues: Any = parent.app.amqp.queues.consume_from
        if _CONTROL in queues:
            self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Stop after the session at hand."""
        del parent
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    terminate = stop

    def _run(self) -> None:
        pause_s = _PRUNE_S * random.random()  # noqa: S311 - jitter
        while not self._stopped.wait(pause_s):
            pause_s = _PRUNE_S
            try:
                prune_now(self._stopped.is_set)
            except Unavailable as exc:
                _log.warning("prune waits", error=str(exc))
            except Exception:  # noqa: BLE001 - it goes on, whatever one round met
                _log.exception("prune failed")


class Archivist(bootsteps.StartStopStep):
    """Puts the ledger's transitions away, in every worker, and says how the ledger stands.

    It has a thread of its own: a sweep must not wait for the object store. Workers need no agreement:
    Redis says which part is next, and one conditional write of it wins.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()
        self._watch = LedgerWatch()
        self._thread = threading.Thread(target=self._run, name="archivist", daemon=True)

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Archive from now on."""
        del parent
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Stop after the part at hand."""
        del parent
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    terminate = stop

    def _run(self) -> None:
        while not self._stopped.wait(_ARCHIVE_S * (0.5 + random.random())):  # noqa: S311 - jitter
            try:
                self._round()
            except Unavailable as exc:
                _log.warning("archive waits", error=str(exc))
            except Exception:  # noqa: BLE001 - it goes on, whatever one round met
                _log.exception("archive failed")

    def _round(self) -> None:
        """Look first: what is wrong with the ledger is said while the object store is away, too."""
        parts = system()
        metrics().ledger(**self._watch.look(parts.ledger, parts.ledger.accounts()))
        archive(parts.ledger, parts.artifacts, stopped=self._stopped.is_set)


app.steps["worker"].add(Archivist)

#: Between two rounds of the archivist, about.
_ARCHIVE_S = 5.0
_CONTROL = Queue.CONTROL.value
#: Between two rounds of the pruner.
_PRUNE_S = 3_600.0


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


app.steps["worker"].add(Pruner)


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
