"""Hints on a real broker: all of them at once, nothing kept of them, and no harm when it is away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import pytest
from kombu import Queue

from worker.embedded.process import free_ports
from worker.messages import CeleryHints
from worker.ports import Announcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

RUNS = tuple(
    Announcement(session_id="s1", step_id=f"run/1.0.{n}", queue="student") for n in range(64)
)


@pytest.fixture
def app(redis_url: str) -> Iterator[celery.Celery]:
    """An application on an empty broker, with queues as the workers have them."""
    made = _app(redis_url)
    yield made
    made.close()


def _app(url: str) -> celery.Celery:
    made = celery.Celery("hints", broker=url, set_as_current=False)
    queues = (Queue("control"), Queue("student", no_ack=True))
    made.conf.update(task_queues=queues, task_serializer="json", task_send_sent_event=True)
    made.conf.broker_transport_options = {"socket_connect_timeout": 1}
    return made


def test_a_fan_out_takes_a_few_round_trips(app: celery.Celery, redis_client: redis.Redis) -> None:
    hints = CeleryHints(app)
    hints.tell(RUNS[:1])  # Connects and declares.
    before: Any = redis_client.info("stats")

    hints.tell(RUNS)

    after: Any = redis_client.info("stats")
    assert redis_client.llen("student") == len(RUNS) + 1
    reads = after["total_reads_processed"] - before["total_reads_processed"]
    assert reads < len(RUNS) / 2, "every message went out by itself"


def test_a_hint_that_was_taken_is_kept_nowhere(
    app: celery.Celery, redis_client: redis.Redis
) -> None:
    taken: list[Any] = []
    CeleryHints(app).tell(RUNS[:1])

    with app.connection_for_read() as connection:
        consumer: Any = app.amqp.TaskConsumer(connection.default_channel, accept=["json"])
        consumer.on_message = taken.append
        with consumer:
            connection.drain_events(timeout=5)
            kept = redis_client.exists("unacked")

    assert len(taken) == 1
    assert not kept


def test_a_broker_that_is_away_costs_a_warning() -> None:
    (port,) = free_ports(1)
    app = _app(f"redis://127.0.0.1:{port}/0")

    CeleryHints(app).tell(RUNS)

    app.close()
