"""How fast a large trace store is read through the tools.

Rule: the store goes the whole way (packed, unpacked, indexed, redacted), and the questions are what
a teacher asks: common words and rare ones, filters, runs of words, first views and long windows.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.large_store import build_large_store, draw_words
from worker.bundle import open_bundle, pack
from worker.tools import ReadingTools

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["P95_TARGET_MS", "STEPS", "TOOLS", "TRACES", "latencies_ms", "p95"]

#: At most this for each of the three tools.
P95_TARGET_MS = 20.0
TRACES, STEPS = 20_000, 12
TOOLS = ("list_traces", "search_traces", "get_trace")
_CALLS = 300


def latencies_ms(
    directory: Path, *, traces: int = TRACES, steps: int = STEPS, calls: int = _CALLS
) -> dict[str, list[float]]:
    """Return how long each call took, by tool, in milliseconds."""
    home = directory / "home"
    home.mkdir()
    build_large_store(home / "traces.db", traces, steps)
    sample = {"trace_id": "task-00", "query": "?"}
    (home / "benchmark.json").write_text(json.dumps({"samples": [sample]}), encoding="utf-8")
    packed = pack(home, directory / "packed")
    chance = random.Random("questions")  # noqa: S311
    with open_bundle(packed.path, directory / "bundle") as bundle:
        tools = ReadingTools(bundle, reveal_references=False)
        return {
            name: [_timed_ms(tools, name, asked) for asked in _asked(name, chance, traces, calls)]
            for name in TOOLS
        }


def p95(times: list[float]) -> float:
    """Return the time that 95 of 100 calls stay within."""
    return sorted(times)[int(len(times) * 0.95)]


def _timed_ms(tools: ReadingTools, name: str, arguments: dict[str, object]) -> float:
    began_s = time.perf_counter()
    output = tools.call(name, arguments)
    took_ms = (time.perf_counter() - began_s) * 1_000
    assert not output.is_error, output.text
    return took_ms


def _asked(
    name: str, chance: random.Random, traces: int, calls: int
) -> Iterator[dict[str, object]]:
    filters: tuple[dict[str, object], ...] = (
        {},
        {"outcome": "failure"},
        {"agent": "agent-1", "min_feedback": 0.5},
    )
    for number in range(calls):
        match name:
            case "list_traces":
                order = chance.choice(("newest", "oldest", "spread"))
                offset = chance.randrange(traces // 10)
                yield {"sample": order, "offset": offset, **chance.choice(filters)}
            case "search_traces":
                yield {"query": _question(chance, number), **chance.choice(filters)}
            case _:
                trace_id = f"trace-{chance.randrange(traces):06}"
                yield {"trace_id": trace_id, "max_chars": chance.choice((4_000, 20_000))}


def _question(chance: random.Random, number: int) -> str:
    fixed = ("flight", "why did the user want a refund for the flight?", "get_user_details failed")
    return fixed[number // 2 % 3] if number % 2 else " ".join(draw_words(chance, 8))


def _main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, times in latencies_ms(Path(directory)).items():
            print(f"{name}: p95 {p95(times):.1f} ms (target {P95_TARGET_MS:.0f} ms)")


if __name__ == "__main__":
    _main()
