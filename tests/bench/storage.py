"""What a long session writes, against what there was to write.

Rule: the session is a real one, on the core, runner, steps, checkpoints and notes that workers use;
every byte is counted as it is sent to the object store, those of a refused write included, and as it
stands in the journal.

| counted                                                             | as                          |
|---------------------------------------------------------------------|-----------------------------|
| texts: replies, results, the brief, the diagnosis                   | content                     |
| facts: each event without its texts, each reservation, as JSON      | content                     |
| the journal in Redis: each record with its head                     | written                     |
| the object store: `blobs/`, `checkpoints/`                          | written                     |
| the object store: `sent/`, a note before each paid request          | written                     |
| the object store: `sessions/`, what a session leaves for its readers | apart: it is made from those |

Leases, `due` and accounts are rows that are overwritten: they do not grow with a session.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.chaos.homes import sample_of
from tests.chaos.stories import END, TASKS, Story
from tests.chaos.world import SESSION, World, memory_stores
from tests.unit.bundle.homes import make_home, pack_and_open
from worker.artifacts.memory import MemoryArtifacts
from worker.core import keys
from worker.core.events import CallAnswered, TeacherReplied
from worker.core.machine import fold
from worker.core.transcript import exploring_request
from worker.core.values import Blob, Text
from worker.settings import Settings
from worker.steps.workspace import Workspace
from worker.tools.schemas import anthropic_tools
from worker.wire.journal import decode_all, encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.stories import ToolUse
    from worker.core.events import Event
    from worker.core.values import Payload
    from worker.ports import Record

__all__ = ["HUNDRED_TURNS", "THIRTY_TURNS", "Long", "Written", "write"]

_CAP_NUSD = 10**13
_KEPT = ("blobs", "checkpoints", "sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Long:
    """A long session: in each turn so many results of so many characters, at most."""

    turns: int
    results: int
    result_chars: int
    #: What the teacher says in each turn beside its calls.
    said_chars: int


#: 30 turns with 100 KB of results each: six calls, since no result has more than 20,000 characters.
THIRTY_TURNS = Long(turns=30, results=6, result_chars=20_000, said_chars=1_600)
#: 100 turns, to a context of 200,000 tokens at four bytes a token.
HUNDRED_TURNS = Long(turns=100, results=1, result_chars=7_000, said_chars=1_600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What there was to write and what was written, in bytes."""

    texts: int
    facts: int
    journal: int
    #: By the first part of the key.
    objects: Counter[str]
    #: The last prompt's messages, as JSON text.
    context: int

    @property
    def kept(self) -> int:
        """What keeps the session and its money: journal, blobs, checkpoints and notes."""
        return self.journal + sum(self.objects[name] for name in _KEPT)

    @property
    def ratio(self) -> float:
        """Bytes written for each byte of new content."""
        return self.kept / (self.texts + self.facts)

    @property
    def shown(self) -> str:
        """The parts, for people."""
        per_text = {"journal": self.journal, **self.objects}
        parts = ", ".join(f"{name} {size / self.texts:.2f}" for name, size in per_text.items())
        return (
            f"{self.texts / 1e3:.0f} KB of texts and {self.facts / 1e3:.0f} KB of facts, the last "
            f"context {self.context / 4e3:.0f}k tokens at 4 bytes; for each byte of text: {parts}; "
            f"{self.kept / self.texts:.2f} without what is left for readers (sessions)"
        )


