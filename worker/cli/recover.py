"""The command that rebuilds sessions after Redis was lost, or was restored from an older copy: recover.

Rule: one session that cannot be rebuilt keeps no other from it; it is named, and the exit code is 1.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from worker import bootstrap
from worker.cli.connection import connected
from worker.cli.output import SESSION_ID, console, dollars, said
from worker.core.epoch import Verdict
from worker.errors import BadInput, DiagnosisError, Misconfigured, Unavailable

if TYPE_CHECKING:
    from worker.bootstrap import System
    from worker.recovery import Recovered, Recovery

__all__ = ["recover"]

Row = dict[str, Any]

#: What was done -> what it means for who reads it.
_WORDS = {
    "restored": "goes on",
    "found": "would go on",
    "known": "is in Redis",
    "ended": "had ended: --ended puts it back too",
    "charged": "cannot be rebuilt; what may have been paid for it is charged: ",
    "failed": "cannot be rebuilt: ",
}


@click.command()
@click.argument("session_ids", metavar="[SESSION_ID]...", nargs=-1, type=SESSION_ID)
@click.option("--all", "everything", is_flag=True, help="Every session that Redis does not know.")
@click.option(
    "--ended",
    is_flag=True,
    help="With --all: also sessions that had ended, so that their money counts again.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be put back.")
@click.option(
    "--accept",
    is_flag=True,
    help="Trust Redis as it is: for a bucket that lost its objects, or a loss that cannot be mended.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a session, for scripts.")
def recover(
    session_ids: tuple[str, ...],
    *,
    everything: bool,
    ended: bool,
    dry_run: bool,
    accept: bool,
    as_json: bool,
) -> None:
    """Put sessions that Redis lost back from S3, journal and money, and have them go on.

    Workers do it by themselves, unless DIAGNOSIS_RECOVER_BY_ITSELF=false. It may be said at any time,
    and twice. Where all of Redis was lost, or is an older copy, --all rebuilds ended sessions as well,
    since their money counts. A paid call whose outcome nobody knows is charged at its bound.
    """
    if [bool(session_ids), everything, accept].count(True) != 1:
        raise click.UsageError("name the sessions, or say --all, or --accept")
    with connected() as system:
        if accept:
            console.print(f"epoch {system.rescue.accept()} begins: Redis is trusted as it is")
            return
        rows = _rescued(system) if everything and not dry_run else None
        if rows is None:
            if not dry_run:
                bootstrap.provision(system)
            wanted = session_ids or system.recovery.lost()
            rows = [
                _row(system.recovery, session_id, ended=ended or not everything, dry_run=dry_run)
                for session_id in wanted
            ]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        console.print(_table(rows))
    else:
        console.print("Redis knows every session that is stored: there is nothing to put back.")
    sys.exit(1 if any(row["status"] in {"failed", "charged"} for row in rows) else 0)


def _rescued(system: System) -> list[Row] | None:
    """Rebuild all where all is lost or older, and begin a new epoch; None where it is not.

    Raises:
        Unavailable: A worker does it just now.
        Misconfigured: Redis is another fleet's.
    """
    look = system.epoch.look(deep=True)
    if look.verdict is Verdict.FOREIGN:
        raise Misconfigured(f"Redis is not rebuilt: {look.why}")
    if look.verdict is Verdict.WHOLE:
        return None
    bootstrap.provision(system)
    rescued = system.rescue.rescue()
    if rescued is None:
        raise Unavailable(
            "a worker rebuilds Redis just now: `diagnosis doctor` says when it is done"
        )
    return [_told(row) for row in rescued if row.status != "known"]


def _row(recovery: Recovery, session_id: str, *, ended: bool, dry_run: bool) -> Row:
    try:
        return _told(recovery.recover(session_id, ended=ended, dry_run=dry_run))
    except (Unavailable, Misconfigured):
        raise
    except (BadInput, DiagnosisError) as exc:
        return {"session_id": session_id, "status": "failed", "error": str(exc)}


def _told(done: Recovered) -> Row:
    row: Row = {"session_id": done.session_id, "status": done.status}
    if done.why:
        row["error"] = done.why
    if done.stored is None:
        return row
    return {
        **row,
        "phase": done.stored.session.phase.value,
        "turns": len(done.stored.session.turns),
        "records": len(done.stored.records),
        "charged_nusd": done.stored.posted_nusd,
        "of_unknown_outcome_nusd": done.stored.unknown_nusd,
    }


def _table(rows: list[Row]) -> Table:
    table = Table(
        "session", "", "phase", "turns", "records", "charged", "unknown outcome", box=None
    )
    for row in rows:
        table.add_row(
            said(row["session_id"]),
            said(_WORDS[row["status"]] + row.get("error", "")),
            row.get("phase", ""),
            str(row.get("turns", "")),
            str(row.get("records", "")),
            dollars(row["charged_nusd"]) if "charged_nusd" in row else "",
            dollars(row["of_unknown_outcome_nusd"]) if "charged_nusd" in row else "",
        )
    return table
