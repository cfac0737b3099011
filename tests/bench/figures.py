"""The figures of `make bench`: what is measured, against which target, and how.

Rule: a time is a ratio within one run wherever it can be, measured in turns (A B A B …) and told as a
median, since machines are shared and noisy. A figure that could not be measured is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.bench import (
    cache_bench,
    ledger_bench,
    ledger_storm,
    local_step,
    rates_bench,
    storage,
    traces_bench,
)
from tests.bench.noop_fleet import noop_fleet
from tests.chaos import restarts
from worker import bootstrap
from worker.bundle.pack import pack
from worker.client import Client
from worker.core import keys
from worker.core.prices import usd
from worker.embedded.fleet import Fleet, WorkerPlan
from worker.embedded.process import free_ports, log_shows
from worker.embedded.stack import EmbeddedStack
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

__all__ = ["FIGURES", "Figure", "Measured"]

AIRLINE_HOME = Path(__file__).parents[3] / "shared" / "data" / "tau-airline-home"
ROUNDS = 5
KILLS = 10
LINKS = 300


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and how it was come by."""

    value: float
    how: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    #: At most this.
    target: float
    measure: Callable[[], Measured]


# ----------------------------------------------------------------------------------- steps, fan-out


@cache
def _chains() -> dict[str, list[float]]:
    """Return the times of all chains, measured in turns in one run."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        noop_fleet(Path(directory), [16, 16]) as fleet,
    ):
        for number in range(ROUNDS):
            fleet.run("noop.bare", f"bare-{number}", LINKS)
            fleet.run("noop.open", f"step-{number}", {"turns": LINKS})
            fleet.run("noop.open", f"wide-{number}", {"turns": 2, "runs": 200})
            fleet.run("noop.start_chord", f"chord-{number}", 200)
        for number in range(3):
            fleet.run("noop.open", f"runs-{number}", {"turns": 2, "runs": 64, "run_ms": 500})
        return fleet.times_ms()


def _medians_ms(kind: str) -> list[float]:
    """Return, by round, the median time from one link of a chain to the next."""
    times = {name: at for name, at in _chains().items() if name.startswith(f"{kind}-")}
    return [statistics.median(b - a for a, b in pairwise(at)) for at in times.values()]


def _spans_ms(kind: str) -> list[float]:
    """Return, by round, the time from the first mark of a chain to its second."""
    return [at[1] - at[0] for name, at in _chains().items() if name.startswith(f"{kind}-")]


def _step_over_bare() -> Measured:
    steps, bare = _medians_ms("step"), _medians_ms("bare")
    ratio = statistics.median(step / link for step, link in zip(steps, bare, strict=True))
    return Measured(
        ratio,
        f"{ROUNDS} rounds of {LINKS} links in turns, two workers of 16 threads, Valkey with "
        f"appendfsync always; median step {statistics.median(steps):.2f} ms, bare task "
        f"{statistics.median(bare):.2f} ms (it publishes the next with send_task)",
    )


def _durable_step_ms() -> Measured:
    steps = _medians_ms("step")
    return Measured(
        statistics.median(steps),
        f"median of {ROUNDS} chains of {LINKS} steps, one after the other through Celery, two workers "
        f"of 16 threads, Valkey with appendfsync always; a quiet machine is meant (load now "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)",
    )


def _runs_64() -> Measured:
    spans = _spans_ms("runs")
    return Measured(
        statistics.median(spans) / 1000,
        f"64 student runs of 500 ms over two workers of 16 threads, from the turn to the next turn; "
        f"median of {[round(span / 1000, 2) for span in spans]} s, ideal 1.0",
    )


def _fanout_over_chord() -> Measured:
    wide, chords = _spans_ms("wide"), _spans_ms("chord")
    ratio = statistics.median(a / b for a, b in zip(wide, chords, strict=True))
    return Measured(
        ratio,
        f"200 no-op runs with their join, over a Celery chord of 200, {ROUNDS} rounds in turns; "
        f"medians {statistics.median(wide):.0f} and {statistics.median(chords):.0f} ms",
    )


def _local_step_ms() -> Measured:
    took_ms = sorted(local_step.steps_ms())
    p95_ms = took_ms[int(len(took_ms) * 0.95)]
    return Measured(
        statistics.median(took_ms),
        f"{local_step.SESSIONS} sessions of {local_step.TURNS} turns that do nothing, on the journal in "
        f"memory, in one thread: from one hint taken to the next; median, p95 {p95_ms:.2f} ms",
    )


# ---------------------------------------------------------------------------------- traces, ledger


@cache
def _reads() -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        return traces_bench.latencies_ms(Path(directory))


def _p95_of(tool: str) -> Measured:
    times = _reads()[tool]
    return Measured(
        traces_bench.p95(times),
        f"p95 of {len(times)} calls on {traces_bench.TRACES} traces x {traces_bench.STEPS} steps; "
        f"median {statistics.median(times):.1f} ms",
    )


def _ledger_ms() -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        value, bare_ms = ledger_bench.cycle_ms(Path(directory))
    return Measured(
        value,
        f"reserve + sent + settle over 4 scopes, no fsync, median of {ledger_bench.ROUNDS} turns of 400; "
        f"in turns with it, three scripts that do nothing took {bare_ms:.2f} ms",
    )


def _ledger_part_ms() -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        value = ledger_bench.script_ms(Path(directory))
    return Measured(
        value,
        "the server's time for reserve + sent + settle over 4 scopes, mean of 2,200 cycles; with the "
        "three round trips it is ledger_cycle_ms",
    )


# ---------------------------------------------------------------------------------------- kills


@cache
def _restarts() -> restarts.Restarts:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        return restarts.killed_in_mid_step(Path(directory), KILLS)


def _killed(value: float) -> Measured:
    return Measured(
        value,
        f"SIGKILL of a worker's process group in mid-step, another standing by, default settings: "
        f"{_restarts().shown} s (load now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)",
    )


# -------------------------------------------------------------------------------------- storage


def _written_over_new(long: storage.Long) -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        written = storage.write(long, Path(directory))
    return Measured(
        written.ratio,
        f"journal, blobs, checkpoints and notes of a session of {long.turns} turns, over its texts and "
        f"facts; {written.shown}",
    )


# ------------------------------------------------------------------------------- the prompt cache


def _cached_over_uncached(model: str) -> Callable[[], Measured]:
    def measure() -> Measured:
        ours = cache_bench.cost_nusd(model, cache_bench.recorded, "ours")
        plain = cache_bench.cost_nusd(model, cache_bench.recorded, "uncached")
        sizes = cache_bench.recorded().result_bytes
        return Measured(
            ours / plain,
            f"the simulator's bill at {model} prices: {usd(ours)} over {usd(plain)} for the same "
            f"{cache_bench.TURNS} turns with {len(sizes)} results of {min(sizes):,} to {max(sizes):,} "
            "bytes from the airline home, by the real transcript and adapter; nothing warm at first, "
            "three bytes a token",
        )

    return measure


def _trimmed_over_uncached() -> Measured:
    """Return the worse of two models' ratios."""
    ratios: dict[str, float] = {}
    for model in ("claude-opus-5", "claude-opus-5-5"):
        ours = cache_bench.cost_nusd(model, cache_bench.trimmed, "ours")
        plain = cache_bench.cost_nusd(model, cache_bench.recorded, "uncached")
        ratios[model] = ours / plain
    sizes = cache_bench.trimmed().result_bytes
    return Measured(
        max(ratios.values()),
        f"the same calls with results of the usual size, and reading on in every third: {len(sizes)} "
        f"results of {min(sizes):,} to {max(sizes):,} bytes, over the uncached session of 10 to 20 KB; "
        f"by model { ({model: round(ratio, 3) for model, ratio in ratios.items()}) }",
    )


