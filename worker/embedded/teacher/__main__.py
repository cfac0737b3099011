"""The simulated teacher as a process of its own: `python -m worker.embedded.teacher --port 8001`.

Rule: it prints one line when it is ready, `ready http://127.0.0.1:8001`, and ends on SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from worker.embedded.teacher import (
    DEFAULT_API_KEY,
    BucketLimits,
    Pace,
    Plan,
    SimulatedTeacher,
)
from worker.embedded.tether import die_with_parent
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["main"]

#: Instead of `--api-key`, which other users of the machine could read.
_KEY_VARIABLE = "SIMULATED_TEACHER_API_KEY"


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.die_with_parent:
        die_with_parent(os.getppid())
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        teacher = _teacher(arguments)
    except (Misconfigured, OSError, ValueError) as exc:
        sys.stderr.write(f"cannot start the simulated teacher: {exc}\n")
        return 2
    with teacher:
        sys.stdout.write(f"ready {teacher.url}\n")
        sys.stdout.flush()
        ended.wait()
    return 0


def _teacher(arguments: argparse.Namespace) -> SimulatedTeacher:
    return SimulatedTeacher(
        arguments.port,
        host=arguments.host,
        api_key=arguments.api_key,
        answer_key=arguments.answer_key,
        judge_key=arguments.judge_key,
        bill_path=arguments.bill,
        plan=Plan(tasks_per_category=arguments.tasks_per_category, repeats=arguments.repeats),
        pace=Pace(first_ms=arguments.first_ms, event_ms=arguments.event_ms),
        limits=BucketLimits(
            requests_per_minute=arguments.rpm,
            input_tokens_per_minute=arguments.itpm,
            output_tokens_per_minute=arguments.otpm,
            burst_seconds=arguments.burst_s,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker.embedded.teacher",
        description="A simulated teacher: speaks the Anthropic Messages API, costs nothing.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="where to listen; 0 takes a free port")
    add("--host", default="127.0.0.1", help="address to listen on")
    key = os.environ.get(_KEY_VARIABLE, DEFAULT_API_KEY)
    add("--api-key", default=key, help=f"what clients must send (or set {_KEY_VARIABLE})")
    add("--answer-key", type=Path, help='JSON array of {"query", "answer"} for its own runs')
    add("--judge-key", type=Path, help='JSON array of {"output", "score"} for the judge')
    add("--bill", type=Path, help="append every line of the bill to this file")
    plan, pace = Plan(), Pace()
    add("--tasks-per-category", type=int, default=plan.tasks_per_category,
        help="how many tasks of a category it runs the student on")  # fmt: skip
    add("--repeats", type=int, default=plan.repeats, help="how often it runs each of them")
    add("--first-ms", type=int, default=pace.first_ms, help="wait before an answer begins")
    add("--event-ms", type=int, default=pace.event_ms, help="wait between events of a stream")
    add("--rpm", type=int, help="requests a minute for each key and model; not limited by default")
    add("--itpm", type=int, help="input tokens a minute that were not read from the cache")
    add("--otpm", type=int, help="output tokens a minute")
    add("--burst-s", type=float, default=60.0, help="seconds of its rate that a bucket holds")
    add("--die-with-parent", action="store_true", help="end when the parent process ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
