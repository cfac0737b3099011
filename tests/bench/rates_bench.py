"""Eight worker processes under one limit of requests a minute, for one minute.

Rule: the simulated teacher keeps the limit and holds two seconds of it, so that whoever calls too
fast is refused; what it received is counted from its bill.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import celery

from tests.bench.noop_app import MARKS
from worker.embedded.fleet import Fleet
from worker.embedded.process import log_shows
from worker.embedded.stack import EmbeddedStack

__all__ = ["LIMIT_RPM", "MINUTE_S", "WORKERS", "OneMinute", "one_minute"]

LIMIT_RPM = 300
WORKERS = 8
#: Steps at a time in each: enough that all of them ask at once.
THREADS = 4
#: More calls wait than can be made.
SESSIONS, RUNS = 4, 150
MINUTE_S = 60.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class OneMinute:
    """What the provider saw in the minute after the first call."""

    calls: int
    refused: int
    #: The longest time between two calls, in ms.
    longest_gap_ms: int


def one_minute(directory: Path) -> OneMinute:
    """Let the fleet call for a minute; return what was received."""
    with EmbeddedStack(directory / "stack", llama=False) as stack:
        fleet = Fleet(stack)
        url = fleet.add_simulated_teacher(
            options=["--rpm", str(LIMIT_RPM), "--burst-s", "2", "--first-ms", "300"]
        )
        fleet.set(
            TEACHERS__DEFAULT__REQUESTS_PER_MINUTE=str(LIMIT_RPM),
            BUDGETS=json.dumps({"fleet": 1_000.0}),
        )
        for number in range(WORKERS):
            environment = {
                **fleet.environment,
                MARKS: str(directory / "marks"),
                "PYTHONPATH": str(_ROOT),
            }
            stack.begin_process(
                f"rates-{number}", _argv(number), environment, ready=log_shows(r"@.* ready\.")
            )
        stack.wait_ready()
        settings = fleet.settings()
        app = celery.Celery("bench", broker=settings.broker, set_as_current=False)
        options = {"global_keyprefix": f"{settings.key_prefix}:"}
        app.conf.broker_transport_options = options
        for number in range(SESSIONS):
            args = (f"rate-{number}", {"turns": 2, "runs": RUNS})
            app.send_task("noop.open", args=args, queue="control", ignore_result=True)
        lines = _bill_of_a_minute(url)
        app.close()
    return _counted(lines)


def _bill_of_a_minute(url: str) -> list[dict[str, Any]]:
    pause = threading.Event()
    for _ in range(round(2 * MINUTE_S)):
        pause.wait(1)
        lines = _bill(url)
        until_ms = lines[0]["received_ms"] + MINUTE_S * 1_000 if lines else 0
        if lines and lines[-1]["received_ms"] >= until_ms:
            return [line for line in lines if line["received_ms"] < until_ms]
    raise TimeoutError("the fleet has not called for a whole minute")


def _counted(lines: list[dict[str, Any]]) -> OneMinute:
    times = sorted(line["received_ms"] for line in lines if line["http_status"] == 200)
    return OneMinute(
        calls=len(times),
        refused=sum(line["http_status"] == 429 for line in lines),
        longest_gap_ms=max((b - a for a, b in pairwise(times)), default=0),
    )


def _bill(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/_sim/bill", timeout=10) as answer:  # noqa: S310 - loopback
        entries: list[dict[str, Any]] = json.loads(answer.read())["entries"]
    return sorted(entries, key=lambda line: line["received_ms"])


def _argv(number: int) -> list[str]:
    return [
        *(sys.executable, "-m", "celery", "--app", "tests.bench.rate_app", "worker"),
        *("--pool=threads", f"--concurrency={THREADS}", f"--hostname=rates-{number}@%h"),
        *("--queues=control,teacher,tools,student,artifacts", "--loglevel=INFO"),
        *("--without-gossip", "--without-mingle"),
    ]
