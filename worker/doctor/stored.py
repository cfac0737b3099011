"""What is kept outside Redis: the object store, the marks and sessions in it, and this machine's spool."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import redis

from worker.bootstrap import build_artifacts
from worker.core.epoch import Verdict, judge
from worker.doctor.check import Check, client_of
from worker.epoch import examine
from worker.errors import DiagnosisError
from worker.recovery import lost
from worker.spool.disk import DiskFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.settings import Settings

__all__ = ["epoch", "object_store", "sessions", "spool"]

#: Of the spool's size; above it the next long reply may not fit.
_NEARLY_FULL = 0.9


def object_store(settings: Settings) -> Iterator[Check]:
    """Look whether the bucket can be written, and whether the store keeps what was there first."""
    key = f"probes/{os.getpid()}"
    try:
        artifacts = build_artifacts(settings)
        artifacts.put(key, b"probe", content_type="text/plain")
        again = artifacts.put_new(key, b"other", content_type="text/plain")
        artifacts.delete(key)
    except DiagnosisError as exc:
        yield Check(
            name="object store",
            state="fail",
            found=str(exc),
            cure="correct DIAGNOSIS_S3_*; the bucket must exist",
        )
        return
    yield Check(
        name="object store", state="ok", found=f"bucket {settings.s3_bucket} can be written"
    )
    yield Check(
        name="conditional writes",
        state="fail" if again else "ok",
        found="the store overwrites in spite of If-None-Match" if again else "work",
        cure="use a store with conditional writes: a manifest must be written once"
        if again
        else "",
    )


def epoch(settings: Settings) -> Iterator[Check]:
    """Look whether Redis has all that was marked in the object store."""
    from worker.ledger.register import RedisRegister  # noqa: PLC0415

    try:
        with client_of(settings) as client:
            standing = RedisRegister(client, prefix=settings.key_prefix).standing()
        stored = examine(build_artifacts(settings), standing, fleet=settings.key_prefix)
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="epoch", state="fail", found=str(exc), cure="see above")
        return
    verdict = judge(standing, stored)
    found, cure = _VERDICTS[verdict]
    yield Check(
        name="epoch",
        state="ok" if verdict in {Verdict.WHOLE, Verdict.NEW} else "fail",
        found=f"{standing.epoch} {found} {standing.doubt}".strip(),
        cure=cure,
    )


_REBUILT = (
    "a worker rebuilds it, unless DIAGNOSIS_RECOVER_BY_ITSELF=false: then `diagnosis recover --all`. If "
    "its log says that it cannot, mend what it names, or go on without: `diagnosis recover --accept`"
)
#: What was found -> in words, and what to do.
_VERDICTS = {
    Verdict.WHOLE: ("is whole", ""),
    Verdict.NEW: ("none has begun: no worker was here", ""),
    Verdict.EMPTY: ("Redis has lost all its data; no money is held", _REBUILT),
    Verdict.OLDER: ("Redis is an older copy; no money is held.", _REBUILT),
    Verdict.FOREIGN: (
        "is not this bucket's: Redis and the bucket belong to different fleets; no money is held",
        "correct DIAGNOSIS_REDIS_URL, _S3_BUCKET or _KEY_PREFIX, or `diagnosis recover --accept`",
    ),
}


def sessions(settings: Settings) -> Iterator[Check]:
    """Look for sessions that Redis forgot: even of a pruned one it knows that there was one."""
    from worker.journal.redis import RedisJournal  # noqa: PLC0415

    try:
        with client_of(settings) as client:
            journal = RedisJournal(client, prefix=settings.key_prefix)
            forgotten = lost(journal, build_artifacts(settings))
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="stored sessions", state="fail", found=str(exc), cure="see above")
        return
    yield Check(
        name="stored sessions",
        state="warn" if forgotten else "ok",
        found=f"{len(forgotten)} are not in Redis, such as {forgotten[0]}: it has lost its data"
        if forgotten
        else "all are in Redis",
        cure="`diagnosis recover --all --ended`" if forgotten else "",
    )


def spool(settings: Settings) -> Iterator[Check]:
    """Look at this machine's spool; one that does not work costs money after a crash, no session."""
    if settings.spool_max_bytes == 0:
        yield Check(
            name="spool",
            state="warn",
            found="switched off: a call whose worker dies before the commit is bought again",
            cure="give DIAGNOSIS_SPOOL_MAX_BYTES a size",
        )
        return
    folder = DiskFolder(settings.spool_path)
    probe = f"probe-{os.getpid()}"
    try:
        folder.write(probe, b"probe")
        folder.remove(probe)
        sizes = folder.list()
    except OSError as exc:
        yield Check(
            name="spool",
            state="warn",
            found=f"{exc}: a call whose worker dies before the commit is bought again",
            cure="free space, or name a folder of the workers' user in DIAGNOSIS_SPOOL_DIR",
        )
        return
    size = sum(sizes.values())
    is_full = size > settings.spool_max_bytes * _NEARLY_FULL
    yield Check(
        name="spool",
        state="warn" if is_full else "ok",
        found=f"{settings.spool_path}: {len(sizes)} replies wait, {size} bytes",
        cure="replies wait for their sessions: is a worker running on this machine, and are all "
        "sessions in Redis? Or raise DIAGNOSIS_SPOOL_MAX_BYTES"
        if is_full
        else "",
    )