def _slow_tools() -> Measured:
    """Return what the choice between five minutes and an hour is worth where tools are slow."""
    every = 5
    found: dict[str, float] = {}
    for model in ("claude-opus-5", "claude-opus-5-5"):
        ours, short = (
            cache_bench.cost_nusd(model, cache_bench.recorded, how, slow_every=every)
            for how in ("ours", "short")
        )
        found[model] = ours / short
    return Measured(
        max(found.values()),
        f"every {every}th turn takes {cache_bench.SLOW_MS // 60_000} minutes: entries that live as long as "
        "the session's tools take, over entries of five minutes, on the simulator's bill; "
        f"by model { ({model: round(ratio, 3) for model, ratio in found.items()}) }",
    )


def _over_the_reference_loop() -> Measured:
    model = "claude-opus-5"
    ours = cache_bench.cost_nusd(model, cache_bench.recorded, "ours")
    theirs = cache_bench.cost_nusd(model, cache_bench.recorded, "reference")
    return Measured(
        ours / theirs,
        f"{usd(ours)} over {usd(theirs)}; the reference's loop is modelled, not run: no breakpoints, "
        "one call after another, its whole history sent again each turn, results up to 20,000 "
        "characters; the same replies, tools and system prompt as ours",
    )


def _slowdown() -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        value = ledger_bench.slowdown_with_open_reservations(Path(directory))
    return Measured(
        value,
        f"the same cycle with {ledger_bench.OPEN_RESERVATIONS:,} other reservations open over with "
        f"none, two servers in {ledger_bench.ROUNDS} turns",
    )


