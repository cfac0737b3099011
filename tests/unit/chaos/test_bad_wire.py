"""The bad wire loses and doubles messages to the queues, and changes nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from tests.chaos.broker import BadWire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.embedded.valkey import ValkeyServer

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]


@pytest.fixture
def wire(valkey_server: ValkeyServer, redis_client: redis.Redis) -> Iterator[BadWire]:
    assert redis_client.dbsize() == 0
    with BadWire(valkey_server.port, seed=1) as wire:
        yield wire


@pytest.fixture
def client(valkey_server: ValkeyServer, wire: BadWire) -> Iterator[redis.Redis]:
    with redis.Redis(port=wire.port, password=valkey_server.password) as client:
        yield client


def test_a_calm_wire_changes_nothing(client: redis.Redis, wire: BadWire) -> None:
    body = b"\r\n*3\r\n$5\r\nLPUSH\r\n" + bytes(range(256)) * 500

    client.lpush("d:teacher", body)
    client.set("other", body)

    assert client.brpop(["d:teacher"], timeout=1) == (b"d:teacher", body)
    assert client.get("other") == body
    assert wire.seen == {"whole": 1}


def test_messages_are_lost_and_doubled_in_the_share_that_was_asked_for(
    client: redis.Redis, wire: BadWire
) -> None:
    wire.storm(lost=0.3, doubled=0.2)
    pipeline = client.pipeline(transaction=True)
    for number in range(1_000):
        pipeline.lpush("d:student", number)
        pipeline.lpush("no-queue", number)

    replies = pipeline.execute()

    assert len(replies) == 2_000
    assert client.llen("no-queue") == 1_000
    assert wire.seen.total() == 1_000
    assert client.llen("d:student") == 1_000 - wire.seen["lost"] + wire.seen["doubled"]
    assert 250 < wire.seen["lost"] < 350
    assert 150 < wire.seen["doubled"] < 250


def test_the_end_of_one_side_is_the_end_of_the_other(
    valkey_server: ValkeyServer, client: redis.Redis, redis_client: redis.Redis
) -> None:
    client.ping()
    before = redis_client.info("clients")["connected_clients"]

    client.close()
    with redis.Redis(port=valkey_server.port, password=valkey_server.password) as another:
        another.ping()
        left = another.info("clients")["connected_clients"]

    assert left <= before
