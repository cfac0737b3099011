"""What happened in a session, in one order: journal, attempts, leases, money and artifacts joined.

Rule: from values to rows, and nothing else: it reads no port and no clock. A row says what its
source says; what no source knows is left out.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from worker.core.caching import cache_uses
from worker.core.events import (
    BundlePrepared,
    CallAnswered,
    CallExpanded,
    CancelRequested,
    DeadlinePassed,
    PauseExpired,
    PreparationFailed,
    RunJudged,
    RunRecorded,
    SessionEnded,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    TeacherReplied,
    TeacherStopped,
    key_of,
)
from worker.core.prices import usd
from worker.errors import UnknownVersion
from worker.ports import EntryState
from worker.wire.journal import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from worker.core.events import Event
    from worker.ports import DeadLetter, Entry, Note, Record, StepRow
    from worker.wire.manifest import ManifestFile

__all__ = ["Row", "Source", "described", "paid", "timeline"]


class Source(StrEnum):
    """Where a row comes from; rows of one instant stand in this order."""

    MONEY = "money"
    ATTEMPT = "attempt"
    JOURNAL = "journal"
    DEAD_LETTER = "dead letter"
    ARTIFACT = "artifact"
    UNDER_WAY = "under way"


_ORDER = {source: place for place, source in enumerate(Source)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that happened, or that is under way."""

    #: When; for what is under way, when somebody will be told of it next.
    at_ms: int
    source: Source
    step_id: str
    what: str
    #: The worker; empty for the outside.
    owner: str = ""
    #: Which attempt of the step, from 1; 0 where there is none.
    attempt: int = 0
    #: What is charged for it by now, in money's rows alone: they add up to the session's cost.
    charged_nusd: int = 0
    request_id: str = ""


def timeline(
    *,
    records: Iterable[Record],
    notes: Iterable[Note] = (),
    steps: Iterable[StepRow] = (),
    entries: Iterable[Entry] = (),
    dead_letters: Iterable[DeadLetter] = (),
    files: Mapping[str, ManifestFile] | None = None,
    ended_ms: int = 0,
) -> tuple[Row, ...]:
    """Return everything about one session, by time; what is under way comes last.

    Args:
        records: Its journal.
        notes: What befell its attempts.
        steps: What is due or under way.
        entries: Its reservations.
        dead_letters: Its steps that were given up.
        files: What its manifest lists; None where there is none.
        ended_ms: When it ended: the time of its artifacts.
    """
    journal = tuple(records)
    cache = _cache_words(journal)
    rows = [
        *map(_of_entry, entries),
        *map(_of_note, notes),
        *(_of_record(record, cache.get(record.key, "")) for record in journal),
        *map(_of_dead_letter, dead_letters),
        *_of_files(files or {}, ended_ms),
    ]
    rows.sort(key=lambda row: (row.at_ms, _ORDER[row.source]))
    return (*rows, *sorted(map(_of_step, steps), key=lambda row: row.at_ms))


def paid(rows: Iterable[Row]) -> int:
    """Return what the session is charged, in nano-dollars."""
    return sum(row.charged_nusd for row in rows)


def _cache_words(records: Iterable[Record]) -> dict[str, str]:
    """Return, by key, what each turn read from the prompt cache, and why not more."""
    replies: list[TeacherReplied] = []
    for record in records:
        with suppress(UnknownVersion):
            event = decode(record.body) if record.key.startswith("turn/") else None
            replies += [event] if isinstance(event, TeacherReplied) else []
    replies.sort(key=lambda reply: reply.turn)
    return {
        key_of(
            reply
        ): f"; {use.read_tokens:,} of {reply.usage.prompt_tokens:,} prompt tokens cached"
        + (f", {use.missed_tokens:,} missed: {use.why}" if use.missed_tokens else "")
        for reply, use in zip(replies, cache_uses(replies), strict=True)
    }


def _of_record(record: Record, cache: str) -> Row:
    return Row(
        at_ms=record.at_ms,
        source=Source.JOURNAL,
        step_id=record.key,
        what=_words(record) + cache,
        owner=record.owner,
        attempt=record.attempt,
    )


def _words(record: Record) -> str:
    try:
        return described(decode(record.body))
    except UnknownVersion:
        return f"an event that this version cannot read: {record.body[:60]!r}"


def _of_note(note: Note) -> Row:
    return Row(
        at_ms=note.at_ms,
        source=Source.ATTEMPT,
        step_id=note.step_id,
        what=note.text,
        owner=note.owner,
        attempt=note.attempt,
    )


