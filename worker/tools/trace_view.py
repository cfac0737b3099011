"""One trace, shown in windows.

Rule: every step and every character of it can be reached: an outline says what there is, a window
shows whole steps, and what a window must cut names the call that shows the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.tools.handles import handle
from worker.tools.rendering import cut, fill, size, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.bundle import Bundle
    from worker.tools.arguments import Arguments
    from worker.traces import Step, StepHead, Trace
    from worker.traces.cells import Json

__all__ = ["TraceView"]

#: Parts of a first view's characters. What is left, at least a quarter, is for the steps.
_QUERY_PART, _RESULT_PART, _METADATA_PART, _OUTLINE_PART = 0.15, 0.15, 0.1, 0.3
#: Parts of the window that one step may take, so that the first one always fits.
_INPUT_PART, _OUTPUT_PART, _MORE_PART = 0.25, 0.4, 0.1
_MESSAGE_PART = 0.7

#: A window has room for a piece of a step, however little was asked for.
_WINDOW_CHARS_MIN = 400
#: What the numbers around a window take.
_FRAME_CHARS = 120
_NAME_CHARS_MAX = 100
_OUTLINE_LINE_CHARS_MAX = 120
#: Steps that are read at once: a window seldom shows more.
_CHUNK_STEPS = 8


class TraceView:
    """Shows one trace of a bundle."""

    def __init__(self, bundle: Bundle, trace: Trace) -> None:
        self._bundle = bundle
        self._clean = bundle.redactor
        self._trace = trace

    def show(self, asked: Arguments, chars: int) -> dict[str, Json]:
        """Return what get_trace was asked for, in about `chars` characters."""
        match asked["view"]:
            case "messages":
                return self._messages(asked, chars)
            case "outline":
                return self._outline_view(asked, chars)
            case _:
                return self._steps(asked, chars)

    def _steps(self, asked: Arguments, chars: int) -> dict[str, Json]:
        first: int = asked["step_from"]
        shown = self._whole_head(chars) if first == 0 else self._short_head()
        left = max(chars - size(shown) - _FRAME_CHARS, _WINDOW_CHARS_MIN)
        steps = fill(self._step_items(first, asked["step_limit"], left), left)
        return self._window(shown, "steps", steps, first, self._trace.steps)

    def _messages(self, asked: Arguments, chars: int) -> dict[str, Json]:
        first: int = asked["step_from"]
        shown = self._short_head()
        left = max(chars - size(shown) - _FRAME_CHARS, _WINDOW_CHARS_MIN)
        messages = self._trace.messages[first : first + asked["step_limit"]]
        items = (
            self._message_item(n, message, left) for n, message in enumerate(messages, start=first)
        )
        shown_messages = fill(items, left)
        return self._window(shown, "messages", shown_messages, first, len(self._trace.messages))

    def _outline_view(self, asked: Arguments, chars: int) -> dict[str, Json]:
        first: int = asked["step_from"]
        shown = self._short_head()
        left = chars - size(shown) - _FRAME_CHARS
        heads = self._bundle.traces.outline(
            self._trace.trace_id, first=first, limit=asked["step_limit"]
        )
        lines = fill((self._outline_line(head) for head in heads), left)
        return self._window(shown, "outline", lines, first, self._trace.steps)

    def _window(
        self, shown: dict[str, Json], name: str, items: list[Json], first: int, total: int
    ) -> dict[str, Json]:
        following = first + len(items)
        more = bool(items) and following < total
        return {
            **shown,
            name: items,
            "returned": len(items),
            "total": total,
            "truncated": more,
            **({"next_step": following} if more else {}),
        }

    def _short_head(self) -> dict[str, Json]:
        return {"untrusted_data": True, "trace_id": self._trace.trace_id}

    def _whole_head(self, chars: int) -> dict[str, Json]:
        trace = self._trace
        outline = fill(
            map(self._outline_line, self._bundle.traces.outline(trace.trace_id)),
            int(chars * _OUTLINE_PART),
        )
        return {
            **self._short_head(),
            **self._names(),
            "outcome": trace.outcome.value,
            **self._oddities(),
            "feedback": trace.feedback,
            "started_at": trace.started_at,
            "ended_at": trace.ended_at,
            "total_tokens": None if trace.total_tokens is None else round(trace.total_tokens),
            "total_latency_seconds": trace.total_latency_seconds,
            "metadata": self._part("trace.metadata", trace.metadata, chars * _METADATA_PART),
            "query": self._part("trace.query", trace.query, chars * _QUERY_PART),
            "result": self._part("trace.result", trace.result, chars * _RESULT_PART),
            "messages_total": len(trace.messages),
            "outline": outline,
            "outline_truncated": len(outline) < trace.steps,
        }

    def _names(self) -> dict[str, Json]:
        names = {"agent": self._trace.agent, "model": self._trace.model}
        return {key: self._name(name) for key, name in names.items()}

    def _oddities(self) -> dict[str, Json]:
        """Return what is not as it should be; nothing in a trace that is."""
        trace = self._trace
        odd: dict[str, Json] = {}
        if trace.recorded_outcome != trace.outcome.value:
            odd["recorded_outcome"] = self._name(trace.recorded_outcome)
        if trace.unparsable:
            odd["unparsable"] = list(trace.unparsable)
        if trace.copies > 1:
            odd["rows_with_this_id"] = trace.copies
        return odd

    def _outline_line(self, head: StepHead) -> str:
        words = f"{head.n} {self._name(head.step_type)} {self._name(head.label)}"
        return cut(f"{words.rstrip()} {head.chars}", _OUTLINE_LINE_CHARS_MAX)

    def _step_items(self, first: int, limit: int, chars: int) -> Iterator[Json]:
        for at in range(first, min(first + limit, self._trace.steps), _CHUNK_STEPS):
            count = min(_CHUNK_STEPS, first + limit - at)
            for step in self._bundle.traces.steps(self._trace.trace_id, first=at, limit=count):
                yield self._step_item(step, chars)

    def _step_item(self, step: Step, chars: int) -> Json:
        where = f"trace.step.{step.n}"
        item: dict[str, Json] = {"n": step.n, "step_type": self._name(step.step_type)}
        if step.step_index != step.n:
            item["step_index"] = self._name(str(step.step_index))
        if step.duration_seconds:
            item["duration_seconds"] = step.duration_seconds
        if step.unparsable:
            item["unparsable"] = list(step.unparsable)
        parts = (
            ("input", step.input, _INPUT_PART),
            ("output", step.output, _OUTPUT_PART),
            ("metadata", step.metadata, _MORE_PART),
        )
        for name, value, part in parts:
            if value not in (None, {}):
                item[name] = self._part(f"{where}.{name}", value, chars * part)
        return item

    def _message_item(self, n: int, message: Json, chars: int) -> Json:
        shown = self._part(f"trace.message.{n}", message, chars * _MESSAGE_PART)
        return {"n": n, "message": shown}

    def _part(self, what: str, value: Json, chars: float) -> Json:
        return window(self._clean.value(value), handle(what, self._trace.trace_id), int(chars))

    def _name(self, text: str) -> str:
        return cut(self._clean.text(text), _NAME_CHARS_MAX)
