"""What was spent is the providers' bill; what their exports prove unbilled comes back, and no more."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.fleets import Harness, airline_home, harness
from worker.clock import SystemClock
from worker.core import keys
from worker.core.costs import total, unknown
from worker.core.reconcile import joined, reconcile
from worker.costs import collect
from worker.embedded.teacher.server import DEFAULT_API_KEY
from worker.refunds import carry_out, note_all
from worker.wire.usage_export import read_export

if TYPE_CHECKING:
    from pathlib import Path

    from worker.costs import Collected

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


# -------------------------------------------------------------------------------------- reconcile

UNKNOWN = "reconcile-test"
HOUR_MS = 3_600_000


def usage_report(harness: Harness, url: str, *, starting_ms: int) -> bytes:
    """Return the simulated provider's export, all pages, a page a line."""
    pages: list[Any] = []
    query = {"starting_at": _iso(starting_ms), "bucket_width": "1m", "limit": "20"}
    while not pages or pages[-1]["has_more"]:
        if pages:
            query["page"] = pages[-1]["next_page"]
        request = f"/v1/organizations/usage_report/messages?{urlencode(query)}"
        pages.append(harness.asked(request, of=url, api_key=DEFAULT_API_KEY))
    return "\n".join(map(json.dumps, pages)).encode()


def lived_on(export: bytes, *, to_ms: int) -> bytes:
    """Return the export as it will be told when nothing more has happened for two hours."""
    pages = [json.loads(line) for line in export.splitlines()]
    last = dt.datetime.fromisoformat(pages[-1]["data"][-1]["ending_at"])
    quiet = range(round(last.timestamp() * 1000), to_ms, 60_000)
    data: list[dict[str, Any]] = [
        {"starting_at": _iso(a), "ending_at": _iso(a + 60_000), "results": []} for a in quiet
    ]
    return "\n".join(map(json.dumps, [*pages, {"data": data}])).encode()


def _iso(at_ms: int) -> str:
    at = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def collected(harness: Harness) -> Collected:
    parts = harness.system
    return collect(parts.journal, parts.ledger, parts.artifacts)


@pytest.mark.parametrize(
    ("fault", "billed_nothing"),
    [({"fault": "reset", "billed": False}, True), ({"fault": "reset", "billed": True}, False)],
)
def test_what_the_export_proves_unbilled_comes_back_and_nothing_else(
    harness: Harness, fault: dict[str, Any], tmp_path: Path, *, billed_nothing: bool
) -> None:
    campaign = f"{UNKNOWN}-{billed_nothing}".lower()
    system = harness.system
    system.ledger.open_account(f"campaign:{campaign}", 10**12)
    before = billed(harness)
    harness.asked("/_sim/faults", {"faults": [{**fault, "match": {"kind": "explorer"}}]})
    harness.run(f"{campaign}-s", campaign=campaign, limits={"max_turns": 2})
    (charge,) = unknown(c for c in collected(harness).charges if c.campaign == campaign)
    later_ms = SystemClock().now_ms() + 2 * HOUR_MS
    # The judge has an account of its own; the fleet's first call was not an hour ago.
    urls = (harness.teacher_url, harness.judge_url)
    exports = [usage_report(harness, url, starting_ms=later_ms - 3 * HOUR_MS) for url in urls]
    told = joined([read_export(lived_on(export, to_ms=later_ms)) for export in exports])

    verdict = reconcile(told, collected(harness).charges, now_ms=later_ms)
    first = carry_out(system.ledger, system.artifacts, verdict.refunds)
    note_all(system.artifacts, collected(harness).charges)
    again = carry_out(system.ledger, system.artifacts, verdict.refunds)

    found = [c for c in collected(harness).charges if c.campaign == campaign]
    account = system.ledger.account(f"campaign:{campaign}")
    assert account is not None
    assert verdict.problem == ""
    assert total(found).cost_nusd == account.posted_nusd
    if billed_nothing:
        assert [one.charge.reservation_id for one in first] == [charge.reservation_id]
        assert [one.done for one in (*first, *again)] == [True, True]
        assert account.posted_nusd == billed(harness) - before
        assert account.unknown_nusd == 0
        assert system.artifacts.exists(keys.refund(charge.session, charge.reservation_id))
    else:
        assert (first, again) == ((), ())
        assert account.posted_nusd > billed(harness) - before
        assert account.unknown_nusd == charge.actual_nusd

    files = [tmp_path / "teacher.jsonl", tmp_path / "judge.jsonl"]
    for file, export in zip(files, exports, strict=True):
        file.write_bytes(export)
    said = json.loads(diagnosis(harness, "reconcile", *map(str, files), "--apply", "--json"))
    assert said["refunds"] == []
    assert len(said["kept"]) == (0 if billed_nothing else 1)
