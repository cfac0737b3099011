"""Commands about what happened in a session: explain, replay.

Rule: both read the journal where it is, in Redis or, once the session was pruned, beside its
artifacts; neither changes anything.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
from typing import TYPE_CHECKING

import click
from rich.table import Table

from worker.cli.connection import connected
from worker.cli.output import NOT_FOUND, SESSION_ID, console, dollars, fail, said
from worker.core.commands import step_id_of
from worker.core.events import SessionOpened
from worker.core.replay import GOOD, replay
from worker.retention import manifest_of, stored_history
from worker.timeline import Source, paid, timeline
from worker.wire.journal import decode, decode_all

if TYPE_CHECKING:
    from worker.bootstrap import System
    from worker.core.replay import Played
    from worker.ports import Record
    from worker.retention import History
    from worker.timeline import Row
    from worker.wire.manifest import ManifestFile

__all__ = ["explain", "replay_session"]

#: A longer text is cut; `--json` has it whole.
SHOWN_CHARS = 200


@click.command()
@click.argument("session_id", type=SESSION_ID)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row, for scripts.")
def explain(session_id: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Show what happened in SESSION_ID, in one order: who did what, why again, what was paid.

    It joins the journal, what befell each attempt, what is under way, the ledger and the artifacts.
    The ledger keeps a session's entries for 30 days; `costs.jsonl` has them for good.
    """
    with connected() as system:
        history = _history(system, session_id)
        rows = _rows(system, session_id, history)
    if as_json:
        for row in rows:
            click.echo(json.dumps(dataclasses.asdict(row), ensure_ascii=False))
        return
    console.print(_timeline_table(rows))
    again = sum(row.source is Source.ATTEMPT for row in rows)
    console.print(f"{dollars(paid(rows))} charged; attempts taken over or tried again: {again}")


@click.command(name="replay")
@click.argument("session_id", type=SESSION_ID)
@click.option("--json", "as_json", is_flag=True, help="One JSON object an event, for scripts.")
def replay_session(session_id: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Fold the journal of SESSION_ID again and show what was wanted after each event.

    Nothing is called and nothing changes. Exit 1 where a step was committed that the session never
    asked for, or an event stands twice, under another key, or where it cannot happen: a bug.
    """
    with connected() as system:
        records = _history(system, session_id).records
    played = list(replay(zip((r.key for r in records), decode_all(records), strict=True)))
    if as_json:
        for one in played:
            click.echo(json.dumps(_played_row(one), ensure_ascii=False))
    else:
        console.print(_played_table(played))
    wrong = [one for one in played if one.verdict not in GOOD]
    if wrong:
        found = "; ".join(f"{one.key} is {one.verdict} {one.detail}".strip() for one in wrong)
        fail(f"the journal of {session_id!r} cannot be right: {found}. Report it", code=1)
    click.echo(f"{len(played)} events, each of them asked for", err=as_json)
    sys.exit(0)


def _history(system: System, session_id: str) -> History:
    history = stored_history(system.journal, system.artifacts, session_id)
    if history is None:
        fail(f"there is no session {session_id!r}, or its journal is gone", code=NOT_FOUND)
    return history


def _rows(system: System, session_id: str, history: History) -> tuple[Row, ...]:
    letters = (one for one in system.journal.dead_letters() if one.session_id == session_id)
    return timeline(
        records=history.records,
        notes=history.notes,
        steps=system.journal.steps(session_id),
        entries=system.ledger.entries(session_id),
        dead_letters=tuple(letters),
        files=_files(system, history.records),
        ended_ms=int(history.labels.get("ended_ms", 0)),
    )


def _files(system: System, records: tuple[Record, ...]) -> dict[str, ManifestFile]:
    opened = decode(records[0].body)
    if not isinstance(opened, SessionOpened):
        return {}
    manifest = manifest_of(system.artifacts, opened.spec)
    return manifest.files if manifest else {}


def _timeline_table(rows: tuple[Row, ...]) -> Table:
    table = Table("time (UTC)", "source", "step", "try", "worker", "what", "charged", box=None)
    for row in rows:
        table.add_row(
            _time(row.at_ms),
            row.source.value,
            said(row.step_id),
            str(row.attempt or ""),
            said(row.owner),
            said(_what(row)),
            dollars(row.charged_nusd) if row.charged_nusd else "",
        )
    return table


def _what(row: Row) -> str:
    words = " ".join(row.what.split())
    shown = words if len(words) <= SHOWN_CHARS else f"{words[:SHOWN_CHARS]}…"
    return f"{shown} ({row.request_id})" if row.request_id else shown


def _time(at_ms: int) -> str:
    if not at_ms:
        return ""
    at = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return at.strftime("%m-%d %H:%M:%S.") + f"{at_ms % 1000:03d}"


def _played_table(played: list[Played]) -> Table:
    table = Table("", "key", "event", "asked for", "phase", "wanted then", box=None)
    for one in played:
        steps = ", ".join(step_id_of(command) for command in one.wanted)
        table.add_row(
            str(one.position), said(one.key), one.event, one.verdict, one.phase, said(steps)
        )
    return table


def _played_row(one: Played) -> dict[str, object]:
    return {
        "position": one.position,
        "key": one.key,
        "event": one.event,
        "verdict": one.verdict,
        "phase": one.phase,
        "wanted": [step_id_of(command) for command in one.wanted],
        "detail": one.detail,
    }
