"""The journal in Redis or Valkey: one Lua script a transition.

Rule: no logic here. A method packs its arguments, runs its script, unpacks the reply.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core import policy
from worker.core.checkpoints import FIRST_LIFE
from worker.journal.keys import member, split_member
from worker.ports import (
    Announcement,
    Claim,
    Claimed,
    Commit,
    Committed,
    DeadLetter,
    Lease,
    Note,
    Record,
    Slice,
    StepRow,
    Waiting,
)
from worker.redis_connection import Script, translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import redis

__all__ = ["RedisJournal"]

_LUA = Path(__file__).parent / "lua"
_OPERATIONS = (
    "append",
    "beat",
    "claim",
    "commit",
    "create",
    "discard",
    "drive",
    "prune",
    "release",
    "restore",
    "retry",
    "sweep",
    "wake",
)
#: Fields of a row that `steps` shows.
_ROW = ("queue", "state", "owner", "attempt", "deaths", "retries", "last_error")

#: Fields of a session that `labels` shows beside those it was given.
_STATUS = ("status", "created_ms", "ended_ms", "pruned_ms", "outcome", "artifacts_uri")
#: How many sessions a page of `ended` looks at.
_PAGE = 500


class RedisJournal:
    """`ports.Journal` on a Redis or Valkey server with AOF and `noeviction`."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str = "diagnosis",
        lease_ms: int = policy.LEASE_MS,
        grace_ms: int = policy.GRACE_MS,
    ) -> None:
        self._client = client
        self._prefix = f"{{{prefix}}}:"
        self._lease_ms = lease_ms
        self._grace_ms = grace_ms
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in _OPERATIONS
        }

    def _run(self, name: str, *args: str | int) -> Any:  # noqa: ANN401 - see Script
        return self._scripts[name]([self._prefix], args)

    def create(
        self,
        session_id: str,
        events: Sequence[tuple[str, str]],
        follow: Sequence[Announcement],
        *,
        deadline_ms: int,
        labels: Mapping[str, str],
    ) -> Committed:
        """Start a session; `gone` where it exists already."""
        reply = self._run(
            "create",
            session_id,
            deadline_ms,
            self._grace_ms,
            len(events),
            len(labels),
            *_flat(events),
            *_flat(labels.items()),
            *_steps(follow),
        )
        return _committed(session_id, reply)

    def restore(
        self,
        session_id: str,
        records: Sequence[Record],
        *,
        labels: Mapping[str, str],
        deadline_ms: int,
        after_ms: int,
        ends: bool,
        replaces: bool = False,
    ) -> Committed:
        """Put a session back that was lost; `gone` where it is known, or pruned."""
        rows = ((r.key, r.at_ms, r.attempt, r.owner or "-", r.body) for r in records)
        reply = self._run(
            "restore",
            session_id,
            deadline_ms,
            after_ms,
            int(ends),
            int(replaces),
            len(labels),
            *_flat(labels.items()),
            *_flat(rows),
        )
        return _committed(session_id, reply)

    def load(self, session_id: str, since: int = 0) -> Slice:
        """Return the records from position `since` on."""
        with translated("reading a journal"):
            # In one transaction: what is appended between the two would be counted and not read.
            pipeline = self._client.pipeline(transaction=True)
            pipeline.lrange(f"{self._prefix}j:{session_id}", since, -1)
            pipeline.llen(f"{self._prefix}j:{session_id}")
            pipeline.hget(f"{self._prefix}s:{session_id}", "life")
            lines, length, life = pipeline.execute()
        records = tuple(_record(line) for line in lines)
        return Slice(length=length, records=records, life=life or FIRST_LIFE)

    def claim(self, session_id: str, step_id: str, *, owner: str, token: str, since: int) -> Claim:
        """Take the lease on a due step and return the records from `since` on."""
        reply = self._run(
            "claim",
            session_id,
            step_id,
            owner,
            token,
            since,
            self._lease_ms,
            policy.POISON_DEATHS,
            policy.CONCLUDE_WAIT_MS,
        )
        status = Claimed(reply[0])
        if status not in {Claimed.OK, Claimed.POISONED}:
            return Claim(status=status)
        return Claim(
            status=status,
            lease=Lease(session_id=session_id, step_id=step_id, fence=int(reply[1]), token=token),
            attempt=reply[2],
            deaths=reply[3],
            retries=reply[4],
            length=reply[5],
            records=tuple(_record(line) for line in reply[6]),
            life=reply[7] or FIRST_LIFE,
        )

    def beat(self, leases: Sequence[Lease]) -> tuple[Lease, ...]:
        """Renew leases; return those that are lost or whose session wants them to stop."""
        if not leases:
            return ()
        triples = [(lease.session_id, lease.step_id, lease.fence) for lease in leases]
        lost = self._run("beat", self._lease_ms, *_flat(triples))
        return tuple(leases[int(position)] for position in lost)

    def commit(self, commit: Commit) -> Committed:
        """Put events into the journal, end the step, make its followers due."""
        lease = commit.lease
        reply = self._run(
            "commit",
            lease.session_id,
            lease.step_id,
            lease.fence,
            lease.token,
            int(commit.ends),
            commit.expected_length,
            self._grace_ms,
            commit.given_up,
            commit.least_open,
            len(commit.events),
            *_flat(commit.events),
            *_steps(commit.follow),
        )
        return _committed(lease.session_id, reply)

    def retry(self, lease: Lease, *, delay_ms: int, error: str, counts: bool = True) -> bool:
        """Give the step back, due again after `delay_ms`; False where the lease was lost."""
        return bool(
            self._run(
                "retry",
                lease.session_id,
                lease.step_id,
                lease.fence,
                delay_ms,
                error,
                int(counts),
            )
        )

    def release(self, lease: Lease) -> bool:
        """Give up a step that nobody wants any more; False where the lease was lost."""
        return bool(self._run("release", lease.session_id, lease.step_id, lease.fence))

    def append(
        self, session_id: str, key: str, body: str, *, expected_length: int | None = None
    ) -> Committed:
        """Put an outside event into the journal; the session must then be driven."""
        expected = "" if expected_length is None else expected_length
        return _committed(session_id, self._run("append", session_id, key, body, expected))

    def drive(
        self, session_id: str, *, expected_length: int, follow: Sequence[Announcement]
    ) -> Committed:
        """Make due exactly what `follow` says; `moved` where the journal is longer."""
        reply = self._run("drive", session_id, expected_length, self._grace_ms, *_steps(follow))
        return _committed(session_id, reply)

    def wake(self, session_id: str, step_id: str) -> Announcement | None:
        """Make a step that waits due now, and return it to be told; None where it does not wait."""
        queue = self._run("wake", session_id, step_id, self._grace_ms)
        if queue is None:
            return None
        return Announcement(session_id=session_id, step_id=step_id, queue=queue)

    def waiting(self) -> tuple[Waiting, ...]:
        """Return all steps that wait for money, the longest first."""
        with translated("reading who waits for money"):
            stored: Any = self._client.hgetall(f"{self._prefix}waits")
        rows = (_waiting(name, line) for name, line in stored.items())
        return tuple(sorted(rows, key=lambda row: (row.since_ms, row.session_id, row.step_id)))

    def sweep(self, *, limit: int) -> tuple[Announcement, ...]:
        """Return what is overdue, to be told."""
        reply = self._run("sweep", limit, self._grace_ms, policy.LONGEST_GRACE_MS)
        return tuple(
            Announcement(session_id=reply[i], step_id=reply[i + 1], queue=reply[i + 2])
            for i in range(0, len(reply), 3)
        )

    def steps(self, session_id: str) -> tuple[StepRow, ...]:
        """Return the session's steps that are due or under way, by name."""
        with translated("reading the steps of a session"):
            names: Any = self._client.smembers(f"{self._prefix}o:{session_id}")
            step_ids = sorted(names)
            pipeline = self._client.pipeline(transaction=False)
            for step_id in step_ids:
                pipeline.hmget(f"{self._prefix}t:{member(session_id, step_id)}", *_ROW)
                pipeline.zscore(f"{self._prefix}due", member(session_id, step_id))
            replies: list[Any] = pipeline.execute()
        rows = zip(step_ids, replies[::2], replies[1::2], strict=True)
        return tuple(_row(step_id, row, due) for step_id, row, due in rows if row[1])

    def labels(self, session_id: str) -> Mapping[str, str]:
        """Return what `create` was given, with `status`, `created_ms` and, at last, `ended_ms`."""
        with translated("reading a session"):
            stored: Any = self._client.hgetall(f"{self._prefix}s:{session_id}")
        given = {
            name.removeprefix("label:"): value
            for name, value in stored.items()
            if name.startswith("label:")
        }
        return {**given, **{name: stored[name] for name in _STATUS if name in stored}}

    def sessions(self, *, limit: int = 100) -> tuple[str, ...]:
        """Return session ids, the newest first."""
        with translated("listing sessions"):
            names: Any = self._client.zrevrange(f"{self._prefix}sessions", 0, limit - 1)
        return tuple(names)

    def notes(self, session_id: str) -> tuple[Note, ...]:
        """Return what befell the session's attempts, the newest 500, in order."""
        with translated("reading the notes of a session"):
            lines: Any = self._client.lrange(f"{self._prefix}a:{session_id}", 0, -1)
        return tuple(_note(line) for line in lines)

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the steps that were given up, the newest 1,000, in order."""
        with translated("reading the dead letters"):
            stored: Any = self._client.hgetall(f"{self._prefix}dead")
        stored.pop("last", None)
        return tuple(_dead_letter(number, stored[number]) for number in sorted(stored, key=int))

    def discard(self, number: int | None) -> int:
        """Forget a dead letter, or all where `number` is None; return how many there were."""
        return self._run("discard", "" if number is None else number)

    def ended(self, *, before_ms: int) -> tuple[str, ...]:
        """Return the sessions that ended before that time and are not pruned, oldest first."""
        found: list[str] = []
        with translated("listing ended sessions"):
            # A session ends after it was created: younger ones need not be looked at.
            names: Any = self._client.zrange(
                f"{self._prefix}sessions", "-inf", f"({before_ms}", byscore=True
            )
            for first in range(0, len(names), _PAGE):
                page = names[first : first + _PAGE]
                pipeline = self._client.pipeline(transaction=False)
                for name in page:
                    pipeline.hget(f"{self._prefix}s:{name}", "ended_ms")
                ended: list[Any] = pipeline.execute()
                found += [
                    n for n, at in zip(page, ended, strict=True) if at and int(at) < before_ms
                ]
        return tuple(found)

    def prune(self, session_id: str, *, outcome: str, artifacts_uri: str) -> bool:
        """Forget all of an ended session but its labels; False where it is open or unknown."""
        return bool(self._run("prune", session_id, outcome, artifacts_uri))

    def overdue(self) -> tuple[tuple[str, str, int], ...]:
        """Return (session id, step id, due_ms) of the whole due set, for tests and doctor."""
        with translated("reading the due set"):
            pairs: Any = self._client.zrange(f"{self._prefix}due", 0, -1, withscores=True)
        return tuple((*split_member(name), int(at)) for name, at in pairs)


def _flat(rows: Iterable[Iterable[str | int]]) -> list[str | int]:
    return [value for row in rows for value in row]


def _steps(follow: Iterable[Announcement]) -> list[str]:
    return [value for step in follow for value in (step.step_id, _queue(step))]


def _queue(step: Announcement) -> str:
    """Return the queue, and of a step that waits how long and what for (`prelude.lua`)."""
    wait = step.wait
    if wait is None:
        return step.queue
    words = (step.queue, wait.longest_ms, wait.needs_nusd, int(wait.escrow), *wait.scopes)
    return " ".join(map(str, words))


def _waiting(name: str, line: str) -> Waiting:
    session_id, step_id = split_member(name)
    since_ms, needs_nusd, escrow, *scopes = line.split(" ")
    return Waiting(
        session_id=session_id,
        step_id=step_id,
        since_ms=int(since_ms),
        needs_nusd=int(needs_nusd),
        scopes=tuple(scopes),
        escrow=escrow == "1",
    )


def _announcements(session_id: str, flat: Sequence[str]) -> tuple[Announcement, ...]:
    return tuple(
        Announcement(session_id=session_id, step_id=flat[i], queue=flat[i + 1])
        for i in range(0, len(flat), 2)
    )


def _committed(session_id: str, reply: Sequence[Any]) -> Committed:
    if len(reply) == 1:
        return Committed(status=reply[0])
    return Committed(
        status=reply[0],
        length=reply[1],
        must_drive=bool(reply[2]),
        announced=_announcements(session_id, reply[3]),
    )


def _record(line: str) -> Record:
    head, _, body = line.partition("\n")
    at_ms, attempt, owner, key = head.split(" ", 3)
    return Record(
        key=key,
        body=body,
        at_ms=int(at_ms),
        owner="" if owner == "-" else owner,
        attempt=int(attempt),
    )


def _note(line: str) -> Note:
    head, _, text = line.partition("\n")
    at_ms, attempt, owner, step_id = head.split(" ", 3)
    return Note(at_ms=int(at_ms), step_id=step_id, attempt=int(attempt), owner=owner, text=text)


def _dead_letter(number: str, line: str) -> DeadLetter:
    head, _, reason = line.partition("\n")
    at_ms, attempt, deaths, session_id, step_id = head.split(" ", 4)
    return DeadLetter(
        number=int(number),
        at_ms=int(at_ms),
        session_id=session_id,
        step_id=step_id,
        attempt=int(attempt),
        deaths=int(deaths),
        reason=reason,
    )


def _row(step_id: str, row: Sequence[Any], due: float | None) -> StepRow:
    queue, state, owner, attempt, deaths, retries, last_error = row
    return StepRow(
        step_id=step_id,
        queue=queue,
        state=state,
        owner=owner or "",
        attempt=int(attempt),
        deaths=int(deaths),
        retries=int(retries),
        due_ms=int(due or 0),
        last_error=last_error or "",
    )
