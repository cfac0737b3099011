"""Commands about what is kept: dead-letters, prune."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
from rich.table import Table

from worker.cli.connection import connected
from worker.cli.fork import fork_request, send
from worker.cli.output import NOT_FOUND, Amount, console, fail, said
from worker.clock import SystemClock
from worker.core.forking import last_turn, turn_before
from worker.retention import DAY_MS, prune
from worker.settings import load_settings

__all__ = ["dead_letters", "prune_sessions"]


@click.group(name="dead-letters", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a step, for scripts.")
@click.pass_context
def dead_letters(context: click.Context, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """List the steps that were given up: they failed for good, or killed their workers.

    The newest 1,000 are kept. The failure of such a step is in its session's journal, and the
    session has gone on from there, so it cannot be tried again within it: `retry` begins a new
    session that has everything up to there, and does the step again.
    """
    if context.invoked_subcommand is not None:
        return
    with connected() as system:
        letters = system.journal.dead_letters()
    if as_json:
        for letter in letters:
            click.echo(json.dumps(dataclasses.asdict(letter), ensure_ascii=False))
        return
    table = Table("number", "session", "step", "tries", "deaths", "why", box=None)
    for letter in letters:
        counts = str(letter.attempt), str(letter.deaths)
        where = said(letter.session_id), said(letter.step_id)
        table.add_row(str(letter.number), *where, *counts, said(letter.reason))
    console.print(table if letters else "no step was given up")


@dead_letters.command()
@click.argument("number", required=False, type=click.IntRange(min=1))
@click.option("--all", "everything", is_flag=True, help="Discard them all.")
def discard(number: int | None, everything: bool) -> None:  # noqa: FBT001 - click's way
    """Forget dead letter NUMBER, or all of them; exit 5 where there is none of that number."""
    if (number is None) is not everything:
        raise click.UsageError("name one NUMBER of `diagnosis dead-letters`, or --all")
    with connected() as system:
        gone = system.journal.discard(number)
    if number is not None and not gone:
        fail(f"there is no dead letter {number}", code=NOT_FOUND)
    console.print(f"{gone} discarded")


@dead_letters.command()
@click.argument("number", type=click.IntRange(min=1))
@click.option("--session-id", "child_id", help="Of the new session; default: made from both.")
@click.option("--json", "as_json", is_flag=True, help="The request as one JSON object.")
def retry(number: int, child_id: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Do the step of dead letter NUMBER again, in a new session; exit 5 where there is no such letter.

    The session it belongs to went on from its failure and is left as it is. The new one takes over
    its journal and leaves the failure out: of a call, a run or a judgement that step alone is done
    again and its turn is not paid again; of a turn that turn; of `prepare` everything, of the closing
    call it and what follows; of `conclude` nothing else. The letter stays until it is discarded.
    """
    with connected() as system:
        letters = {one.number: one for one in system.journal.dead_letters()}
        letter = letters.get(number)
        if letter is None:
            fail(f"there is no dead letter {number}", code=NOT_FOUND)
        past = system.forks.past(letter.session_id)
        at_turn, without = turn_before(letter.step_id, last_turn(past))
        request = fork_request(past, letter.session_id, at_turn, without, child_id=child_id)
        send(system, request)
    if as_json:
        click.echo(request.model_dump_json(exclude_none=True))
        return
    console.print(
        said(
            f"enqueued {request.session_id}, a fork of {letter.session_id}, which does "
            f"{letter.step_id} again  (diagnosis watch {request.session_id}); the letter stays until "
            f"`diagnosis dead-letters discard {number}`"
        )
    )


@click.command(name="prune")
@click.option(
    "--older-than-days",
    type=Amount(),
    default=None,
    help="Since the session's end; default: the setting `keep_ended_sessions_days`.",
)
@click.option("--dry-run", is_flag=True, help="Verify and say what would go; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a session, for scripts.")
def prune_sessions(
    older_than_days: float | None,
    dry_run: bool,  # noqa: FBT001 - click's way
    as_json: bool,  # noqa: FBT001 - click's way
) -> None:
    """Let ended sessions leave Redis whose artifacts are whole in the object store.

    Every file of a session is read and held against its manifest, and the journal is put beside
    them, before anything is forgotten. What stays is told with the reason (exit 5). A session that
    left cannot be run again under its id; `diagnosis status` says where its artifacts are. Workers
    do the same every hour, by that setting.
    """
    settings = load_settings()
    days = settings.keep_ended_sessions_days if older_than_days is None else older_than_days
    before_ms = SystemClock().now_ms() - round(days * DAY_MS)
    counts = {True: 0, False: 0}
    with connected(settings) as system:
        for one in prune(
            system.journal, system.artifacts, ended_before_ms=before_ms, dry_run=dry_run
        ):
            counts[one.pruned] += 1
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(one)))
            else:
                console.print(said(f"{one.session_id}: {one.why or one.artifacts_uri}"))
    words = "would leave" if dry_run else "left"
    click.echo(f"{counts[True]} {words} Redis, {counts[False]} stay", err=as_json)
    sys.exit(NOT_FOUND if counts[False] else 0)
