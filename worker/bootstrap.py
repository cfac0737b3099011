"""Builds the real adapters from the settings: the only place that does.

Rule: building connects to nothing; whoever needs a server to be there asks `doctor`.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from worker.artifacts.s3 import S3Artifacts
from worker.batched import BatchedTeacher
from worker.bundle.cache import BundleCache
from worker.checkpoints import Checkpoints
from worker.clock import SystemClock
from worker.core import keys
from worker.core.prices import nusd
from worker.door import Door
from worker.epoch import Epoch
from worker.errors import BundleInvalid
from worker.forking import Forks
from worker.journal.redis import RedisJournal
from worker.judge.llm import LlmJudge
from worker.lazy import LazyMap
from worker.ledger.redis import RedisLedger
from worker.ledger.register import RedisRegister
from worker.limits.gate import SHORT_MS, Gate, Keeper, TeacherGate
from worker.limits.limited import LimitedStudent
from worker.limits.redis import RedisLimiter
from worker.paid import PaidTeacher
from worker.payloads import Payloads
from worker.prefixes.lead import Lead
from worker.prefixes.redis import RedisPrefixes
from worker.recovery import Recovery
from worker.redis_connection import connect
from worker.rescue import Rescue
from worker.runner import Runner
from worker.spool import Spool
from worker.spool.disk import DiskFolder
from worker.steps.context import Ports
from worker.steps.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import redis
    from pydantic import SecretStr

    from worker.core.rates import Limits
    from worker.limits.gate import Observer
    from worker.ports import Hints, Ledger, Student
    from worker.settings import Settings, StudentSettings, TeacherSettings
    from worker.spool import SpoolEvent
    from worker.teacher.anthropic import AnthropicTeacher
    from worker.wire.result import DiagnoseResult

__all__ = ["System", "build", "build_artifacts", "owner_name", "provision"]


#: Bundles that a process keeps open; the cache on disk holds more.
OPEN_BUNDLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A process's adapters, wired."""

    settings: Settings
    client: redis.Redis
    journal: RedisJournal
    ledger: RedisLedger
    limiter: RedisLimiter
    artifacts: S3Artifacts
    payloads: Payloads
    runner: Runner
    door: Door
    epoch: Epoch
    recovery: Recovery
    rescue: Rescue
    forks: Forks
    ports: Ports
    #: What has to be closed, the newest first.
    closing: ExitStack

    def close(self) -> None:
        """Stop threads and close connections."""
        self.closing.close()


