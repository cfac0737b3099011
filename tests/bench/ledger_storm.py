"""What the ledger's promise is worth under fire: 64 processes spend one budget while things are killed.

Rule: the provider's bill is a file that is written before a worker hears of it, by one write a line; it
shares nothing with the ledger, and the two are compared to the nano-dollar. The money is meant to run
out: only at the cap does an overshoot show.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.integration.ledger_workers import read_bill, spend
from worker.embedded.valkey import ValkeyServer
from worker.errors import Unavailable
from worker.ledger.redis import RedisLedger
from worker.ports import EntryState
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from worker.ports import Account, Entry

__all__ = ["Storm", "storm"]

PROCESSES = 64
CALLS = 10_000
CALL_TIMEOUT_MS = 2_000
#: Between two strikes, each of which kills so many workers; every so many strikes, the sweeper and
#: Valkey die too.
KILL_EVERY_S = 0.15
WORKERS_AT_ONCE = 3
SWEEPER_EVERY, VALKEY_EVERY = 3, 8
GIVE_UP_S = 400.0

_USD = 10**9
_TENANTS = {"tenant:a": 150 * _USD, "tenant:b": 120 * _USD}
_CAMPAIGNS = {"campaign:x": 140 * _USD, "campaign:y": 130 * _USD}
_SESSIONS = {f"session:s{number}": 60 * _USD for number in range(8)}
_CAPS = {"fleet": 240 * _USD, **_TENANTS, **_CAMPAIGNS, **_SESSIONS}
_SCOPES = tuple(("fleet", *scopes) for scopes in product(_TENANTS, _CAMPAIGNS, _SESSIONS))


@dataclass(slots=True)
class Storm:
    """What was done to the ledger, and what came of it."""

    calls: int = 0
    strikes: int = 0
    kills: Counter[str] = field(default_factory=Counter[str])
    looks: int = 0
    #: The furthest that any account ever was above its cap, or that more was billed than it had.
    overshoot_nusd: int = 0
    uncovered_nusd: int = 0
    #: Over all calls of known outcome, and all accounts: how far the ledger is from the bill.
    difference_nusd: int = 0
    unknown: int = 0
    #: What those were charged, and what of it had been billed.
    unknown_nusd: int = 0
    unknown_billed_nusd: int = 0
    fleet_posted_nusd: int = 0
    took_s: float = 0.0


def sweep(url: str) -> None:
    """End what is overdue, again and again, until killed."""
    with connect(url) as client:
        ledger = RedisLedger(client)
        while True:
            with suppress(Unavailable):
                ledger.expire_overdue(limit=100)
            time.sleep(0.05)


@cache
def storm() -> Storm:
    """Let the storm rage once, and return what it did.

    Raises:
        RuntimeError: A worker saw an account above its cap, a call went out twice, or it took too long.
    """
    with TemporaryDirectory(prefix="bench-") as directory:
        server = ValkeyServer(Path(directory), appendfsync="always")
        server.start()
        bill = Path(directory) / "bill"
        bill.touch()
        try:
            with connect(server.url) as client:
                return _rage(server, RedisLedger(client), bill)
        finally:
            server.kill()


class _Processes:
    """Workers and a sweeper that are killed and replaced."""

    def __init__(self, url: str, bill: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.bench.ledger_storm"])
        self._url, self._bill = url, str(bill)
        self._started = 0
        self.failures: list[int] = []
        self.workers = [self._worker() for _ in range(PROCESSES)]
        self.sweeper = self._start(sweep, url)

    def _start(self, target: Callable[..., None], *args: object) -> BaseProcess:
        process = self._context.Process(target=target, args=args, daemon=True)
        process.start()
        return process

    def _worker(self) -> BaseProcess:
        self._started += 1
        name = f"w{self._started}"
        return self._start(spend, self._url, self._bill, name, _SCOPES, CALL_TIMEOUT_MS)

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill a worker in whatever it does and start another; False where none is left."""
        alive = [n for n, worker in enumerate(self.workers) if worker.is_alive()]
        if not alive:
            return False
        position = chance.choice(alive)
        self._end(self.workers[position])
        self.workers[position] = self._worker()
        return True

    def kill_sweeper(self) -> None:
        """Kill the sweeper and start another."""
        self._end(self.sweeper)
        self.sweeper = self._start(sweep, self._url)

    def alive(self) -> int:
        """Return how many still spend."""
        return sum(worker.is_alive() for worker in self.workers)

    def end(self) -> None:
        """Kill them all."""
        for process in (*self.workers, self.sweeper):
            self._end(process)

    def _end(self, process: BaseProcess) -> None:
        if process.exitcode:
            self.failures.append(process.exitcode)
        process.kill()
        process.join()


