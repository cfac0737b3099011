"""The ledger on a real Valkey: the same as in memory, under lost replies, SIGKILLs and restarts."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.integration.ledger_workers import read_bill, spend
from tests.unit.money.ledger_machine import LedgerMachine
from worker.core.values import Usage
from worker.embedded.valkey import ValkeyServer
from worker.errors import Unavailable
from worker.ledger.keys import KEEP_MS, KEYS
from worker.ledger.redis import RedisLedger
from worker.ledger.register import RedisRegister
from worker.ports import Account, EntryState
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

LUA = Path(__file__).parents[2] / "worker" / "ledger" / "lua"
SCHEDULES = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
)


class ForgetfulConnection(redis.Connection):
    """Carries out every script, and then loses its reply once."""

    _loses = False
    #: One thread, so one command at a time: the repeat of a lost one gets through.
    _lost_last = False

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self._loses = args[0] == "EVALSHA" and not self._lost_last
        super().send_command(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = cast("Any", super().read_response(*args, **kwargs))
        if self._loses:
            self._loses, ForgetfulConnection._lost_last = False, True
            raise redis.ConnectionError("the reply was lost")
        ForgetfulConnection._lost_last = False
        return reply


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def forgetful(redis_url: str) -> Iterator[redis.Redis]:
    pool = redis.ConnectionPool.from_url(
        redis_url,
        connection_class=ForgetfulConnection,
        decode_responses=True,
        retry=Retry(NoBackoff(), 3),
    )
    with redis.Redis.from_pool(pool) as client:
        yield client


def machine_on(client: redis.Redis, viewer: redis.Redis) -> type[LedgerMachine]:
    """Return machines that work through one client and look through another, on keys of their own."""
    numbers = itertools.count()

    class OnValkey(LedgerMachine):
        def __init__(self) -> None:
            super().__init__()
            prefix = f"schedule{next(numbers)}"
            self.second = RedisLedger(client, prefix=prefix)
            self.view = RedisLedger(viewer, prefix=prefix)

    return OnValkey


@pytest.mark.timeout(240)
def test_any_schedule_is_as_in_memory_and_keeps_the_invariants(client: redis.Redis) -> None:
    run_state_machine_as_test(machine_on(client, client), settings=SCHEDULES)


@pytest.mark.timeout(240)
def test_any_schedule_in_which_every_reply_is_lost_once_is_as_in_memory(
    forgetful: redis.Redis, client: redis.Redis
) -> None:
    run_state_machine_as_test(machine_on(forgetful, client), settings=SCHEDULES)


# ------------------------------------------------------------------------------------------- keys


def keys_of(client: redis.Redis) -> list[str]:
    keys: Any = client.keys()
    return keys


def one_of_everything(client: redis.Redis) -> RedisLedger:
    ledger = RedisLedger(client)
    ledger.kill(on=False)
    for scope in ("fleet", "session:s"):
        ledger.open_account(scope, 1_000)
    for name in ("open", "ended"):
        ledger.reserve(
            name,
            10,
            ("fleet", "session:s"),
            kind="explore",
            model="m",
            step_id="turn/1",
            price_version="v",
            deadline_ms=600_000,
        )
    ledger.settle("ended", 5, usage=Usage())
    ledger.promise("s", 10, ("fleet",))
    RedisRegister(client).take_turn("mark", "w", for_ms=60_000)
    return ledger


def test_every_key_is_in_the_list_with_its_type_under_one_hash_tag(client: redis.Redis) -> None:
    one_of_everything(client)

    patterns = {
        pattern.replace("{P}", "{diagnosis}").partition("<")[0]: kind
        for pattern, kind, _ in KEYS.values()
    }
    found: dict[str, Any] = {key: client.type(key) for key in keys_of(client)}
    kinds = {
        prefix: kind for key, kind in found.items() for prefix in patterns if key.startswith(prefix)
    }
    assert kinds == patterns
    assert all(any(key.startswith(prefix) for prefix in patterns) for key in found)


def test_only_what_belongs_to_a_session_and_has_ended_expires(client: redis.Redis) -> None:
    one_of_everything(client)

    lasting = {key for key in keys_of(client) if client.pttl(key) == -1}
    assert {key.removeprefix("{diagnosis}:bud:") for key in lasting} == {
        "p:fleet",
        "a:fleet",
        "r:open",
        "open",
        "names",
        "meta",
        "j",
    }
    for key in ("a:session:s", "s:s", "r:ended"):
        assert KEEP_MS - 60_000 < client.pttl(f"{{diagnosis}}:bud:{key}") <= KEEP_MS


def test_every_script_says_its_signature_and_is_named_like_its_operation() -> None:
    for path in LUA.glob("*.lua"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == "#!lua" if path.stem == "prelude" else first.startswith(f"-- {path.stem}(")


def test_a_full_server_refuses_and_changes_nothing(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        with connect(server.url) as client:
            ledger = one_of_everything(client)
            before = ledger.accounts(), ledger.entries("s")
            client.config_set("maxmemory", "1mb")

            with pytest.raises(Unavailable):
                ledger.settle("open", 5, usage=Usage())
            with pytest.raises(Unavailable):
                ledger.set_cap("fleet", 1)

            client.config_set("maxmemory", "0")
            assert (ledger.accounts(), ledger.entries("s")) == before
    finally:
        server.kill()


# ------------------------------------------------------------------------------------------ chaos

TENANTS = {"tenant:a": 16_000_000_000, "tenant:b": 13_000_000_000}
CAMPAIGNS = {"campaign:x": 17_000_000_000, "campaign:y": 10_000_000_000}
SESSIONS = {f"session:s{number}": 4_000_000_000 for number in range(8)}
CAPS = {"fleet": 25_000_000_000, **TENANTS, **CAMPAIGNS, **SESSIONS}
SCOPES = tuple(("fleet", *scopes) for scopes in itertools.product(TENANTS, CAMPAIGNS, SESSIONS))
PROCESSES = 8
CALL_TIMEOUT_MS = 250
KILLS = 20


class Fleet:
    """Worker processes that are killed and replaced."""

    def __init__(self, url: str, bill: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.integration.ledger_workers"])
        self._args = (url, str(bill))
        self._started = 0
        #: Exit codes of those that ended by themselves, but not well.
        self.failures: list[int] = []
        self.workers: list[BaseProcess] = [self._start() for _ in range(PROCESSES)]

    def _start(self) -> BaseProcess:
        self._started += 1
        process = self._context.Process(
            target=spend,
            args=(*self._args, f"w{self._started}", SCOPES, CALL_TIMEOUT_MS),
            daemon=True,
        )
        process.start()
        return process

    def kill_one(self, chance: random.Random) -> None:
        """Kill a worker in whatever it does, and start another."""
        position = chance.randrange(PROCESSES)
        self._end(self.workers[position])
        self.workers[position] = self._start()

    def alive(self) -> bool:
        """Whether anybody still spends."""
        return any(worker.is_alive() for worker in self.workers)

    def end(self) -> None:
        """Kill them all."""
        for worker in self.workers:
            self._end(worker)

    def _end(self, worker: BaseProcess) -> None:
        if worker.exitcode:
            self.failures.append(worker.exitcode)
        worker.kill()
        worker.join()


def accounts_of(ledger: RedisLedger) -> dict[str, Account]:
    found = {scope: ledger.account(scope) for scope in CAPS}
    return {scope: account for scope, account in found.items() if account is not None}


def billed_by_scope(bill: Path) -> dict[str, int]:
    sums = dict.fromkeys(CAPS, 0)
    for call in read_bill(bill):
        for scope in call.scopes:
            sums[scope] += call.cost_nusd
    return sums


def check_law_6(ledger: RedisLedger, bill: Path) -> None:
    """What was billed is posted or held, and that is within the cap: now, in every scope."""
    billed = billed_by_scope(bill)  # first: money that is held after this is not in it
    accounts = accounts_of(ledger)
    assert accounts.keys() == CAPS.keys()
    for scope, account in accounts.items():
        total = account.posted_nusd + account.held_nusd
        assert billed[scope] <= total <= account.cap_nusd, account


def end_what_is_open(ledger: RedisLedger) -> None:
    until_s = time.monotonic() + 5
    while any(account.held_nusd for account in accounts_of(ledger).values()):
        assert time.monotonic() < until_s, "something stays held"
        ledger.expire_overdue(limit=100)
        time.sleep(0.02)


@pytest.mark.timeout(60)
def test_no_crash_spends_more_than_the_cap_or_loses_a_bill(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, appendfsync="always")
    server.start()
    bill = tmp_path / "bill"
    bill.touch()
    chance = random.Random(6)  # noqa: S311
    with connect(server.url) as client:
        ledger = RedisLedger(client)
        for scope, cap in CAPS.items():
            ledger.open_account(scope, cap)
        fleet = Fleet(server.url, bill)
        try:
            for kill in range(KILLS):
                time.sleep(chance.uniform(0.03, 0.12))
                fleet.kill_one(chance)
                if kill == KILLS // 2:
                    server.kill()
                    server.start()
                ledger.expire_overdue(limit=100)
                check_law_6(ledger, bill)
            until_s = time.monotonic() + 15
            while fleet.alive() and time.monotonic() < until_s:
                ledger.expire_overdue(limit=100)
                check_law_6(ledger, bill)
                time.sleep(0.1)
        finally:
            fleet.end()
        assert fleet.failures == []
        end_what_is_open(ledger)
        check_law_6(ledger, bill)
        check_each_call(ledger, bill)
    server.kill()


def check_each_call(ledger: RedisLedger, bill: Path) -> None:
    """Each request has one reservation, which is settled at what was billed, or charged above it."""
    calls = read_bill(bill)
    billed = {call.reservation_id: call.cost_nusd for call in calls}
    entries = [entry for n in range(8) for entry in ledger.entries(f"s{n}")]
    states = {entry.reservation_id: entry.state for entry in entries}

    assert len(billed) == len(calls)
    assert billed.keys() <= states.keys()
    for entry in entries:
        cost = billed.get(entry.reservation_id, 0)
        if entry.state is EntryState.SETTLED:
            assert entry.actual_nusd == cost
        else:
            assert entry.actual_nusd >= cost
    for scope, account in accounts_of(ledger).items():
        assert account.posted_nusd == sum(e.actual_nusd for e in entries if scope in e.scopes)
    assert sum(state is EntryState.EXPIRED for state in states.values()) > 0
    assert len(calls) >= 1_000
