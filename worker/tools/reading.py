"""The tools that read a bundle.

Rule: every text of the bundle is cleaned of credentials whole, before a piece of it is cut out, and
comes back as data. No argument is a path, and none raises.
"""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from worker.core.results import HANDLES, SHOWN_CHARS
from worker.tools.arguments import BadArguments, near, validate_arguments
from worker.tools.handles import FORMS, find_text, handle
from worker.tools.rendering import ToolOutput, cut, encode, error, fill, shorten, size, window
from worker.tools.schemas import CHARS_MAX, TOOLS, ToolKind
from worker.tools.trace_view import TraceView
from worker.traces import Order, TraceFilter, TraceOutcome
from worker.traces.reading import plain_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from worker.bundle.benchmark import Sample
    from worker.bundle.open import Bundle
    from worker.bundle.redaction import Redactor
    from worker.tools.arguments import Arguments
    from worker.traces import Hit, HitPage, Summary
    from worker.traces.cells import Json

__all__ = ["ReadingTools"]

_READ_MORE = "read_more"
_QUERY_CHARS = 100
_TASK_CHARS = 160
_DESCRIPTION_CHARS = 200
_REFERENCE_CHARS = 400
_NAME_CHARS_MAX = 100
#: A snippet begins this far before the word that was found.
_BEFORE_CHARS = 50
_SNIPPET_CHARS = 160
#: Known names that an error lists.
_NAMES_MAX = 20
#: What the numbers around a page take.
_FRAME_CHARS = 120
#: What is said beside a single text: its name, that it was cut, and how to read on.
_TEXT_FRAME_CHARS = 200


class _RefusedError(Exception):
    """A call that cannot be answered, in words that the model can act upon."""


