"""What people see of the limits: who is under way, who is paused or stopped, and how to lift it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from worker.cli import cli
from worker.core.rates import Ask, Ending, Limits, Rates
from worker.doctor import examine
from worker.limits.redis import RedisLimiter
from worker.redis_connection import connect
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

KEY = "sk-ant-secret"


class Desk:
    def __init__(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        variables = {
            "REDIS_URL": redis_url,
            "TEACHERS__DEFAULT__API_KEY": KEY,
            "TEACHERS__DEFAULT__BASE_URL": "http://127.0.0.1:9",
            "TEACHERS__DEFAULT__REQUESTS_PER_MINUTE": "300",
            "STUDENTS__DEFAULT__BASE_URL": "http://127.0.0.1:9/v1",
            "STUDENTS__DEFAULT__MODEL": "small",
            "STUDENTS__DEFAULT__MAX_CONCURRENCY": "3",
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"DIAGNOSIS_{name}", value)
        self.settings: Settings = load_settings()
        self.client = connect(redis_url)
        self.limiter = RedisLimiter(self.client, prefix=self.settings.key_prefix)

    def call(self, account: str, group: str, ending: Ending | None = None) -> None:
        self.limiter.admit(account, group, Limits(), Ask(grant="g", name="n"))
        if ending is not None:
            self.limiter.end(account, group, Limits(), "g", ending)

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def findings(self) -> list[str]:
        """Return the doctor's words about limits."""
        checks = [check for check in examine(self.settings) if check.name.startswith("limits")]
        return [f"{check.state} {check.name}: {check.found} -> {check.cure}" for check in checks]


@pytest.fixture
def desk(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(redis_url, monkeypatch)
    yield made
    made.client.close()


def test_nothing_to_show(desk: Desk) -> None:
    assert "nothing was called" in desk.run("limits", "list").output
    assert desk.run("limits", "list", "--json").output == ""
    assert "was not held back" in desk.run("limits", "lift", "student", "default").output
    assert (
        "no teacher named 'other'" in desk.run("limits", "lift", "teacher", "other", code=5).output
    )


def test_calls_under_way_and_a_pause_are_shown_and_lifted(desk: Desk) -> None:
    teacher, student = desk.settings.teachers["default"], desk.settings.students["default"]
    paused = Ending(outcome="limited", pause_ms=600_000, said="too many", told=Rates(requests=120))
    desk.call(teacher.account, "opus-4", paused)
    desk.call(student.account, "all")

    rows = [json.loads(line) for line in desk.run("limits", "list", "--json").stdout.splitlines()]

    assert [row["server"] for row in rows] == ["teacher default", "student default"]
    assert rows[0]["told"]["requests"] == 120
    assert rows[0]["limits"]["requests"] == 300
    assert rows[0]["said"] == "too many"
    assert rows[0]["pause_ms"] > 590_000
    assert (rows[1]["under_way"], rows[1]["slots"]) == (1, 3)
    shown = " ".join(desk.run("limits", "list").output.split())
    assert re.search(r"paused for \d+ s: too many", shown)
    assert "is called again" in desk.run("limits", "lift", "teacher", "default").output
    assert "paused" not in desk.run("limits", "list").output


def test_a_stopped_account_is_the_doctors_first_concern(desk: Desk) -> None:
    account = desk.settings.teachers["default"].account
    desk.call(account, "opus-4", Ending(outcome="failed", stops=True, said="limit reached"))

    (found,) = desk.findings()
    assert found.startswith("fail limits of teacher default: no call is made, ")
    assert found.endswith(
        "limit reached -> put it right there, then `diagnosis limits lift teacher default`"
    )
    assert "stopped: limit reached" in desk.run("limits", "list").output
    desk.run("limits", "lift", "teacher", "default")
    assert desk.findings() == []


def test_no_key_of_redis_holds_an_api_key(desk: Desk) -> None:
    desk.call(desk.settings.teachers["default"].account, "opus-4")

    client: Any = desk.client
    keys = [str(key) for key in client.scan_iter("*")]

    assert keys
    assert not any(KEY in key for key in keys)
