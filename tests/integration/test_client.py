"""A producer that wants to know: its request is sent until a worker has taken it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.fleets import Harness, airline_home, harness
from tests.waiting import until
from worker import client as client_module
from worker.client import Client
from worker.errors import RequestInvalid, Unavailable
from worker.messages import CeleryResults
from worker.wire.request import DiagnoseRequest, parse_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

__all__ = ["airline_home", "harness"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.enable_socket,
    # Celery's result store calls redis-py so.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

QUEUE = "diagnosis:control"


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of an empty broker, behind which no worker is."""
    monkeypatch.setattr(client_module, "SEND_AGAIN_S", 0.1)
    made = Client(redis_url)
    yield made
    made.close()


def a_request() -> DiagnoseRequest:
    return parse_request(
        {"session_id": "s-1", "bundle": f"s3://diagnosis/bundles/{'0' * 64}.tar.gz"}
    )


def waiting(client: Client) -> threading.Thread:
    """Enqueue, and wait for a worker, beside the test."""
    thread = threading.Thread(
        target=client.enqueue, args=(a_request(),), kwargs={"taken_within_s": 30}, daemon=True
    )
    thread.start()
    return thread


def test_a_request_whose_message_was_lost_is_sent_again_until_it_is_taken(
    client: Client, redis_client: redis.Redis
) -> None:
    thread = waiting(client)

    for _ in range(2):
        until("a message", lambda: redis_client.rpop(QUEUE))
    assert thread.is_alive()
    CeleryResults(client._app).take("s-1")

    thread.join(10)
    assert not thread.is_alive()


def test_a_refusal_is_an_answer_too(client: Client, redis_client: redis.Redis) -> None:
    thread = waiting(client)
    until("a message", lambda: redis_client.rpop(QUEUE))

    CeleryResults(client._app).refuse("s-1", RequestInvalid("bundle: there is none"))

    thread.join(10)
    assert not thread.is_alive()


def test_where_nobody_takes_it_that_is_said_and_it_stays_in_the_queue(
    client: Client, redis_client: redis.Redis
) -> None:
    with pytest.raises(Unavailable, match=r"'s-1', and no worker has taken it in 0\.4 s"):
        client.enqueue(a_request(), taken_within_s=0.4)

    assert redis_client.llen(QUEUE) >= 2


def test_what_is_only_sent_is_sent_once(client: Client, redis_client: redis.Redis) -> None:
    client.enqueue(a_request())

    assert redis_client.llen(QUEUE) == 1


@pytest.mark.timeout(180)
def test_a_fleet_has_opened_the_session_when_the_producer_goes_on(harness: Harness) -> None:
    harness.client.enqueue(harness.request("taken-in-time"), taken_within_s=30)

    assert harness.system.journal.labels("taken-in-time")
    harness.wait("taken-in-time")
    harness.client.enqueue(harness.request("taken-in-time"), taken_within_s=30)