class ReadingTools:
    """Answers the teacher's reading calls from one bundle. Any number of threads may use it."""

    def __init__(self, bundle: Bundle, *, reveal_references: bool) -> None:
        self._bundle = bundle
        self._clean = bundle.redactor
        self._reveal = reveal_references
        # Agents, models and outcomes are the same few in every item of every list.
        self._name = lru_cache(maxsize=512)(partial(_clean_name, bundle.redactor))

    def call(
        self, name: str, arguments: object, *, results: Callable[[str], str | None] | None = None
    ) -> ToolOutput:
        """Return the result of a call, or an error that the teacher can repair.

        Args:
            name: The tool, as called.
            arguments: A JSON object or its text, unchecked.
            results: Finds what `read_more` may name besides the bundle's texts: the session's own
                results.

        Raises:
            BundleInvalid: The bundle's files can no longer be read. Never for an argument.
        """
        checked = validate_arguments(name, arguments)
        if isinstance(checked, BadArguments):
            return self._error(checked.message)
        if TOOLS[name].kind is not ToolKind.READ:
            return self._error(f"{name} does not read a bundle")
        try:
            found = results(checked["handle"]) if results and name == _READ_MORE else None
            if found is not None:
                return self._fitted(lambda _, asked, chars: _piece(found, asked, chars), checked)
            return self._fitted(_METHODS[name], checked)
        except _RefusedError as refused:
            return self._error(str(refused))

    def _fitted(self, tool: _Method, asked: Arguments) -> ToolOutput:
        """Call the tool for a result of about the size that was asked for, never above the limit."""
        chars: int = asked.get("max_chars", SHOWN_CHARS)
        text = encode(tool(self, asked, chars))
        # Escapes and long names may make a result up to six times as long as was planned.
        while len(text) > CHARS_MAX and chars:
            chars //= 2
            text = encode(tool(self, asked, chars))
        return ToolOutput(text)

    def _error(self, message: str) -> ToolOutput:
        return error(self._clean.text(message))

    # ------------------------------------------------------------------------------------ traces

    def _list_traces(self, asked: Arguments, chars: int) -> dict[str, Json]:
        offset: int = asked["offset"]
        page = self._bundle.traces.list(
            _filter(asked), order=Order(asked["sample"]), offset=offset, limit=asked["limit"]
        )
        items = (self._summary(summary) for summary in page.summaries)
        return {**_page("traces", items, offset, page.total, chars), **self._known_agents(asked)}

    def _search_traces(self, asked: Arguments, chars: int) -> dict[str, Json]:
        offset: int = asked["offset"]
        page = self._bundle.traces.search(
            asked["query"], _filter(asked), offset=offset, limit=asked["limit"]
        )
        if page is None:
            raise _RefusedError(
                f"the query {cut(asked['query'], 80)!r} holds no word to search for: "
                "name things that may stand in a trace"
            )
        items = (self._hit(hit, page) for hit in page.hits)
        shown = _page("traces", items, offset, page.total, chars)
        if not page.total_is_exact:
            shown["total_is_at_least"] = True
        if not page.ranked:
            shown["order"] = "newest first: these words are too common to rank by"
        return {**shown, **self._words(page)}

    def _get_trace(self, asked: Arguments, chars: int) -> dict[str, Json]:
        trace = self._bundle.traces.get(asked["trace_id"])
        if trace is None:
            close = ", ".join(
                repr(near_id) for near_id in self._bundle.traces.near(asked["trace_id"])
            )
            raise _RefusedError(
                f"there is no trace {cut(asked['trace_id'], 80)!r}; by name the closest are "
                f"{close or 'none: the store is empty'}. Trace ids come from list_traces"
            )
        return TraceView(self._bundle, trace).show(asked, chars)

    def _summary(self, summary: Summary) -> dict[str, Json]:
        item: dict[str, Json] = {
            "trace_id": summary.trace_id,
            "query": shorten(self._clean.text(summary.query), _QUERY_CHARS),
            "agent": self._name(summary.agent),
            "model": self._name(summary.model),
            "outcome": summary.outcome.value,
            "feedback": summary.feedback,
            "started_at": summary.started_at,
            "steps": summary.steps,
        }
        if summary.recorded_outcome != summary.outcome.value:
            item["recorded_outcome"] = self._name(summary.recorded_outcome) or None
        if summary.task_id:
            item["task_id"] = self._name(summary.task_id)
        return item

    def _hit(self, hit: Hit, page: HitPage) -> Json:
        text = plain_text(self._clean.value(hit.value))
        start = max(0, page.locator.start(text) - _BEFORE_CHARS)
        snippet = shorten(text[start:], _SNIPPET_CHARS)
        summary = self._summary(hit.summary)
        return {
            **{key: summary[key] for key in ("trace_id", "query", "agent", "outcome", "feedback")},
            "matched_in": hit.place or None,
            "snippet": f"…{snippet}" if start else snippet,
        }

    def _words(self, page: HitPage) -> dict[str, Json]:
        """Return the words that did not count, and why; nothing where all did."""
        groups = {"too_common": page.words_ignored, "not_found": page.words_unknown}
        said: dict[str, Json] = {
            name: [self._name(word) for word in islice(words, _NAMES_MAX)]
            for name, words in groups.items()
            if words
        }
        return {"words_not_counted": said} if said else {}

    def _known_agents(self, asked: Arguments) -> dict[str, Json]:
        """Return the agents' names where the filter names none of them."""
        agents = self._bundle.traces.report.agents
        wanted = asked.get("agent")
        if wanted is None or wanted.lower() in map(str.lower, agents):
            return {}
        return {"known_agents": self._names(agents)}

    # --------------------------------------------------------------------------- texts and lists

    def _read_more(self, asked: Arguments, chars: int) -> dict[str, Json]:
        text = find_text(self._bundle, asked["handle"], reveal_references=self._reveal)
        if text is None:
            raise _RefusedError(
                f"the handle {cut(asked['handle'], 120)!r} names nothing; handles are {FORMS}, "
                f"{HANDLES}"
            )
        return _piece(text, asked, chars)

    def _get_current_config(self, _asked: Arguments, chars: int) -> dict[str, Json]:
        text = self._clean.text(self._bundle.config_text)
        return {
            "untrusted_data": True,
            "config_toml": window(text, handle("config"), chars - _TEXT_FRAME_CHARS),
        }

    def _get_agent_prompt(self, asked: Arguments, chars: int) -> dict[str, Json]:
        name: str = asked["agent_name"]
        prompt = self._bundle.agent_prompt(name)
        if prompt is None:
            raise _RefusedError(
                f"there is no system prompt of an agent {cut(name, 80)!r}"
                f"{near(name, list(self._bundle.agents))}. "
                f"Agents with a prompt: {self._listed(self._bundle.agents)}"
            )
        shown = window(self._clean.text(prompt), handle("prompt", name), chars - _TEXT_FRAME_CHARS)
        return {"untrusted_data": True, "agent_name": name, "system_prompt": shown}

    def _get_tool_description(self, asked: Arguments, chars: int) -> dict[str, Json]:
        name: str = asked["tool_name"]
        tool = self._bundle.tool_descriptions.get(name)
        if tool is None:
            tools = self._tool_names()
            undescribed = "it is called in the traces, but the home does not describe it"
            why = undescribed if name in tools else f"no such tool{near(name, tools)}"
            raise _RefusedError(f"there is no description of {cut(name, 80)!r}: {why}")
        text = self._clean.text(tool.description)
        shown = window(text, handle("tool", name), chars - _TEXT_FRAME_CHARS)
        return {"untrusted_data": True, "tool_name": name, "description": shown}

    def _list_available_tools(self, asked: Arguments, chars: int) -> dict[str, Json]:
        offset: int = asked["offset"]
        names = self._tool_names()
        items = (self._tool(name) for name in names[offset:])
        return _page("tools", items, offset, len(names), chars)

    def _tool(self, name: str) -> Json:
        tool = self._bundle.tool_descriptions.get(name)
        calls = self._bundle.traces.report.tool_calls.get(name, {})
        return {
            "name": self._name(name),
            "description": shorten(self._clean.text(tool.description), _DESCRIPTION_CHARS)
            if tool
            else None,
            "category": (self._name(tool.category) or None) if tool else None,
            "agents": self._names((tool.agents if tool else ()) or calls),
            "calls_in_traces": sum(calls.values()),
        }

    def _tool_names(self) -> list[str]:
        return sorted({*self._bundle.tool_descriptions, *self._bundle.traces.report.tool_calls})

    def _list_personal_benchmark(self, asked: Arguments, chars: int) -> dict[str, Json]:
        offset: int = asked["offset"]
        wanted = asked.get("category")
        samples = [
            sample
            for sample in self._bundle.benchmark.samples
            if wanted is None or sample.category == wanted
        ]
        items = map(self._task, samples[offset : offset + asked["limit"]])
        page = _page("tasks", items, offset, len(samples), chars)
        known = self._bundle.report.categories
        return page if samples else {**page, "known_categories": self._names(known)}

    def _task(self, sample: Sample) -> Json:
        item: dict[str, Json] = {
            "task_id": sample.task_id,
            "query": shorten(self._clean.text(sample.query), _TASK_CHARS),
            "category": self._name(sample.category),
        }
        if self._reveal:
            reference = self._clean.text(sample.reference_answer)
            more = handle("task.reference", sample.task_id)
            item["reference_answer"] = window(reference, more, _REFERENCE_CHARS)
        return item

    # ------------------------------------------------------------------------------------- names

    def _names(self, names: Iterable[str]) -> list[Json]:
        return [self._name(name) for name in islice(names, _NAMES_MAX)]

    def _listed(self, names: Iterable[str]) -> str:
        return ", ".join(repr(name) for name in self._names(names)) or "none"


