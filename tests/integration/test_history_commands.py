"""The commands about the past of sessions, on a real Valkey and a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from tests.unit.history.sessions import artifact_key, end_session, open_session, place, spec_of
from worker import bootstrap
from worker.cli import cli
from worker.core import keys
from worker.core.events import BundlePrepared
from worker.core.values import Text, Usage
from worker.errors import Unavailable
from worker.ports import Announcement, Claim, Commit
from worker.settings import load_settings
from worker.wire.archive import archived_records
from worker.wire.journal import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.services import Bucket
    from worker.bootstrap import System
    from worker.wire.result import DiagnoseResult

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

GOLDEN = Path(__file__).parents[1] / "golden" / "journals"


def _unread(result: DiagnoseResult, runtime_s: float) -> None:
    """Publish no result."""


class _Untold:
    def tell(self, announcements: object) -> None:
        """Tell nobody."""


@dataclass
class Desk:
    system: System
    env: dict[str, str]

    def run(self, *args: str, code: int = 0) -> Result:
        result = CliRunner(env=self.env).invoke(cli, args, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def rows(self, *args: str, code: int = 0) -> list[dict[str, Any]]:
        lines = self.run(*args, "--json", code=code).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def claim(self, session_id: str, step_id: str, owner: str) -> Claim:
        token = f"{owner}-{step_id}"
        claim = self.system.journal.claim(session_id, step_id, owner=owner, token=token, since=0)
        assert claim.lease is not None
        return claim


@pytest.fixture
def desk(redis_url: str, bucket: Bucket) -> Iterator[Desk]:
    env = {
        "DIAGNOSIS_REDIS_URL": redis_url,
        "DIAGNOSIS_S3_ENDPOINT": bucket.endpoint_url,
        "DIAGNOSIS_S3_BUCKET": bucket.name,
        "DIAGNOSIS_S3_ACCESS_KEY": bucket.access_key,
        "DIAGNOSIS_S3_SECRET_KEY": bucket.secret_key,
        "DIAGNOSIS_KEY_PREFIX": "history",
        "COLUMNS": "200",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        system = bootstrap.build(load_settings(), hints=_Untold(), publish=_unread)
    yield Desk(system, {**os.environ, **env})
    system.close()


def prepared_and_given_back(desk: Desk, session_id: str) -> None:
    """Open a session whose first attempt met an error and whose second is in the journal."""
    journal = desk.system.journal
    open_session(journal, session_id)
    first = desk.claim(session_id, "prepare", "w-1").lease
    assert first is not None
    journal.retry(first, delay_ms=0, error="S3 did not answer")
    second = desk.claim(session_id, "prepare", "w-2").lease
    assert second is not None
    event = BundlePrepared(brief=Text(text="3 traces"), traces=3, tasks=4)
    follow = Announcement(session_id=session_id, step_id="turn/1", queue="teacher")
    done = Commit(lease=second, events=(encode(event),), expected_length=1, follow=(follow,))
    assert journal.commit(done).status == "ok"


def pay(desk: Desk, session_id: str) -> None:
    ledger = desk.system.ledger
    scopes = ("fleet", f"session:{session_id}")
    for scope in scopes:
        ledger.open_account(scope, 10_000_000_000)
    ledger.reserve(
        f"{session_id}/turn/1.1",
        200_000_000,
        scopes,
        kind="explore",
        model="claude-opus-4-6",
        step_id="turn/1",
        price_version="1",
        deadline_ms=60_000,
    )
    ledger.sent(f"{session_id}/turn/1.1")
    ledger.settle(
        f"{session_id}/turn/1.1", 50_000_000, usage=Usage(output_tokens=1), request_id="req_7"
    )


def test_explain_says_who_did_what_why_again_and_what_was_paid(desk: Desk) -> None:
    prepared_and_given_back(desk, "s-1")
    pay(desk, "s-1")

    rows = desk.rows("explain", "s-1")
    shown = desk.run("explain", "s-1").stdout

    assert [(row["source"], row["step_id"], row["owner"], row["attempt"]) for row in rows] == [
        ("journal", "open", "", 0),
        ("attempt", "prepare", "w-1", 1),
        ("journal", "prepare", "w-2", 2),
        ("money", "turn/1", "", 0),
        ("under way", "turn/1", "", 0),
    ]
    assert rows[3]["charged_nusd"] == 50_000_000
    assert "S3 did not answer" in shown
    assert "paid $0.05 of $0.20 held (req_7)" in shown
    assert "$0.0500 charged; attempts taken over or tried again: 1" in shown


def test_a_session_that_nobody_knows_is_not_found(desk: Desk) -> None:
    for command in ("explain", "replay"):
        assert "there is no session" in desk.run(command, "nobody", code=5).stderr


def test_replay_shows_what_was_wanted_and_that_it_was_asked_for(desk: Desk) -> None:
    prepared_and_given_back(desk, "s-1")

    rows = desk.rows("replay", "s-1")

    assert [(row["key"], row["verdict"], row["wanted"]) for row in rows] == [
        ("open", "outside", ["prepare"]),
        ("prepare", "wanted", ["turn/1"]),
    ]
    assert "2 events, each of them asked for" in desk.run("replay", "s-1").stdout


def test_replay_finds_a_step_that_was_never_asked_for(desk: Desk) -> None:
    prepared_and_given_back(desk, "s-1")
    records = archived_records((GOLDEN / "worker-killed.jsonl").read_bytes())
    run = next(record for record in records if record.key == "run/2.0.0")
    desk.system.journal.append("s-1", run.key, run.body)

    result = desk.run("replay", "s-1", code=1)

    assert "run/2.0.0 is illegal" in result.stderr


def test_dead_letters_are_listed_and_discarded(desk: Desk) -> None:
    journal = desk.system.journal
    open_session(journal, "s-1")
    assert "no step was given up" in desk.run("dead-letters").stdout
    lease = desk.claim("s-1", "prepare", "w-1").lease
    assert lease is not None
    failed = Commit(
        lease=lease, events=(("prepare", "{}"),), expected_length=1, given_up="it killed\n3 workers"
    )
    journal.commit(failed)

    (row,) = desk.rows("dead-letters")

    assert (row["number"], row["session_id"], row["step_id"]) == (1, "s-1", "prepare")
    assert "it killed 3 workers" in desk.run("dead-letters").stdout
    desk.run("dead-letters", "discard", code=2)
    assert "there is no dead letter 7" in desk.run("dead-letters", "discard", "7", code=5).stderr
    assert "1 discarded" in desk.run("dead-letters", "discard", "1").stdout
    assert "0 discarded" in desk.run("dead-letters", "discard", "--all").stdout


def ended(desk: Desk, session_id: str) -> None:
    labels = place(session_id)
    journal = desk.system.journal
    open_session(journal, session_id, labels=labels)
    end_session(journal, desk.system.artifacts, session_id)


def test_an_ended_session_leaves_redis_and_can_still_be_explained(desk: Desk) -> None:
    ended(desk, "s-1")
    open_session(desk.system.journal, "s-2", labels=place("s-2"))
    before = [(row["at_ms"], row["what"]) for row in desk.rows("explain", "s-1")]

    assert "0 left Redis" in desk.run("prune").stdout
    dry = desk.run("prune", "--older-than-days", "0", "--dry-run").stdout
    assert "1 would leave Redis, 0 stay" in dry
    assert desk.system.journal.load("s-1").length == 3
    pruned = desk.rows("prune", "--older-than-days", "0")

    assert [(row["session_id"], row["pruned"]) for row in pruned] == [("s-1", True)]
    assert desk.system.journal.load("s-1").length == 0
    assert desk.system.journal.load("s-2").length == 1
    assert [(row["at_ms"], row["what"]) for row in desk.rows("explain", "s-1")] == before
    assert [row["key"] for row in desk.rows("replay", "s-1")] == ["open", "cancel", "conclude"]
    assert not desk.system.runner.open(spec_of("s-1"), {})


def test_status_says_where_the_artifacts_of_a_pruned_session_are(desk: Desk) -> None:
    ended(desk, "s-1")
    desk.run("prune", "--older-than-days", "0")
    uri = desk.system.artifacts.uri(keys.session_folder(**place("s-1")))

    said = json.loads(desk.run("status", "s-1", "--json").stdout)

    assert (said["outcome"], said["artifacts_uri"]) == ("cancelled", uri)
    assert uri in desk.run("status", "s-1").stdout.replace("\n", "")


def test_a_redis_that_is_full_is_given_room_by_pruning(
    desk: Desk, redis_client: redis.Redis
) -> None:
    ended(desk, "s-1")
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable, match="refused to write"):
            open_session(desk.system.journal, "s-2")

        assert "1 left Redis, 0 stay" in desk.run("prune", "--older-than-days", "0").stdout
    finally:
        redis_client.config_set("maxmemory", 0)

    assert desk.system.journal.labels("s-1")["outcome"] == "cancelled"
    assert redis_client.keys("{history}:?:s-1*") == [b"{history}:s:s-1"]


def test_a_worker_prunes_by_its_setting(desk: Desk) -> None:
    """What the pruner of a worker does each hour, in a process of its own."""
    ended(desk, "s-1")

    def pruned(days: str) -> str:
        code = "from worker.app import prune_now; print(prune_now(lambda: False))"
        env = {**desk.env, "DIAGNOSIS_KEEP_ENDED_SESSIONS_DAYS": days}
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return ran.stdout.splitlines()[-1]

    assert pruned("1") == "0"
    assert desk.system.journal.load("s-1").length == 3
    assert pruned("0") == "1"
    assert desk.system.journal.load("s-1").length == 0


def test_a_session_whose_artifact_is_gone_stays(desk: Desk) -> None:
    ended(desk, "s-1")
    desk.system.artifacts.delete(artifact_key("s-1", "clusters.json"))

    (kept,) = desk.rows("prune", "--older-than-days", "0", code=5)

    assert not kept["pruned"]
    assert "clusters.json is missing" in kept["why"]
    assert desk.system.journal.load("s-1").length == 3
