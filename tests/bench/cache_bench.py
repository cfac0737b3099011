"""What a session of thirty turns costs, with the prompt cache and without, on the simulator's bill.

Rule: tools, transcript, adapter, HTTP and the bill are the real ones, and nothing is warm at first; only
the replies are written beforehand, so that every variant is the same conversation. The simulator takes
a token for three bytes, as the trials did; a bill of the provider's will differ, its ratios hardly.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.unit.bundle.homes import pack_and_open
from worker.core.caching import cache_uses, sent_prompt
from worker.core.events import BundlePrepared, CallAnswered, SessionOpened, TeacherReplied
from worker.core.machine import fold
from worker.core.transcript import exploring_request
from worker.core.values import Limits, Payload, Purpose, SessionSpec, Text, ToolCall
from worker.embedded.teacher.server import SimulatedTeacher
from worker.steps.workspace import Workspace
from worker.teacher.anthropic import AnthropicTeacher
from worker.testing import ManualClock
from worker.tools import ReadingTools
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from worker.bundle import Bundle
    from worker.core.events import Event
    from worker.core.teaching import TeacherReply, TeacherRequest

__all__ = ["SLOW_MS", "TURNS", "Recorded", "cost_nusd", "recorded", "trimmed"]

TURNS = 30
#: Turns that call two tools at once: three in ten.
_DOUBLE_EVERY = 10, frozenset({1, 4, 7})
_RESULT_BYTES = range(10_000, 20_001)
#: A result that takes less of what was asked for was all there was.
_FULL = 0.9
#: With the calls about 800 tokens a turn, three bytes each.
_SAID_BYTES = 2_200
#: From one request to the next: the teacher's half a minute, and its reading tools.
_TURN_MS = 30_000
#: A batch of a slow student: longer than the short life of an entry.
SLOW_MS = 480_000
#: In a trimmed session the teacher reads on in every third result.
_READS_ON_EVERY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A conversation: what the teacher says, turn by turn, and what its calls come back with."""

    brief: str
    replies: tuple[tuple[dict[str, Any], ...], ...]
    #: By `tool_use` id.
    results: dict[str, str]

    @property
    def result_bytes(self) -> list[int]:
        """The size of each result."""
        return [len(text.encode()) for text in self.results.values()]


@dataclass(frozen=True, slots=True)
class _Wish:
    tool: str
    arguments: dict[str, Any]


# ------------------------------------------------------------------------------------ the sessions


@cache
def recorded() -> Recorded:
    """Return a session whose results take 10 to 20 KB each, as the reference's do."""
    with _airline() as bundle:
        tools = ReadingTools(bundle, reveal_references=False)
        wishes = _large_wishes(bundle, tools)
        turns = [
            [next(wishes) for _ in range(2 if _is_double(number) else 1)] for number in range(TURNS)
        ]
        return _told(bundle, tools, turns)


@cache
def trimmed() -> Recorded:
    """Return the same session with results of the usual size, and reading on in some of them."""
    whole = recorded()
    with _airline() as bundle:
        tools = ReadingTools(bundle, reveal_references=False)
        return _told(bundle, tools, list(_small_turns(whole, tools)))


@contextmanager
def _airline() -> Generator[Bundle]:
    """Open the recorded airline home.

    Raises:
        RuntimeError: It is not on this machine.
    """
    home = Path(__file__).parents[3] / "shared" / "data" / "tau-airline-home"
    if not home.is_dir():
        raise RuntimeError("needs ../shared/data/tau-airline-home beside the project")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        pack_and_open(home, Path(folder)) as bundle,
    ):
        yield bundle


def _is_double(turn: int) -> bool:
    every, which = _DOUBLE_EVERY
    return turn % every in which


def _large_wishes(bundle: Bundle, tools: ReadingTools) -> Iterator[_Wish]:
    """Yield calls whose results take evenly drawn sizes, and are not shorter than was asked for."""
    chance = random.Random(30)  # noqa: S311 - sizes, not secrets
    sizes = (chance.choice(_RESULT_BYTES) for _ in itertools.count())
    chars = next(sizes)
    for wish in _any_wishes(bundle):
        arguments = {**wish.arguments, "max_chars": chars}
        size = len(tools.call(wish.tool, arguments).text.encode())
        if size in _RESULT_BYTES and size > chars * _FULL:
            yield _Wish(wish.tool, arguments)
            chars = next(sizes)