def _of_dead_letter(letter: DeadLetter) -> Row:
    return Row(
        at_ms=letter.at_ms,
        source=Source.DEAD_LETTER,
        step_id=letter.step_id,
        what=f"given up after {letter.attempt} attempts and {letter.deaths} deaths: {letter.reason}",
        attempt=letter.attempt,
    )


def _of_entry(entry: Entry) -> Row:
    return Row(
        at_ms=entry.created_ms,
        source=Source.MONEY,
        step_id=entry.step_id,
        what=f"{entry.kind} by {entry.model}: {_fate(entry)}",
        charged_nusd=entry.actual_nusd,
        request_id=entry.request_id,
    )


def _fate(entry: Entry) -> str:
    bound = usd(entry.amount_nusd)
    match entry.state:
        case EntryState.HELD:
            return f"{bound} held, not sent"
        case EntryState.SENT:
            return f"{bound} held, sent, no answer yet"
        case EntryState.SETTLED:
            return f"paid {usd(entry.actual_nusd)} of {bound} held"
        case EntryState.EXPIRED:
            return f"outcome unknown ({entry.why}), charged at its bound of {bound}"
        case EntryState.VOID:
            return f"{bound} given back: {entry.why}"
        case EntryState.REFUNDED:
            return f"outcome was unknown, {bound} refunded: {entry.why}"
    assert_never(entry.state)


def _of_files(files: Mapping[str, ManifestFile], ended_ms: int) -> Iterator[Row]:
    for name, file in files.items():
        yield Row(
            at_ms=ended_ms,
            source=Source.ARTIFACT,
            step_id="conclude",
            what=f"{name}, {file.size_bytes:,} bytes, at {file.key}",
        )


def _of_step(row: StepRow) -> Row:
    state = "its lease ends then" if row.state == "leased" else "somebody is told of it then"
    counts = f"{row.deaths} deaths, {row.retries} retries"
    error = f"; last error: {row.last_error}" if row.last_error else ""
    return Row(
        at_ms=row.due_ms,
        source=Source.UNDER_WAY,
        step_id=row.step_id,
        what=f"{row.state} on {row.queue}, {state}; {counts}{error}",
        owner=row.owner,
        attempt=row.attempt,
    )


def described(event: Event) -> str:  # noqa: C901, PLR0911, PLR0912 - a case an event
    """Return an event in words."""
    match event:
        case SessionOpened():
            return f"opened for student {event.spec.student!r}, cap {_cap(event)}{_origin(event)}"
        case BundlePrepared():
            return f"bundle ready: {event.traces} traces, {event.tasks} tasks"
        case PreparationFailed():
            return f"the bundle cannot be used: {event.reason}"
        case TeacherReplied():
            calls = ", ".join(call.tool for call in event.calls) or event.stop_reason
            return f"the teacher replied ({calls}) for {usd(event.cost_nusd)}"
        case TeacherStopped():
            return f"the teacher stopped ({event.stop.value}): {event.detail}"
        case CallAnswered():
            return "answered with an error" if event.is_error else "answered"
        case CallExpanded():
            return f"asks for {len(event.runs)} student runs"
        case RunRecorded():
            return _run(event)
        case RunJudged():
            why = "the judge could not say" if event.score is None else f"judged {event.score:g}"
            return f"{why}: {event.why}"
        case DeadlinePassed():
            return "the time is up"
        case CancelRequested():
            return f"asked to stop: {event.reason}"
        case SessionPaused():
            return f"paused ({event.cause.value}): {event.detail}"
        case SessionResumed():
            return f"goes on: {event.detail}"
        case PauseExpired():
            return f"paused for too long: {event.detail}"
        case SessionEnded():
            return f"ended as {event.outcome}: {event.reason}"
    assert_never(event)


def _cap(event: SessionOpened) -> str:
    return usd(event.spec.limits.max_cost_nusd)


def _origin(event: SessionOpened) -> str:
    fork = event.spec.forked
    if fork is None:
        return ""
    where = "all of it" if fork.at_turn is None else f"up to turn {fork.at_turn}"
    left_out = f" without {', '.join(fork.without)}" if fork.without else ""
    cost = usd(fork.inherited_nusd)
    return f"; forked from {fork.session_id}, {where}{left_out}, which had cost {cost} there"


def _run(event: RunRecorded) -> str:
    who = f"{event.runner.value} on {event.spec.task_id}"
    if event.score is not None:
        return f"{who}: {event.outcome.value}, scored {event.score:g}"
    return f"{who}: {event.outcome.value}" + (f", {event.why}" if event.why else "")