class CountingArtifacts(MemoryArtifacts):
    """Counts what it is sent, by the first part of the key."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        self.sent[key.partition("/")[0]] += len(body)
        super().put(key, body, content_type=content_type)

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        self.sent[key.partition("/")[0]] += len(body)
        return super().put_new(key, body, content_type=content_type)


def write(long: Long, directory: Path, *, inline_bytes: int | None = None) -> Written:
    """Let a session of that length come to its end; return what was written.

    Args:
        long: The session.
        directory: Takes its inputs.
        inline_bytes: Above which texts stand in the object store; None takes the default setting.
    """
    artifacts = CountingArtifacts()
    stores = memory_stores(artifacts=lambda: artifacts)
    for scope in ("fleet", "tenant:default", "campaign:default"):
        stores.ledger.open_account(scope, _CAP_NUSD)
    default: int = Settings.model_fields["payload_inline_bytes"].default
    world = World(
        _story(long),
        _workspace(long, directory),
        stores=stores,
        inline_bytes=default if inline_bytes is None else inline_bytes,
    )
    world.run()
    assert not world.wrong, world.wrong
    records = stores.journal.load(SESSION).records
    events = decode_all(records)
    session = fold(events)
    assert session.ended is not None
    assert session.stop == "submitted", session.ended.reason

    def text_of(payload: Payload) -> str:
        if isinstance(payload, Text):
            return payload.text
        return (artifacts.get(keys.blob(SESSION, payload.sha256)) or b"").decode()

    texts = sum(len(text_of(payload).encode()) for event in events for payload in _texts(event))
    entries = stores.ledger.entries(SESSION)
    facts = sum(len(encode(_without_texts(event))[1].encode()) for event in events)
    facts += sum(len(json.dumps(asdict(entry))) for entry in entries)
    request = exploring_request(session, anthropic_tools(), text_of)
    return Written(
        texts=texts,
        facts=facts,
        journal=sum(_size(record) for record in records),
        objects=artifacts.sent,
        context=len(json.dumps(request.messages, ensure_ascii=False).encode()),
    )


def _size(record: Record) -> int:
    """Return what a record takes in Redis: `lua/prelude.lua`, `put`."""
    head = f"{record.at_ms} {record.attempt} {record.owner} {record.key}\n"
    return len(head.encode()) + len(record.body.encode())


def _texts(event: Event) -> Iterator[Payload]:
    """Return the payloads of an event; a diagnosis stands in the reply's content as well."""
    for name in ("brief", "content", "result"):
        payload = getattr(event, name, None)
        if isinstance(payload, Text | Blob):
            yield payload


def _without_texts(event: Event) -> Event:
    empty = Text(text="")
    match event:
        case TeacherReplied():
            return replace(event, content=empty)
        case CallAnswered():
            return replace(event, result=empty)
        case _:
            return event


# ------------------------------------------------------------------------------------- the session


def _story(long: Long) -> Story:
    return Story(
        name="long",
        turns=(*(_reads(long, turn) for turn in range(long.turns - 1)), END),
        limits={
            "max_turns": 200,
            "max_tool_calls": 2_000,
            "max_cost_usd": "1000",
            "max_duration_s": 86_400,
        },
        said_chars=long.said_chars,
    )


def _reads(long: Long, turn: int) -> tuple[ToolUse, ...]:
    """Return the calls of one turn: each reads a trace that no other one reads."""
    return tuple(
        (
            "get_trace",
            {
                "trace_id": f"trace-{turn}-{call}",
                "view": "messages",
                "max_chars": long.result_chars,
            },
        )
        for call in range(long.results)
    )


def _workspace(long: Long, directory: Path) -> Workspace:
    draw = random.Random(long.turns)  # noqa: S311 - chance of a test
    traces = [
        _trace(f"trace-{turn}-{call}", draw, long.result_chars)
        for turn in range(long.turns)
        for call in range(long.results)
    ]
    samples = [sample_of(task_id) for task_id in TASKS]
    return Workspace(
        pack_and_open(make_home(directory / "home", traces=traces, samples=samples), directory)
    )


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _trace(trace_id: str, draw: random.Random, chars: int) -> dict[str, Any]:
    """Return a trace whose messages are longer than a result."""
    said = [{"role": "user", "content": _words(draw, 600)} for _ in range(chars // 600 + 2)]
    return {
        "trace_id": trace_id,
        "query": _words(draw, 100),
        "agent": "chat",
        "model": "student",
        "engine": "e",
        "result": "The answer is 32.",
        "outcome": "failure",
        "feedback": 0.1,
        "started_at": 1.0,
        "ended_at": 2.0,
        "total_tokens": 5,
        "total_latency_seconds": 0.5,
        "metadata": "{}",
        "messages": json.dumps(said),
    }


def _words(draw: random.Random, chars: int) -> str:
    """Return words that were never said before."""
    words = ("".join(draw.choices(_LETTERS, k=draw.randint(2, 9))) for _ in range(chars // 6))
    return " ".join(words)