_Method: TypeAlias = "Callable[[ReadingTools, Arguments, int], dict[str, Json]]"

#: Not in the instance: a bundle is given back as soon as nobody holds its tools, and a method that
#: an object holds of itself would keep it until the garbage collector comes round.
_METHODS: Mapping[str, _Method] = {
    name: getattr(ReadingTools, f"_{name}")
    for name, tool in TOOLS.items()
    if tool.kind is ToolKind.READ
}


def _clean_name(redactor: Redactor, text: str) -> str:
    return cut(redactor.text(text), _NAME_CHARS_MAX)


def _filter(asked: Arguments) -> TraceFilter:
    outcome: str | None = asked.get("outcome")
    return TraceFilter(
        agent=asked.get("agent"),
        outcome=None if outcome is None else TraceOutcome.of(outcome),
        min_feedback=asked.get("min_feedback"),
        max_feedback=asked.get("max_feedback"),
    )


def _piece(text: str, asked: Arguments, chars: int) -> dict[str, Json]:
    """Return the part of a text that `read_more` asks for."""
    offset: int = asked["offset"]
    if offset > len(text):
        raise _RefusedError(f"offset {offset} is past the end: the text has {len(text)} characters")
    piece = cut(text[offset:], chars - size(asked["handle"]) - _FRAME_CHARS) or text[offset:][:1]
    following = offset + len(piece)
    more = following < len(text)
    return {
        "untrusted_data": True,
        "handle": asked["handle"],
        "offset": offset,
        "chars": len(text),
        "text": piece,
        "truncated": more,
        **({"next_offset": following} if more else {}),
    }


def _page(name: str, items: Iterable[Json], offset: int, total: int, chars: int) -> dict[str, Json]:
    """Return as many items as fit, with how many there are and where to go on."""
    shown = fill(items, chars - _FRAME_CHARS)
    following = offset + len(shown)
    more = bool(shown) and following < total
    return {
        "untrusted_data": True,
        name: shown,
        "returned": len(shown),
        "total": total,
        "truncated": more,
        **({"next_offset": following} if more else {}),
    }