def _any_wishes(bundle: Bundle) -> Iterator[_Wish]:
    yield _Wish("list_personal_benchmark", {"limit": 200})
    for outcome in ("failure", "success"):
        yield _Wish("list_traces", {"outcome": outcome, "limit": 100})
    for summary in sorted(bundle.traces.list(limit=200).summaries, key=lambda s: -s.steps):
        yield _Wish("get_trace", {"trace_id": summary.trace_id})
        yield _Wish("get_trace", {"trace_id": summary.trace_id, "view": "messages"})
    for question in ("refund", "baggage", "cabin upgrade", "certificate", "cancel the flight"):
        yield _Wish("search_traces", {"query": question, "limit": 50})


def _small_turns(whole: Recorded, tools: ReadingTools) -> Iterator[list[_Wish]]:
    """Yield the same turns without sizes; every third result is read on a turn later."""
    number = 0
    left: list[_Wish] = []
    for blocks in whole.replies:
        wishes = [
            _Wish(
                block["name"],
                {key: value for key, value in block["input"].items() if key != "max_chars"},
            )
            for block in blocks
            if block["type"] == "tool_use"
        ]
        yield [*wishes, *left]
        left.clear()
        for wish in wishes:
            number += 1
            more = _next_part(wish, json.loads(tools.call(wish.tool, wish.arguments).text))
            left += [more] if more is not None and number % _READS_ON_EVERY == 0 else []


def _next_part(wish: _Wish, result: dict[str, Any]) -> _Wish | None:
    for field, argument in (("next_step", "step_from"), ("next_offset", "offset")):
        if field in result:
            return _Wish(wish.tool, {**wish.arguments, argument: result[field]})
    return None


def _told(bundle: Bundle, tools: ReadingTools, turns: Sequence[Sequence[_Wish]]) -> Recorded:
    """Return the conversation of these calls."""
    thoughts = (bundle.agent_prompt("airline") or "") * 40
    replies: list[tuple[dict[str, Any], ...]] = []
    results: dict[str, str] = {}
    for number, wishes in enumerate(turns):
        said = thoughts[number * 997 :].encode()[:_SAID_BYTES].decode(errors="ignore")
        calls = [
            {
                "type": "tool_use",
                "id": f"toolu_{number:02d}_{index}",
                "name": wish.tool,
                "input": wish.arguments,
            }
            for index, wish in enumerate(wishes)
        ]
        replies.append(({"type": "text", "text": said}, *calls))
        for call, wish in zip(calls, wishes, strict=True):
            results[str(call["id"])] = tools.call(wish.tool, wish.arguments).text
    return Recorded(brief=Workspace(bundle).brief, replies=tuple(replies), results=results)


# ---------------------------------------------------------------------------------------- the bill


@cache
def cost_nusd(model: str, session: Callable[[], Recorded], how: str, *, slow_every: int = 0) -> int:
    """Return what the simulator bills for a session.

    Args:
        model: Whose prices.
        session: `recorded` or `trimmed`.
        how: `ours`; `uncached`: the same requests without breakpoints; `reference`: the reference's
            loop, which sends texts where we send blocks, and no breakpoints; `short`: as ours, but
            entries never live longer than five minutes.
        slow_every: Every so many turns a student batch takes `SLOW_MS`; 0 for never.
    """
    played = _play(model, session(), _CHANGES[how], slow_every=slow_every)
    uses = cache_uses(played.replies)
    assert len(uses) == TURNS
    if how in {"uncached", "reference"}:
        assert not any(use.read_tokens or use.written_tokens for use in uses)
    elif not slow_every:
        assert [use.miss for use in uses[1:]] == [None] * (TURNS - 1)
    return played.cost_nusd


@dataclass(frozen=True, slots=True)
class _Played:
    cost_nusd: int
    replies: tuple[TeacherReplied, ...]


