"""What the rows of a store say, as text and numbers.

Rule: this is the one place that knows the shape of a step's JSON; the index and the reader share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.traces.cells import compact, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.traces.cells import Json, JsonCell

__all__ = ["message_texts", "messages_of", "plain_text", "task_of", "tool_of"]

#: Longer ids are cut: they are names, and somebody put a text there by mistake.
_NAME_CHARS_MAX = 200

#: JSON in a string in JSON is read this deep; a bound, so that no text can exhaust the stack.
_UNFOLD_MAX = 2


def plain_text(value: Json) -> str:
    """Return the words of a value without its keys and punctuation, JSON within JSON included."""
    return "\n".join(_leaves(value))


def tool_of(step_type: str, step_input: Json) -> str:
    """Return the name of the tool that a step called; empty where it called none."""
    if "tool" not in step_type.lower() or not isinstance(step_input, dict):
        return ""
    for key in ("tool", "tool_name", "name"):
        name = step_input.get(key)
        if isinstance(name, str) and name:
            return name[:_NAME_CHARS_MAX]
    return ""


def task_of(metadata: Json) -> str:
    """Return the benchmark task that a trace's metadata names; empty where it names none."""
    name = metadata.get("task_id") if isinstance(metadata, dict) else None
    return name[:_NAME_CHARS_MAX] if isinstance(name, str) else ""


def messages_of(cell: JsonCell) -> tuple[Json, ...]:
    """Return the messages of a conversation; one that does not parse is one message of raw text."""
    if isinstance(cell.value, list):
        return tuple(cell.value)
    return () if cell.value in (None, {}, "") else (cell.value,)


def message_texts(messages: Sequence[Json]) -> Iterator[tuple[int, str]]:
    """Yield the place and the text of what users said.

    Everything else in a conversation is in the steps or, like the system prompt, in every trace.
    """
    for n, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            yield n, plain_text(message.get("content"))


def _leaves(value: Json, unfold: int = _UNFOLD_MAX) -> Iterator[str]:
    match value:
        case None | bool():
            return
        case str():
            yield from _text_leaves(value, unfold)
        case list():
            for item in value:
                yield from _leaves(item, unfold)
        case dict():
            for item in value.values():
                yield from _leaves(item, unfold)
        case _:
            yield compact(value)


def _text_leaves(text: str, unfold: int) -> Iterator[str]:
    # Tools' arguments and results are often JSON in a string; its words are what matters.
    inner = read_json(text) if unfold and text[:1] in ("{", "[") else None
    if inner is not None and isinstance(inner.value, (list, dict)):
        yield from _leaves(inner.value, unfold - 1)
    else:
        yield text
