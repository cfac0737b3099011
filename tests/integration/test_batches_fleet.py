"""Sessions that can wait are judged in batches, at half the price; the ledger is the bill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fleets import Harness, airline_home, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["airline_home"]
pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("120")]


@pytest.fixture(scope="module")
def waiting(airline_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A fleet that asks about its batches often."""
    directory = tmp_path_factory.mktemp("batches")
    with running(airline_home, directory, BATCH_POLL_S="0.2") as started:
        yield started


def bills(harness: Harness) -> list[dict[str, Any]]:
    urls = (harness.teacher_url, harness.judge_url)
    return [line for url in urls for line in harness.asked("/_sim/bill", of=url)["entries"]]


def test_a_session_that_can_wait_is_judged_at_half_the_price(waiting: Harness) -> None:
    waiting.asked("/_sim/batches", {"processing_ms": 300}, of=waiting.judge_url)

    result = waiting.run("batched", batches=True)

    assert result.outcome == "concluded"
    rows, lines = waiting.rows("batched", "costs.jsonl"), bills(waiting)
    account = waiting.system.ledger.account("campaign:default")
    assert account is not None
    billed = sum(line["amount_nano_usd"] for line in lines)
    assert billed == account.posted_nusd == result.cost_nusd
    assert billed == sum(row["actual_nusd"] for row in rows)
    assert account.held_nusd == 0
    judged = [row for row in rows if row["kind"] == "judge_batch"]
    assert judged
    assert {row["state"] for row in judged} == {"settled"}
    assert not [row for row in rows if row["kind"] == "judge"]
    batched = [line for line in lines if line["endpoint"].endswith("/batches")]
    assert sum(line["amount_nano_usd"] for line in batched) == sum(r["actual_nusd"] for r in judged)
    assert all(row["request_id"].startswith("msgbatch_") for row in judged)
    made = waiting.asked("/_sim/batches", of=waiting.judge_url)["batches"]
    assert len(made) == len(judged)


def test_the_end_of_a_session_cancels_the_batches_that_nobody_waits_for(waiting: Harness) -> None:
    waiting.asked("/_sim/batches", {"processing_ms": 86_000_000}, of=waiting.judge_url)

    result = waiting.run("not-waited-for", batches=True, limits={"max_duration_s": 10})

    rows = waiting.rows("not-waited-for", "costs.jsonl")
    judged = [row for row in rows if row["kind"] == "judge_batch"]
    assert judged
    assert {(row["state"], row["actual_nusd"]) for row in judged} == {("void", 0)}
    assert result.cost_nusd == sum(row["actual_nusd"] for row in rows)
    account = waiting.system.ledger.account("campaign:default")
    assert account is not None
    assert account.held_nusd == 0
    assert account.posted_nusd == sum(line["amount_nano_usd"] for line in bills(waiting))