def _rage(server: ValkeyServer, ledger: RedisLedger, bill: Path) -> Storm:
    for scope, cap in _CAPS.items():
        ledger.open_account(scope, cap)
    found, chance = Storm(), random.Random(64)  # noqa: S311 - chance of a test
    began_s = time.monotonic()
    processes = _Processes(server.url, bill)
    try:
        while processes.alive():
            if time.monotonic() - began_s > GIVE_UP_S:
                raise RuntimeError(f"the money has not run out in {GIVE_UP_S} s: {found}")
            time.sleep(chance.uniform(0.5, 1.5) * KILL_EVERY_S)
            _strike(server, processes, found, chance, money_left=_money_left(ledger))
            _look(ledger, bill, found)
    finally:
        processes.end()
    if processes.failures:
        raise RuntimeError(f"workers failed: {Counter(processes.failures)}")
    _end_what_is_open(ledger)
    _look(ledger, bill, found)
    _compare(ledger, bill, found)
    found.took_s = time.monotonic() - began_s
    return found


def _strike(
    server: ValkeyServer,
    processes: _Processes,
    found: Storm,
    chance: random.Random,
    *,
    money_left: bool,
) -> None:
    """Kill workers, and now and then the sweeper or Valkey, as long as there is money to fight for."""
    if not money_left:
        return
    found.strikes += 1
    for _ in range(WORKERS_AT_ONCE):
        found.kills["workers"] += processes.kill_worker(chance)
    if found.strikes % SWEEPER_EVERY == 0:
        processes.kill_sweeper()
        found.kills["sweepers"] += 1
    if found.strikes % VALKEY_EVERY == 0:
        server.kill()
        server.start()
        found.kills["Valkeys"] += 1


def _money_left(ledger: RedisLedger) -> bool:
    account = ledger.account("fleet")
    assert account is not None
    return account.free_nusd > _USD


def _accounts(ledger: RedisLedger) -> dict[str, Account]:
    found = {scope: ledger.account(scope) for scope in _CAPS}
    return {scope: account for scope, account in found.items() if account is not None}


def _billed(bill: Path) -> Counter[str]:
    sums: Counter[str] = Counter()
    for call in read_bill(bill):
        for scope in call.scopes:
            sums[scope] += call.cost_nusd
    return sums


def _look(ledger: RedisLedger, bill: Path, found: Storm) -> None:
    """Hold the accounts against their caps and the bill, now; the bill is read first."""
    billed = _billed(bill)
    found.looks += 1
    for scope, account in _accounts(ledger).items():
        total = account.posted_nusd + account.held_nusd
        found.overshoot_nusd = max(found.overshoot_nusd, total - account.cap_nusd)
        found.uncovered_nusd = max(found.uncovered_nusd, billed[scope] - total)


def _end_what_is_open(ledger: RedisLedger) -> None:
    until_s = time.monotonic() + 30
    while any(account.held_nusd for account in _accounts(ledger).values()):
        if time.monotonic() > until_s:
            raise RuntimeError("something stays held")
        ledger.expire_overdue(limit=100)
        time.sleep(0.05)


def _compare(ledger: RedisLedger, bill: Path, found: Storm) -> None:
    calls = read_bill(bill)
    billed = {call.reservation_id: call.cost_nusd for call in calls}
    entries = [entry for scope in _SESSIONS for entry in ledger.entries(scope.partition(":")[2])]
    known = {entry.reservation_id for entry in entries}
    if len(billed) < len(calls) or billed.keys() - known:
        raise RuntimeError("a request went out twice under one reservation, or under none")
    unknown = [entry for entry in entries if entry.state is EntryState.EXPIRED]
    found.calls, found.unknown = len(calls), len(unknown)
    found.unknown_nusd = sum(entry.actual_nusd for entry in unknown)
    found.unknown_billed_nusd = sum(billed.get(entry.reservation_id, 0) for entry in unknown)
    found.difference_nusd = _off(entries, billed) + sum(
        abs(account.posted_nusd - sum(e.actual_nusd for e in entries if scope in e.scopes))
        for scope, account in _accounts(ledger).items()
    )
    found.fleet_posted_nusd = _accounts(ledger)["fleet"].posted_nusd


def _off(entries: list[Entry], billed: dict[str, int]) -> int:
    """Return how far the calls of known outcome are from the bill, added up without signs."""
    return sum(
        abs(entry.actual_nusd - billed.get(entry.reservation_id, 0))
        for entry in entries
        if entry.state is not EntryState.EXPIRED
    )
