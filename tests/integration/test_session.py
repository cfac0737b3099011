"""Whole sessions on a real fleet: truth, money, endings, crashes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult

from tests.fleets import Harness, WorkerPlan, airline_home, harness
from tests.waiting import until
from worker.app import Celery
from worker.core import keys
from worker.errors import RequestInvalid
from worker.messages import DIAGNOSE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["airline_home", "harness"]

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]


def _new(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def concluded(harness: Harness) -> str:
    """A session that ran to its own end."""
    session_id = _new("whole")
    harness.run(session_id)
    return session_id


def test_the_recorded_rates_come_out_exactly(
    harness: Harness, concluded: str, airline_home: Path
) -> None:
    recorded: dict[str, list[float]] = defaultdict(list)
    for line in (airline_home / "student_runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        recorded[run["task_id"]].append(run["reward"])

    runs = [row for row in harness.rows(concluded, "runs.jsonl") if row["runner"] == "student"]

    assert len(runs) >= 12
    for run in runs:
        rewards = recorded[run["task_id"]]
        assert run["score"] == rewards[run["attempt"] % len(rewards)], run["task_id"]


def test_a_task_that_is_run_as_often_as_it_was_recorded_has_its_true_rate(
    harness: Harness, airline_home: Path
) -> None:
    truth = json.loads((airline_home / "truth.json").read_text())
    tasks = sorted(truth)[:16]
    session_id = _new("rates")
    harness.asked(
        "/_sim/script",
        {
            "replies": [
                _calls(("run_student_on_tasks", {"task_ids": tasks, "repeats": 4})),
                _says("Measured.\n```json\n[]\n```"),
            ]
        },
    )

    harness.run(session_id)
    harness.asked("/_sim/reset", {"only": ["script"]})

    passed: dict[str, list[bool]] = defaultdict(list)
    for row in harness.rows(session_id, "runs.jsonl"):
        passed[row["task_id"]].append(row["passed"])
    rates = {task: sum(runs) / len(runs) for task, runs in passed.items()}
    assert rates == {task: truth[task]["student_success_rate"] for task in tasks}


def test_no_credential_and_no_reference_answer_leaves(
    harness: Harness, concluded: str, airline_home: Path
) -> None:
    benchmark = json.loads((airline_home / "benchmark.json").read_text())
    references = [s["reference_answer"] for s in benchmark["samples"]]
    secrets = ["correct-horse-EXAMPLE", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI"]
    forbidden = [*secrets, *(text for text in references if len(text) > 20)]

    sent = json.dumps(harness.asked("/_sim/log"), ensure_ascii=False)
    written = "\n".join(harness.artifacts(concluded).values())
    everything = {"sent to the teacher": sent, "artifacts": written, "logs": harness.logs()}

    assert len(sent) > 10_000
    assert "untrusted" in sent
    for place, text in everything.items():
        plain = text.replace('\\\\"', '"').replace('\\"', '"')
        for word in forbidden:
            assert word not in text, f"{word!r} is in what was {place}"
            assert word not in plain, f"{word!r} is in what was {place}"


def test_every_artifact_is_there_and_is_what_the_manifest_says(
    harness: Harness, concluded: str
) -> None:
    files = harness.artifacts(concluded)

    assert set(files) == {
        "diagnosis.md",
        "clusters.json",
        "teacher_traces/diagnose.jsonl",
        "transcript.jsonl",
        "runs.jsonl",
        "costs.jsonl",
        "session.json",
    }
    calls = harness.rows(concluded, "teacher_traces/diagnose.jsonl")
    assert {"timestamp", "tool", "args", "result", "latency_ms", "cost_usd"} <= set(calls[0])
    clusters = json.loads(files["clusters.json"])
    assert 1 <= len(clusters) <= 5
    assert all(cluster["student_failure_rate"] is not None for cluster in clusters)


def test_every_turn_after_the_first_reads_its_prefix_from_the_cache(
    harness: Harness, concluded: str
) -> None:
    turns = [row for row in harness.rows(concluded, "transcript.jsonl") if "cache" in row]
    session = json.loads(harness.artifacts(concluded)["session.json"])

    assert len(turns) > 3
    assert [row["cache"]["miss"] for row in turns[1:]] == [None] * (len(turns) - 1)
    assert all(row["cache"]["read_tokens"] > 4_000 for row in turns[1:])
    assert session["cost"]["cache"]["missed_tokens"] == 0
    assert session["cost"]["cache"]["saved_nusd"] > 0


def test_enqueueing_twice_makes_one_session(harness: Harness, concluded: str) -> None:
    before = harness.system.journal.load(concluded).length

    harness.client.enqueue(harness.request(concluded))
    harness.client.enqueue(harness.request(concluded))
    marker = _new("after")
    harness.run(marker, limits={"max_turns": 1})

    assert harness.system.journal.load(concluded).length == before


def test_any_celery_client_can_enqueue_by_name(harness: Harness) -> None:
    settings = harness.fleet.settings()
    app = Celery("somebody", broker=settings.broker, backend=settings.results, set_as_current=False)
    options = {"global_keyprefix": f"{settings.key_prefix}:"}
    app.conf.update(broker_transport_options=options, result_backend_transport_options=options)
    session_id = _new("by-name")

    app.send_task(
        DIAGNOSE,
        args=({"bundle": harness.bundle_uri, "limits": {"max_turns": 1}},),
        task_id=session_id,
        queue="control",
    )
    pending: AsyncResult[Any] = AsyncResult(session_id, app=app)
    result: Any = pending.get(timeout=60)
    del pending  # it unsubscribes, which takes a connection
    app.close()

    assert result["session_id"] == session_id
    assert result["outcome"] in {"concluded", "inconclusive"}


ENDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "turns": ({"limits": {"max_turns": 2}}, "turn"),
    "tool calls": ({"limits": {"max_tool_calls": 4}}, "tool call"),
    "budget": ({"limits": {"max_cost_usd": "0.80"}}, "budget"),
    "one call": ({"limits": {"max_cost_usd": "0.30"}}, "budget"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_ends_a_session_there_is_a_diagnosis_and_the_bill_is_the_ledger(
    harness: Harness, ending: str
) -> None:
    fields, _ = ENDINGS[ending]
    session_id = _new("end")

    result = harness.run(session_id, **fields)

    assert result.outcome in {"concluded", "inconclusive"}
    assert result.reason
    assert harness.artifacts(session_id)["diagnosis.md"].strip()
    _assert_bill_is_ledger(harness, session_id)


def test_a_cancelled_session_ends_with_artifacts_and_its_true_cost(harness: Harness) -> None:
    session_id = _new("cancel")
    harness.client.enqueue(harness.request(session_id))
    until("a first turn", lambda: _turns(harness, session_id))

    assert harness.system.runner.cancel(session_id, "a test says so")
    result = harness.wait(session_id)

    assert result.outcome == "cancelled"
    assert "a test says so" in result.reason
    _assert_bill_is_ledger(harness, session_id)


def test_a_session_without_its_bundle_fails_with_the_reason(harness: Harness) -> None:
    session_id = _new("missing")
    settings = harness.fleet.settings()
    uri = f"s3://{settings.s3_bucket}/{keys.bundle('0' * 64)}"

    result = harness.run(session_id, bundle=uri)

    assert result.outcome == "failed"
    assert "0" * 64 in result.reason
    assert harness.artifacts(session_id)["diagnosis.md"].strip()
    _assert_bill_is_ledger(harness, session_id)


def test_a_request_that_is_refused_says_which_field(harness: Harness) -> None:
    session_id = _new("refused")
    request = harness.request(session_id).model_copy(update={"student": "nobody"})

    harness.client.enqueue(request)

    with pytest.raises(RequestInvalid, match=r"student: 'nobody' is not in this worker's settings"):
        harness.wait(session_id)


def test_a_worker_that_is_killed_takes_nothing_with_it(harness: Harness) -> None:
    doomed = harness.fleet.begin_worker(
        WorkerPlan(
            name=_new("doomed"), queues="control,tools,teacher,artifacts,student", concurrency=8
        )
    )
    harness.fleet.stack.wait_ready()
    session_ids = [_new("kill") for _ in range(4)]
    for session_id in session_ids:
        harness.client.enqueue(harness.request(session_id))
    until("a first turn", lambda: any(_turns(harness, s) for s in session_ids))

    assert doomed.info.pid is not None
    os.kill(doomed.info.pid, signal.SIGKILL)

    for session_id in session_ids:
        assert harness.wait(session_id).outcome == "concluded"
        ends = [r for r in harness.system.journal.load(session_id).records if r.key == "conclude"]
        assert len(ends) == 1
        assert set(harness.artifacts(session_id)) >= {"diagnosis.md", "clusters.json"}


def test_nothing_stays_due_or_held_when_all_sessions_have_ended(
    harness: Harness, concluded: str
) -> None:
    assert concluded
    until("an empty due set", lambda: not harness.system.journal.overdue())
    assert all(account.held_nusd == 0 for account in harness.system.ledger.accounts())


def _turns(harness: Harness, session_id: str) -> int:
    session = harness.system.runner.session(session_id)
    return len(session.turns) if session else 0


def _assert_bill_is_ledger(harness: Harness, session_id: str) -> None:
    """Check that the providers' bill, the ledger and the artifact agree to the nano-dollar."""
    costs = harness.rows(session_id, "costs.jsonl")
    lines = [
        line
        for url, judges in ((harness.teacher_url, False), (harness.judge_url, True))
        for line in harness.asked("/_sim/bill", of=url)["entries"]
        if line["request_id"] in _requests(costs, judges=judges)
    ]
    billed = sum(line["amount_nano_usd"] for line in lines)
    account = harness.system.ledger.account(f"session:{session_id}")
    assert account is not None
    assert sum(row["actual_nusd"] for row in costs) == billed == account.posted_nusd
    assert account.held_nusd == 0
    assert account.posted_nusd <= account.cap_nusd
    assert len(lines) == sum(bool(row["request_id"]) for row in costs)


def _requests(costs: list[dict[str, Any]], *, judges: bool) -> set[str]:
    return {row["request_id"] for row in costs if (row["kind"] == "judge") is judges}


def _calls(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    blocks = [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": arguments}
        for n, (name, arguments) in enumerate(calls)
    ]
    return {"blocks": blocks, "stop_reason": "tool_use"}


def _says(text: str) -> dict[str, Any]:
    return {"blocks": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