def _fired_on() -> str:
    """Return what the ledger went through."""
    found = ledger_storm.storm()
    kills = ", ".join(f"{count} {what}" for what, count in found.kills.items())
    return (
        f"{ledger_storm.PROCESSES} processes, 4 scopes, {found.calls:,} calls in {found.took_s:.0f} s "
        f"until {usd(found.fleet_posted_nusd)} were gone; killed: {kills}; appendfsync always; "
        f"{found.unknown} calls of unknown outcome, charged {usd(found.unknown_nusd)}, of which "
        f"{usd(found.unknown_billed_nusd)} had been billed"
    )


def _overshoot() -> Measured:
    found = ledger_storm.storm()
    value = max(found.overshoot_nusd, found.uncovered_nusd)
    return Measured(
        value, f"over any cap, or below the bill, in {found.looks} looks; {_fired_on()}"
    )


def _off_the_bill() -> Measured:
    found = ledger_storm.storm()
    return Measured(
        found.difference_nusd,
        "ledger and bill, call by call of known outcome and account by account",
    )


def _missing_calls() -> Measured:
    return Measured(
        max(ledger_storm.CALLS - ledger_storm.storm().calls, 0),
        "calls that the storm fell short of",
    )


# ----------------------------------------------------------------------------------------- rates


@cache
def _minute() -> rates_bench.OneMinute:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        return rates_bench.one_minute(Path(directory))


def _refused_calls() -> Measured:
    minute = _minute()
    return Measured(
        minute.refused,
        f"429s of a provider that holds two seconds of {rates_bench.LIMIT_RPM} requests a minute, "
        f"{rates_bench.WORKERS} worker processes of {rates_bench.THREADS} threads, 600 calls waiting, "
        f"one minute from the first call; {minute.calls} calls were made",
    )


def _missed_calls() -> Measured:
    minute = _minute()
    return Measured(
        max(0.0, 1 - minute.calls / rates_bench.LIMIT_RPM),
        f"share of the {rates_bench.LIMIT_RPM} possible calls of that minute that were not made; "
        f"{minute.calls} were, the longest gap {minute.longest_gap_ms} ms",
    )


# --------------------------------------------------------------------------------------- memory


@cache
def _memory_mb() -> dict[int, float]:
    """Return the RSS of a worker of all queues after so many sessions."""
    if not AIRLINE_HOME.is_dir():
        raise RuntimeError("needs ../shared/data/tau-airline-home beside the project")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        EmbeddedStack(Path(directory) / "stack", llama=False) as stack,
    ):
        fleet = Fleet(stack)
        fleet.add_simulated_teacher()
        fleet.add_student("default", base_url=_recorded_student(stack), model="gpt-4o")
        fleet.set(BUDGETS=json.dumps(dict.fromkeys(_SCOPES, 1000.0)))
        (worker,) = fleet.start_workers([WorkerPlan(name="all", queues=_QUEUES, concurrency=16)])
        return _sessions(fleet, worker.info.pid or 0, Path(directory))


_SCOPES = ("fleet", "tenant:default", "campaign:default")
_QUEUES = "control,tools,teacher,artifacts,student"


def _recorded_student(stack: EmbeddedStack) -> str:
    (port,) = free_ports(1)
    argv = [
        *(sys.executable, "-m", "worker.student.playback", "--port", str(port)),
        *("--runs", str(AIRLINE_HOME / "student_runs.jsonl")),
        *("--benchmark", str(AIRLINE_HOME / "benchmark.json")),
    ]
    stack.add_process("student", argv, ready=log_shows("ready http"))
    return f"http://127.0.0.1:{port}/v1"


