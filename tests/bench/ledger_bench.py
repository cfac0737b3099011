"""What the ledger costs in time: one paid call's transitions over four scopes.

Rule: without fsync, so that the figure is the ledger's and not the disk's; one client, one thread,
one connection, so that it is what one call waits for.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.values import Usage
from worker.embedded.valkey import ValkeyServer
from worker.ledger.redis import RedisLedger
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Generator

    from worker.ports import Ledger

__all__ = [
    "OPEN_RESERVATIONS",
    "SLOWDOWN_TARGET",
    "cycle_ms",
    "script_ms",
    "slowdown_with_open_reservations",
]

#: At most this for reserve + sent + settle over four scopes.
CYCLE_TARGET_MS = 0.6
#: At most this many times slower with `OPEN_RESERVATIONS` of them open.
SLOWDOWN_TARGET = 1.5
OPEN_RESERVATIONS = 20_000

_SCOPES = ("fleet", "tenant:t", "campaign:c", "session:s")
_CAP_NUSD = 10**15
_WARM_UP = 200
ROUNDS = 7


def cycle_ms(directory: Path, *, cycles: int = 400) -> tuple[float, float]:
    """Return the median time of reserve + sent + settle over four scopes, and of three bare round trips.

    Both in milliseconds, measured in turns on one connection: the medians of the turns' medians. The
    second tells a slow machine from a slow ledger.
    """
    with _ledger(directory) as ledger:
        turns = [
            (_median_cycle_ms(ledger, f"turn{turn}.", cycles), _median_bare_ms(ledger, cycles))
            for turn in range(ROUNDS)
        ]
    ours_ms, bare_ms = zip(*turns, strict=True)
    return statistics.median(ours_ms), statistics.median(bare_ms)


def script_ms(directory: Path, *, cycles: int = 2_000) -> float:
    """Return the server's time for the scripts of one such cycle, in milliseconds: the wire aside."""
    with _ledger(directory) as ledger:
        client: Any = ledger._client
        _median_cycle_ms(ledger, "warm", 0)
        client.config_resetstat()
        _median_cycle_ms(ledger, "counted", cycles)
        scripts = client.info("commandstats")["cmdstat_evalsha"]
    return scripts["usec"] / (_WARM_UP + cycles) / 1000


def slowdown_with_open_reservations(
    directory: Path, *, open_reservations: int = OPEN_RESERVATIONS, cycles: int = 400
) -> float:
    """Return how many times slower a cycle is while so many other reservations are open.

    Two servers, one of them full, measured in turns; the median of the rounds' ratios.
    """
    with _ledger(directory / "empty") as empty, _ledger(directory / "full") as full:
        for number in range(open_reservations):
            _reserve(full, f"open{number}")
        ratios = [
            _median_cycle_ms(full, f"full{turn}.", cycles)
            / _median_cycle_ms(empty, f"empty{turn}.", cycles)
            for turn in range(ROUNDS)
        ]
    return statistics.median(ratios)


@contextmanager
def _ledger(directory: Path) -> Generator[RedisLedger]:
    server = ValkeyServer(directory, appendfsync="no")
    server.start()
    try:
        with connect(server.url) as client:
            ledger = RedisLedger(client)
            for scope in _SCOPES:
                ledger.open_account(scope, _CAP_NUSD)
            yield ledger
    finally:
        server.kill()


def _median_cycle_ms(ledger: Ledger, name: str, cycles: int) -> float:
    usage = Usage(input_tokens=1, output_tokens=1)
    times_ms: list[float] = []
    for number in range(_WARM_UP + cycles):
        reservation_id = f"{name}{number}"
        began_s = time.perf_counter()
        _reserve(ledger, reservation_id)
        ledger.sent(reservation_id)
        ledger.settle(reservation_id, 500, usage=usage)
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(times_ms[_WARM_UP:] or times_ms)


def _median_bare_ms(ledger: RedisLedger, cycles: int) -> float:
    """Return the median time of three scripts that do nothing, through the same client."""
    client: Any = ledger._client
    nothing = client.register_script("return 1")
    times_ms: list[float] = []
    for _ in range(cycles):
        began_s = time.perf_counter()
        for _ in range(3):
            nothing(keys=["bench"])
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(times_ms)


def _reserve(ledger: Ledger, reservation_id: str) -> None:
    ledger.reserve(
        reservation_id,
        1_000,
        _SCOPES,
        kind="explore",
        model="claude-opus-4-6",
        step_id="turn/1",
        price_version="bench",
        deadline_ms=600_000,
    )


def _main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        ours_ms, bare_ms = cycle_ms(Path(directory))
        print(f"reserve + sent + settle over 4 scopes: {ours_ms:.3f} ms")
        print(f"three scripts that do nothing: {bare_ms:.3f} ms")
    with tempfile.TemporaryDirectory() as directory:
        ratio = slowdown_with_open_reservations(Path(directory))
        print(f"the same with {OPEN_RESERVATIONS} others open: {ratio:.2f} times that")


if __name__ == "__main__":
    _main()
