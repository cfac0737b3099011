"""The ledger's transitions leave Redis when, and only when, they lie in the object store."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.money.transitions import Retold
from worker.artifacts.memory import MemoryArtifacts
from worker.artifacts.s3 import S3Artifacts
from worker.core import keys
from worker.core.values import Usage
from worker.errors import BadInput, Misconfigured, Unavailable
from worker.ledger.redis import RedisLedger
from worker.redis_connection import connect
from worker.telemetry.metrics import Metrics
from worker.transitions import MANY, LedgerWatch, archive, lines, read_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from tests.services import Bucket
    from worker.ports import Artifacts, Transition

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

SCOPES = ("fleet", "session:s")
AT_ONCE = 0
STREAM = "{diagnosis}:bud:j"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def ledger(client: redis.Redis) -> RedisLedger:
    ledger = RedisLedger(client)
    for scope in SCOPES:
        ledger.open_account(scope, 1_000_000)
    return ledger


def call(ledger: RedisLedger, name: str) -> None:
    """Make a call of three transitions."""
    ledger.reserve(
        name,
        10,
        SCOPES,
        kind="explore",
        model="m",
        step_id="turn/1",
        price_version="v",
        deadline_ms=600_000,
    )
    ledger.sent(name)
    ledger.settle(name, 7, usage=Usage(output_tokens=7))


def archived(artifacts: Artifacts) -> list[Transition]:
    parts = (artifacts.get(key) for key in artifacts.list("ledger/"))
    return [one for part in parts for one in read_part(part or b"")]


class AwayArtifacts(MemoryArtifacts):
    """A store that takes nothing."""

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        raise Unavailable("S3 is away")


class LeavingArtifacts(MemoryArtifacts):
    """A worker that dies right after its write."""

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        super().put_new(key, body, content_type=content_type)
        raise Unavailable("the reply was lost")


def test_the_archive_alone_tells_what_the_accounts_show(ledger: RedisLedger) -> None:
    artifacts = MemoryArtifacts()
    for number in range(20):
        call(ledger, f"a{number}")

    written = archive(ledger, artifacts, most=9, age_ms=AT_ONCE)

    assert written == 2 + 3 * 20
    assert ledger.unarchived() == 0
    retold = Retold()
    retold.hear(archived(artifacts))
    account = ledger.account("fleet")
    assert account is not None
    assert account.posted_nusd == 140
    assert retold.shows(account)


def test_a_part_is_named_by_its_first_and_last_transition_on_a_real_store(
    ledger: RedisLedger, bucket: Bucket
) -> None:
    store = S3Artifacts(
        bucket.name,
        endpoint_url=bucket.endpoint_url,
        region=bucket.region,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
    )
    call(ledger, "a")
    (first, *_, last) = [one.transition_id for one in ledger.transitions("-", "+")]

    archive(ledger, store, age_ms=AT_ONCE)

    assert store.list("ledger/") == (keys.transitions(first, last),)
    assert [one.fields["op"] for one in archived(store)] == [
        *("open", "open", "reserve", "sent", "settle")
    ]
    store.close()


def test_young_transitions_wait_until_they_are_many_or_old(ledger: RedisLedger) -> None:
    artifacts = MemoryArtifacts()

    assert archive(ledger, artifacts, most=100, age_ms=60_000) == 0
    assert ledger.unarchived() == 2

    call(ledger, "a")
    assert archive(ledger, artifacts, most=5, age_ms=60_000) == 5


def test_while_the_store_is_away_nothing_is_dropped(ledger: RedisLedger) -> None:
    call(ledger, "a")
    before = ledger.transitions("-", "+")

    for _ in range(3):
        with pytest.raises(Unavailable):
            archive(ledger, AwayArtifacts(), age_ms=AT_ONCE)
    call(ledger, "b")

    assert ledger.transitions("-", "+")[: len(before)] == before
    artifacts = MemoryArtifacts()
    archive(ledger, artifacts, age_ms=AT_ONCE)
    archive(ledger, artifacts, age_ms=AT_ONCE)
    assert [one.fields["op"] for one in archived(artifacts)].count("settle") == 2


def test_a_part_whose_writer_died_is_finished_by_the_next(ledger: RedisLedger) -> None:
    call(ledger, "a")
    store = LeavingArtifacts()
    with pytest.raises(Unavailable):
        archive(ledger, store, age_ms=AT_ONCE)
    call(ledger, "b")
    healed = MemoryArtifacts()
    for key in store.list("ledger/"):
        healed.put(key, store.get(key) or b"", content_type="application/x-ndjson")

    archive(ledger, healed, age_ms=AT_ONCE)

    assert ledger.unarchived() == 0
    ids = [one.transition_id for one in archived(healed)]
    assert len(ids) == len(set(ids)) == 2 + 3 * 2


def test_many_workers_archive_each_transition_once(ledger: RedisLedger) -> None:
    artifacts = MemoryArtifacts()
    done = threading.Event()

    def keep_archiving(_: int) -> None:
        while not done.is_set():
            archive(ledger, artifacts, most=7, age_ms=AT_ONCE)

    with ThreadPoolExecutor(6) as pool:
        workers = pool.map(keep_archiving, range(4))
        list(pool.map(partial(call, ledger), (f"c{number}" for number in range(100))))
        done.set()
        list(workers)
    archive(ledger, artifacts, age_ms=AT_ONCE)

    ids = [one.transition_id for one in archived(artifacts)]
    assert len(ids) == len(set(ids)) == 2 + 3 * 100
    assert ids == sorted(ids, key=lambda one: tuple(map(int, one.split("-"))))


def test_another_part_under_the_same_name_is_never_overwritten_nor_trusted(
    ledger: RedisLedger,
) -> None:
    call(ledger, "a")
    transitions = ledger.transitions("-", "+")
    artifacts = MemoryArtifacts()
    key = keys.transitions(transitions[0].transition_id, transitions[-1].transition_id)
    artifacts.put(key, lines(transitions[:-1]), content_type="application/x-ndjson")

    with pytest.raises(Misconfigured, match="two fleets"):
        archive(ledger, artifacts, age_ms=AT_ONCE)

    assert ledger.transitions("-", "+") == transitions


def test_a_stream_that_may_not_grow_stops_new_holds_and_nothing_else(
    client: redis.Redis, ledger: RedisLedger
) -> None:
    call(ledger, "before")
    fill(client, 500_000)

    with pytest.raises(Unavailable, match="wait to be archived"):
        call(ledger, "new")
    account = ledger.account("fleet")
    assert account is not None
    assert (account.posted_nusd, account.held_nusd) == (7, 0)
    assert ledger.expire_overdue(limit=1) == 0

    client.xtrim(STREAM, maxlen=10, approximate=False)
    call(ledger, "new")


def fill(client: redis.Redis, count: int) -> None:
    script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'op', 'x') end"
    for _ in range(10):
        client.eval(script, 1, STREAM, str(count // 10))


def test_a_frozen_account_and_a_late_archive_are_said_once_and_shown(
    client: redis.Redis, ledger: RedisLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    watch, registry = LedgerWatch(), CollectorRegistry()
    metrics = Metrics(registry)
    metrics.ledger(**watch.look(ledger, ledger.accounts()))
    call(ledger, "a")
    ledger.reserve(
        "over",
        10,
        SCOPES,
        kind="explore",
        model="m",
        step_id="turn/2",
        price_version="v",
        deadline_ms=600_000,
    )
    ledger.sent("over")

    assert not ledger.settle("over", 2_000_000_010, usage=Usage())
    fill(client, MANY + 10)
    for _ in range(3):
        metrics.ledger(**watch.look(ledger, ledger.accounts()))

    assert registry.get_sample_value("diagnosis_ledger_frozen_accounts") == 1
    assert registry.get_sample_value("diagnosis_ledger_breach_usd") == 2.0
    assert (registry.get_sample_value("diagnosis_ledger_unarchived_transitions") or 0) > MANY
    said = capsys.readouterr().out
    assert said.count("accounts frozen") == 1
    assert said.count("falls behind") == 1


def test_keys_sort_like_their_transitions_and_refuse_what_is_none() -> None:
    ids = ["999999999999-3", "1763856000000-9", "1763856000000-10", "1763856000001-0"]

    names = [keys.transitions(a, b) for a, b in itertools.pairwise(ids)]

    assert names == sorted(names)
    for wrong in ("", "1-", "../1-0", "1-0/x", "1-0\n"):
        with pytest.raises(BadInput):
            keys.transitions(wrong, "1-0")


def test_a_part_is_read_as_it_was_written(ledger: RedisLedger, tmp_path: Path) -> None:
    call(ledger, "a")
    transitions = ledger.transitions("-", "+")

    assert read_part(lines(transitions)) == transitions