def _play(
    model: str,
    session: Recorded,
    change: Callable[[TeacherRequest], TeacherRequest],
    *,
    slow_every: int,
) -> _Played:
    clock = ManualClock()
    with SimulatedTeacher(clock=clock) as teacher:
        adapter = AnthropicTeacher(base_url=teacher.url, api_key=teacher.api_key)
        try:
            events = _opened(model, session)
            for number, blocks in enumerate(session.replies, start=1):
                request = exploring_request(fold(events), anthropic_tools(), _text_of)
                teacher.desk.script.play(_script(blocks))
                reply = adapter.send(
                    change(request),
                    on_answer=lambda _: None,
                    on_start=lambda _: None,
                    stopped=lambda: False,
                )
                events += _turn(number, change(request), reply, session, clock.now_ms())
                is_slow = slow_every and number % slow_every == 0
                clock.advance(SLOW_MS if is_slow else _TURN_MS)
        finally:
            adapter.close()
        assert teacher.desk.crashes == []
        replies = tuple(event for event in events if isinstance(event, TeacherReplied))
        return _Played(teacher.bill.total_nano_usd, replies)


def _opened(model: str, session: Recorded) -> list[Event]:
    spec = SessionSpec(
        session_id="s",
        bundle_uri="b",
        student="default",
        teacher="default",
        judge="default",
        teacher_model=model,
        judge_model=model,
        tenant="t",
        campaign="c",
        trigger="bench",
        limits=Limits(max_turns=TURNS),
    )
    brief = BundlePrepared(brief=Text(text=session.brief), traces=200, tasks=50)
    return [SessionOpened(spec=spec), brief]


def _turn(
    number: int, request: TeacherRequest, reply: TeacherReply, session: Recorded, asked_ms: int
) -> list[Event]:
    """Return the events of a turn: what was said, and the results."""
    calls = [block for block in reply.content if block["type"] == "tool_use"]
    said = TeacherReplied(
        turn=number,
        purpose=Purpose.EXPLORE,
        content=Text(text=json.dumps(reply.content, ensure_ascii=False)),
        stop_reason=reply.stop_reason,
        calls=tuple(
            ToolCall(
                call_id=call["id"], tool=call["name"], arguments_json=json.dumps(call["input"])
            )
            for call in calls
        ),
        usage=reply.usage,
        model=reply.model,
        sent=sent_prompt(request, asked_ms=asked_ms),
    )
    answers = [
        CallAnswered(turn=number, index=index, result=Text(text=session.results[call["id"]]))
        for index, call in enumerate(calls)
    ]
    return [said, *answers]


def _script(blocks: Sequence[dict[str, Any]]) -> Any:
    from worker.embedded.teacher.script import ScriptBody, ScriptedReply  # noqa: PLC0415

    return ScriptBody(replies=[ScriptedReply(blocks=list(blocks))])


def _text_of(payload: Payload) -> str:
    assert isinstance(payload, Text)
    return payload.text


def _without_breakpoints(request: TeacherRequest) -> TeacherRequest:
    def bare(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: b[key] for key in b if key != "cache_control"} for b in blocks]

    messages = [{**message, "content": bare(message["content"])} for message in request.messages]
    return replace(request, system=bare(request.system), messages=messages)


def _as_the_reference(request: TeacherRequest) -> TeacherRequest:
    """Return what the reference's loop sends: its whole history as texts, nothing to be cached.

    It runs a turn's calls one after another, which is time and not money; it cuts results at 20,000
    characters, which none of these has.
    """
    plain = _without_breakpoints(request)
    first, *rest = plain.messages
    return replace(plain, messages=[{**first, "content": first["content"][0]["text"]}, *rest])


def _short_lived(request: TeacherRequest) -> TeacherRequest:
    def short(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        mark = {"type": "ephemeral"}
        return [{**b, "cache_control": mark} if "cache_control" in b else b for b in blocks]

    messages = [{**message, "content": short(message["content"])} for message in request.messages]
    return replace(request, system=short(request.system), messages=messages)


_CHANGES: dict[str, Callable[[TeacherRequest], TeacherRequest]] = {
    "ours": lambda request: request,
    "uncached": _without_breakpoints,
    "reference": _as_the_reference,
    "short": _short_lived,
}
