"""Sessions that begin where another one was: its journal up to a turn, and the long texts of it.

Rule: the other session is only read, wherever it is: in Redis, beside its artifacts once it was
pruned, or in its checkpoints where Redis has lost it. Its long texts are copied under the new
session's keys, by content hash, so that neither needs the other from then on.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from worker.core import keys
from worker.core.events import SessionOpened
from worker.core.forking import blobs_of, forked, inherited_nusd, last_turn, prefix
from worker.core.values import Fork
from worker.errors import RequestInvalid
from worker.retention import stored_history
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from worker.core.events import Event
    from worker.core.values import SessionSpec
    from worker.ports import Artifacts, Journal, Record
    from worker.recovery import Stored

__all__ = ["Forks"]


class Forks:
    """Reads sessions that others begin from."""

    def __init__(
        self,
        journal: Journal,
        artifacts: Artifacts,
        stored: Callable[[str], Stored | None],
    ) -> None:
        """Take where sessions are.

        Args:
            journal: Those that Redis has.
            artifacts: Those that were pruned, and all long texts.
            stored: Those that Redis has lost (`Recovery.stored`).
        """
        self._journal = journal
        self._artifacts = artifacts
        self._stored = stored

    def past(self, session_id: str) -> tuple[Event, ...]:
        """Return a session's events, wherever its journal is.

        Raises:
            RequestInvalid: There is none.
            Unavailable: Redis or the object store did not answer.
            UnknownVersion, CheckpointsDamaged: Its journal cannot be read.
        """
        return decode_all(self._records(session_id))

    def begin(
        self, spec: SessionSpec, session_id: str, *, at_turn: int | None, without: Sequence[str]
    ) -> tuple[Event, ...]:
        """Return the events that a session begins with which comes from another one.

        Args:
            spec: Of the new session.
            session_id: The other one.
            at_turn: The last turn that is taken over; None takes all but the end.
            without: Steps that are left out, so that they are done again.

        Raises:
            RequestInvalid: There is no such session or turn, its bundle is another, a long text of
                it is gone, or its turns could not have gone so under the new limits.
            Unavailable: Redis or the object store did not answer.
        """
        past = self.past(session_id)
        _check(spec, past, session_id, at_turn)
        taken_over = prefix(past, at_turn, without)
        fork = Fork(
            session_id=session_id,
            at_turn=at_turn,
            without=tuple(without),
            inherited_nusd=inherited_nusd(taken_over),
        )
        journal = forked(replace(spec, forked=fork), taken_over)
        self._copy(session_id, spec.session_id, taken_over)
        return journal

    def _records(self, session_id: str) -> Iterable[Record]:
        history = stored_history(self._journal, self._artifacts, session_id)
        if history is not None:
            return history.records
        stored = self._stored(session_id)
        if stored is None:
            raise RequestInvalid(
                f"fork: there is no session {session_id!r}, or its journal is gone", field="fork"
            )
        return stored.records

    def _copy(self, parent: str, child: str, events: tuple[Event, ...]) -> None:
        """Put every long text that the events refer to under the new session's keys.

        Raises:
            RequestInvalid: One of them is gone.
        """
        for sha256 in dict.fromkeys(blob.sha256 for blob in blobs_of(events)):
            target = keys.blob(child, sha256)
            if self._artifacts.exists(target):
                continue
            body = self._artifacts.get(keys.blob(parent, sha256))
            if body is None or hashlib.sha256(body).hexdigest() != sha256:
                raise RequestInvalid(
                    f"fork: {keys.blob(parent, sha256)!r}, which its journal refers to, is gone from "
                    "the object store or damaged: restore it",
                    field="fork",
                )
            self._artifacts.put_new(target, body, content_type="text/plain")


def _check(
    spec: SessionSpec, past: tuple[Event, ...], session_id: str, at_turn: int | None
) -> None:
    opened = past[0]
    assert isinstance(opened, SessionOpened), "a journal begins with it"
    if opened.spec.bundle_uri != spec.bundle_uri:
        raise RequestInvalid(
            f"bundle: session {session_id!r} worked on {opened.spec.bundle_uri!r}, and a fork of it "
            f"cannot go on with {spec.bundle_uri!r}",
            field="bundle",
        )
    last = last_turn(past)
    if at_turn is not None and at_turn > last:
        raise RequestInvalid(
            f"fork: session {session_id!r} has {last} turns, and none with the number {at_turn}",
            field="fork",
        )
