"""`diagnosis costs` on a finished campaign: its total is the providers' bill, to the nano-dollar."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.fleets import Harness, airline_home, harness

__all__ = ["airline_home", "harness"]
pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]

CAMPAIGN = "costs-test"
TENANTS = ("costs-a", "costs-b")


def diagnosis(harness: Harness, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        env={**os.environ, **harness.fleet.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def billed(harness: Harness) -> int:
    bills = (
        harness.asked("/_sim/bill", of=url) for url in (harness.teacher_url, harness.judge_url)
    )
    return sum(bill["total_nano_usd"] for bill in bills)


def test_the_total_of_a_finished_campaign_is_the_bill(harness: Harness) -> None:
    for scope in (f"campaign:{CAMPAIGN}", *(f"tenant:{tenant}" for tenant in TENANTS)):
        harness.system.ledger.open_account(scope, 10**12)
    before = billed(harness)

    for tenant in TENANTS:
        harness.run(f"costs-of-{tenant}", tenant=tenant, campaign=CAMPAIGN)

    bill = billed(harness) - before
    asked = ("costs", "--campaign", CAMPAIGN, "--by")
    told: dict[str, Any] = json.loads(diagnosis(harness, *asked, "tenant,kind,model", "--json"))
    rows = list(csv.DictReader(io.StringIO(diagnosis(harness, *asked, "night,session", "--csv"))))
    shown = diagnosis(harness, *asked, "tenant")

    assert bill > 0
    assert told["total"]["cost_nusd"] == sum(row["cost_nusd"] for row in told["rows"]) == bill
    assert {row["tenant"] for row in told["rows"]} == set(TENANTS)
    assert {"explore", "judge"} <= {row["kind"] for row in told["rows"]}
    assert told["unknown"] == []
    assert told["sessions"] == {"from_artifacts": 2, "from_ledger": 0, "unreadable": []}
    assert sum(int(row["cost_nusd"]) for row in rows) == bill
    assert all(row["night"] != "unknown" for row in rows)
    assert told["total"]["cost_usd"] in shown
    account = harness.system.ledger.account(f"campaign:{CAMPAIGN}")
    assert account is not None
    assert account.posted_nusd == bill
