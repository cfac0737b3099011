"""Results of tools as JSON text under a limit.

Rule: what does not fit is left out item by item or cut inside a text, and said; the JSON text
itself is never cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.traces.cells import Json, compact, utf8

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ToolOutput", "cut", "encode", "error", "fill", "shorten", "size", "window"]

#: What a hidden rest of a text is shown as.
ELLIPSIS = "…"

#: What it takes to say that a text was cut; cutting less than that would save nothing.
_CUT_CHARS = 120


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What goes back to the teacher."""

    #: A JSON object.
    text: str
    is_error: bool = False


def encode(value: Json) -> str:
    """Return the value as the JSON text that is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def error(message: str) -> ToolOutput:
    """Return an error that the model can act upon."""
    return ToolOutput(encode({"error": utf8(message)}), is_error=True)


def size(value: Json) -> int:
    """Return how many characters the value takes as JSON."""
    return len(encode(value))


def cut(text: str, chars: int) -> str:
    """Return the longest beginning of the text that takes at most `chars` as JSON, quotes aside."""
    piece = text[: max(0, chars)]
    # Escapes make JSON longer than the text, by up to six times: the end is found by halving.
    low, high = 0, len(piece)
    if size(piece) - 2 <= chars:
        return piece
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(piece[:middle]) - 2 <= chars else (low, middle)
    return piece[:low]


def shorten(text: str, chars: int) -> str:
    """Return the text on one line, with an ellipsis where it goes on."""
    line = " ".join(text[: 2 * chars].split())
    piece = cut(line[:chars], 2 * chars)
    return piece if piece == line and len(text) <= 2 * chars else piece + ELLIPSIS


def window(value: Json, handle: str, chars: int) -> Json:
    """Return the value whole if it takes about `chars`, else the start of its text.

    What is cut says how long the whole is and which call of `read_more` goes on.
    """
    if size(value) <= chars + _CUT_CHARS:
        return value
    text = compact(value)
    piece = cut(text, chars)
    return {
        "cut_text": piece,
        "chars": len(text),
        "read_more": {"handle": handle, "offset": len(piece)},
    }


def fill(items: Iterable[Json], chars: int) -> list[Json]:
    """Return as many items as fit into `chars`; the first one always."""
    taken: list[Json] = []
    for item in items:
        chars -= size(item) + 1
        if taken and chars < 0:
            break
        taken.append(item)
    return taken