def build(
    settings: Settings,
    *,
    hints: Hints,
    publish: Callable[[DiagnoseResult, float], None],
    observer: Observer | None = None,
    publish_again: Callable[[DiagnoseResult, float], None] | None = None,
    spooled: Callable[[SpoolEvent], object] = lambda _: None,
) -> System:
    """Return the system that `settings` describe.

    Args:
        settings: Of this process.
        hints: Tells workers about due steps.
        publish: Makes a session's result readable; also given its runtime in seconds.
        observer: Hears of calls that wait, and of those that their servers push back.
        publish_again: Does so for a session that had ended and was lost; None takes `publish`.
        spooled: Counts what befalls the replies in the spool.
    """
    closing = ExitStack()
    client = connect(
        settings.redis_url.get_secret_value(),
        on_server=lambda run_id: epoch.connected(run_id),  # noqa: PLW0108 - made below
    )
    closing.callback(client.close)
    artifacts = build_artifacts(settings)
    closing.callback(artifacts.close)
    register = RedisRegister(client, prefix=settings.key_prefix)
    epoch = Epoch(
        register,
        artifacts,
        SystemClock(),
        fleet=settings.key_prefix,
        owner=owner_name(),
        new_nonce=lambda: secrets.token_hex(8),
        accounts=lambda: ledger.accounts(),  # noqa: PLW0108 - made below
        mark_ms=round(settings.mark_every_s * 1000),
    )
    journal = RedisJournal(client, prefix=settings.key_prefix)
    ledger = RedisLedger(client, prefix=settings.key_prefix, trusted=epoch.trusted)
    payloads = Payloads(artifacts, inline_bytes=settings.payload_inline_bytes)
    limiter = RedisLimiter(client, prefix=settings.key_prefix)
    gates = _Gates(limiter, observer)
    closing.callback(gates.close)
    prefixes = RedisPrefixes(client, prefix=settings.key_prefix)
    checkpoints = Checkpoints(journal, ledger, artifacts, SystemClock(), doubt=epoch.doubt)
    spool = _spool(settings, ledger, spooled)
    clients = LazyMap(
        {name: partial(_client, teacher, closing) for name, teacher in settings.teachers.items()}
    )
    ports = Ports(
        ledger=ledger,
        artifacts=artifacts,
        payloads=payloads,
        workspaces=_Workspaces(artifacts, settings.cache_dir, settings.cache_max_bytes),
        teachers=LazyMap(
            {
                name: partial(
                    _teacher,
                    name,
                    teacher,
                    clients,
                    ledger,
                    checkpoints,
                    spool=spool,
                    gates=gates,
                    prefixes=prefixes,
                )
                for name, teacher in settings.teachers.items()
            }
        ),
        batches=LazyMap(
            {
                name: partial(_batched, name, settings, clients, ledger, checkpoints)
                for name in settings.teachers
            }
        ),
        students=LazyMap(
            {
                name: partial(_student, name, student, gates, closing)
                for name, student in settings.students.items()
            }
        ),
        judge=LlmJudge(),
        clock=SystemClock(),
        records=lambda session_id: journal.load(session_id).records,
        publish=publish,
    )
    runner = Runner(
        journal=journal,
        hints=hints,
        ports=ports,
        owner=owner_name(),
        new_token=lambda: secrets.token_hex(8),
        chance=random.random,
        checkpoints=checkpoints,
        spool=spool,
        server=lambda: epoch.generation,
    )
    closing.callback(runner.close)
    recovery = Recovery(
        runner=runner,
        journal=journal,
        ledger=ledger,
        artifacts=artifacts,
        save=checkpoints.save,
        publish=publish_again or publish,
    )
    rescue = Rescue(
        epoch=epoch,
        register=register,
        recovery=recovery,
        ledger=ledger,
        kill=partial(ledger.kill, on=True),
        artifacts=artifacts,
        clock=SystemClock(),
        owner=owner_name(),
        by_itself=settings.recover_by_itself,
    )
    forks = Forks(journal, artifacts, recovery.stored)
    return System(
        settings=settings,
        client=client,
        journal=journal,
        ledger=ledger,
        limiter=limiter,
        artifacts=artifacts,
        payloads=payloads,
        runner=runner,
        door=Door(
            runner,
            ledger,
            settings,
            reopen=recovery.reopen,
            trusted=epoch.check,
            forks=forks,
        ),
        epoch=epoch,
        forks=forks,
        recovery=recovery,
        rescue=rescue,
        ports=ports,
        closing=closing,
    )


def build_artifacts(settings: Settings) -> S3Artifacts:
    """Return the object store that `settings` describe."""
    return S3Artifacts(
        settings.s3_bucket,
        endpoint_url=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=_secret(settings.s3_access_key),
        secret_key=_secret(settings.s3_secret_key),
    )


def provision(system: System) -> None:
    """Make the accounts that the settings name, where they do not exist yet."""
    for scope, cap_usd in system.settings.budgets.items():
        system.ledger.open_account(scope, nusd(cap_usd))


def owner_name() -> str:
    """Return this process's name as it stands in journals: host and process, no spaces."""
    return f"{socket.gethostname()}.{os.getpid()}".replace(" ", "_")