def _sessions(fleet: Fleet, pid: int, directory: Path) -> dict[int, float]:
    settings = fleet.settings()
    system = bootstrap.build(settings, hints=_Untold(), publish=_never)
    client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
    packed = pack(AIRLINE_HOME, directory / "packed")
    key = keys.bundle(packed.sha256)
    system.artifacts.put_file(key, packed.path, content_type="application/gzip")
    seen: dict[int, float] = {}
    for number in range(1, 51):
        request = {"session_id": f"memory-{number}", "bundle": system.artifacts.uri(key)}
        client.enqueue(parse_request(request))
        assert client.result(f"memory-{number}", timeout_s=120) is not None
        seen[number] = psutil.Process(pid).memory_info().rss / 1e6
    client.close()
    system.close()
    return seen


def _rss_after_50() -> Measured:
    value = _memory_mb()[50]
    return Measured(value, "RSS of one worker of all queues, 16 threads, after 50 airline sessions")


def _rss_growth() -> Measured:
    seen = _memory_mb()
    early = statistics.median(seen[n] for n in range(8, 13))
    late = statistics.median(seen[n] for n in range(46, 51))
    return Measured(
        late / early, f"median RSS of sessions 46-50 ({late:.0f} MB) over 8-12 ({early:.0f} MB)"
    )


class _Untold:
    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell nobody: the workers sweep."""


def _never(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError(f"the bench concludes nothing: {result} {runtime_s}")


def _p95(tool: str) -> Any:
    return lambda: _p95_of(tool)


FIGURES: tuple[Figure, ...] = (
    Figure("step_over_bare_celery", "x", 2.0, _step_over_bare),
    Figure("step_over_bare_celery_issue_3", "x", 1.4, _step_over_bare),
    Figure("durable_step_ms", "ms", 7.0, _durable_step_ms),
    Figure("fanout_64_runs_s", "s", 1.25, _runs_64),
    Figure("fanout_200_over_chord", "x", 1.0, _fanout_over_chord),
    Figure("local_step_ms", "ms", 1.1, _local_step_ms),
    Figure("list_traces_p95_ms", "ms", 20.0, _p95("list_traces")),
    Figure("search_traces_p95_ms", "ms", 20.0, _p95("search_traces")),
    Figure("get_trace_p95_ms", "ms", 20.0, _p95("get_trace")),
    Figure("ledger_cycle_ms", "ms", ledger_bench.CYCLE_TARGET_MS, _ledger_ms),
    Figure("ledger_part_of_step_ms", "ms", 0.3, _ledger_part_ms),
    Figure(
        "kill_restart_median_s", "s", 5.0, lambda: _killed(statistics.median(_restarts().waits_s))
    ),
    Figure("kill_restart_worst_s", "s", 8.0, lambda: _killed(max(_restarts().waits_s))),
    Figure("kill_paid_again", "steps", 0.0, lambda: _killed(_restarts().paid_again)),
    Figure("written_over_new_30x100kb", "x", 1.2, lambda: _written_over_new(storage.THIRTY_TURNS)),
    Figure(
        "written_over_new_200k_tokens", "x", 1.2, lambda: _written_over_new(storage.HUNDRED_TURNS)
    ),
    Figure("cached_cost_opus_5", "x", 0.21, _cached_over_uncached("claude-opus-5")),
    Figure("cached_cost_opus_5_5", "x", 0.16, _cached_over_uncached("claude-opus-5-5")),
    Figure("trimmed_cost", "x", 0.11, _trimmed_over_uncached),
    Figure("slow_tools_cost", "x", 0.75, _slow_tools),
    Figure("cost_over_reference_loop", "x", 0.21, _over_the_reference_loop),
    Figure("ledger_20000_open_slowdown", "x", ledger_bench.SLOWDOWN_TARGET, _slowdown),
    Figure("ledger_overshoot_nusd", "nano$", 0, _overshoot),
    Figure("ledger_off_the_bill_nusd", "nano$", 0, _off_the_bill),
    Figure("ledger_storm_missing_calls", "calls", 0, _missing_calls),
    Figure("rate_refused_calls", "calls", 0.0, _refused_calls),
    Figure("rate_missed_calls", "share", 0.05, _missed_calls),
    Figure("worker_rss_after_50_mb", "MB", 150.0, _rss_after_50),
    Figure("worker_rss_growth", "x", 1.05, _rss_growth),
)