class _Workspaces:
    """Opens bundles by URI: from the local cache, else from the object store."""

    def __init__(self, artifacts: S3Artifacts, directory: Path, max_bytes: int) -> None:
        self._artifacts = artifacts
        self._cache = BundleCache(directory, max_bytes)
        self._open: OrderedDict[str, Workspace] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> Workspace:
        sha256 = keys.bundle_sha256(uri)
        with self._lock:
            if sha256 in self._open:
                self._open.move_to_end(sha256)
                return self._open[sha256]
        workspace = Workspace(self._cache.get(sha256, partial(self._fetch, sha256)))
        with self._lock:
            self._open.setdefault(sha256, workspace)
            while len(self._open) > OPEN_BUNDLES:
                self._open.popitem(last=False)
            return self._open.get(sha256, workspace)

    def _fetch(self, sha256: str, path: Path) -> None:
        if not self._artifacts.get_file(keys.bundle(sha256), path):
            raise BundleInvalid(
                f"bundle {sha256} is not in the object store: upload it again with "
                "`diagnosis enqueue --home`",
                sha256=sha256,
            )


class _Gates:
    """Makes the gates of this process, which keep their calls' slots together."""

    def __init__(self, limiter: RedisLimiter, observer: Observer | None) -> None:
        self._limiter = limiter
        self._keeper = Keeper(limiter)
        self._observer = observer
        self.close = self._keeper.close

    def make(self, server: str, account: str, limits: Limits, *, short_ms: int) -> Gate:
        return Gate(
            self._limiter,
            self._keeper,
            account=account,
            limits=limits,
            server=server,
            new_token=lambda: secrets.token_hex(8),
            chance=random.random,
            observer=self._observer,
            short_ms=short_ms,
        )


def _spool(
    settings: Settings, ledger: Ledger, count: Callable[[SpoolEvent], object]
) -> Spool | None:
    """Return the spool of this machine, None where it is switched off."""
    if settings.spool_max_bytes == 0:
        return None
    return Spool(
        DiskFolder(settings.spool_path),
        ledger,
        SystemClock(),
        fleet=settings.fleet,
        max_bytes=settings.spool_max_bytes,
        max_age_ms=settings.spool_max_age_s * 1_000,
        count=count,
    )


def _client(settings: TeacherSettings, closing: ExitStack) -> AnthropicTeacher:
    # Imported here: the SDK takes 40 MB that only the teacher queue needs.
    from worker.teacher.anthropic import AnthropicTeacher  # noqa: PLC0415

    teacher = AnthropicTeacher(
        base_url=settings.base_url, api_key=settings.api_key.get_secret_value()
    )
    closing.callback(teacher.close)
    return teacher


def _batched(
    name: str,
    settings: Settings,
    clients: Mapping[str, AnthropicTeacher],
    ledger: RedisLedger,
    checkpoints: Checkpoints,
) -> BatchedTeacher:
    return BatchedTeacher(
        clients[name],
        ledger,
        SystemClock(),
        first_poll_ms=round(settings.batch_poll_s * 1000),
        note=checkpoints.note_sent,
    )


def _teacher(
    name: str,
    settings: TeacherSettings,
    clients: Mapping[str, AnthropicTeacher],
    ledger: RedisLedger,
    checkpoints: Checkpoints,
    *,
    spool: Spool | None,
    gates: _Gates,
    prefixes: RedisPrefixes,
) -> PaidTeacher:
    gate = gates.make(f"teacher {name}", settings.account, settings.limits, short_ms=SHORT_MS)
    return PaidTeacher(
        clients[name],
        ledger,
        note=checkpoints.note_sent,
        gate=TeacherGate(gate, group=settings.rate_group),
        lead=Lead(prefixes, account=settings.cache_account) if settings.prewarm else None,
        spool=spool,
    )


def _student(name: str, settings: StudentSettings, gates: _Gates, closing: ExitStack) -> Student:
    from worker.student.http import HttpStudent  # noqa: PLC0415 - only the student queue needs it

    student = HttpStudent(
        settings.base_url,
        settings.model,
        settings.api_key.get_secret_value(),
        timeout_ms=settings.timeout_ms,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        system_prompt=settings.system_prompt,
    )
    closing.callback(student.close)
    gate = gates.make(f"student {name}", settings.account, settings.limits, short_ms=0)
    return LimitedStudent(student, gate)


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()
