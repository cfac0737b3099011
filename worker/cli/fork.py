"""`diagnosis fork`: a new session that begins where another one was.

Rule: the request goes through the queue as any other, so that a worker with the settings opens it; what
can be known to be wrong is said here first.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import connected
from worker.cli.output import SESSION_ID, console, dollars
from worker.client import Client
from worker.core.events import SessionOpened
from worker.core.forking import inherited_nusd, last_turn, prefix
from worker.errors import RequestInvalid
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.bootstrap import System
    from worker.core.events import Event
    from worker.core.values import Limits
    from worker.wire.request import DiagnoseRequest

__all__ = ["fork", "fork_request", "send"]

_NANO_PER_USD = 1_000_000_000


@click.command()
@click.argument("session_id", type=SESSION_ID)
@click.option(
    "--at-turn",
    type=click.IntRange(min=0),
    required=True,
    help="The last turn that is taken over; 0 takes the bundle alone.",
)
@click.option("--session-id", "child_id", help="Of the new session; default: made from both.")
@click.option("--student", help="Name in the workers' settings; default: as there.")
@click.option("--teacher", help="Name in the workers' settings; default: as there.")
@click.option("--judge", help="Name in the workers' settings; default: as there.")
@click.option("--campaign", help="Account that pays; default: as there.")
@click.option(
    "--max-cost-usd", type=Decimal, help="Hard cap of the new session; default: as there."
)
@click.option("--max-turns", type=int, help="Turns, those taken over included; default: as there.")
@click.option("--max-tool-calls", type=int, help="Those taken over included; default: as there.")
@click.option("--max-duration-s", type=int, help="Seconds from now on; default: as there.")
@click.option("--json", "as_json", is_flag=True, help="The request as one JSON object.")
def fork(
    session_id: str, at_turn: int, child_id: str | None, *, as_json: bool, **options: Any
) -> None:
    """Start a new session from the journal of SESSION_ID, up to and including a turn.

    SESSION_ID may be running, ended or pruned; it is only read. What its turns cost is not paid
    again: the new session has its own account, and its report says where it comes from.
    """
    with connected() as system:
        past = system.forks.past(session_id)
        _check_turn(past, session_id, at_turn)
        request = fork_request(past, session_id, at_turn, (), child_id=child_id, **options)
        taken_over = prefix(past, at_turn)
        send(system, request)
    if as_json:
        click.echo(request.model_dump_json(exclude_none=True))
        return
    cost = dollars(inherited_nusd(taken_over))
    console.print(
        f"enqueued {request.session_id}: {session_id} up to turn {at_turn}, which had cost {cost} "
        f"there  (diagnosis watch {request.session_id})"
    )


def fork_request(
    past: Sequence[Event],
    session_id: str,
    at_turn: int | None,
    without: Sequence[str],
    *,
    child_id: str | None = None,
    **options: Any,
) -> DiagnoseRequest:
    """Return the request for a fork: as its parent's, but for what is given.

    Raises:
        RequestInvalid: A field of it is wrong.
    """
    opened = past[0]
    assert isinstance(opened, SessionOpened), "a journal begins with it"
    spec = opened.spec
    given = {name: value for name, value in options.items() if value is not None}
    limits = {name: given.pop(name) for name in list(given) if name.startswith("max_")}
    return parse_request(
        {
            "session_id": child_id or _name(session_id, at_turn, without),
            "bundle": spec.bundle_uri,
            "student": spec.student,
            "teacher": spec.teacher,
            "judge": spec.judge_name,
            "tenant": spec.tenant,
            "campaign": spec.campaign,
            "trigger": "fork",
            "flagged_trace_ids": spec.flagged_trace_ids,
            "reveal_references": spec.reveal_references,
            "when_money_lacks": spec.when_money_lacks,
            "batches": spec.batches,
            "limits": {
                "max_turns": spec.limits.max_turns,
                "max_tool_calls": spec.limits.max_tool_calls,
                "max_student_runs": spec.limits.max_student_runs,
                "max_cost_usd": Decimal(spec.limits.max_cost_nusd) / _NANO_PER_USD,
                "max_duration_s": spec.limits.max_duration_ms // 1000,
                "max_pause_s": spec.limits.max_pause_ms // 1000,
                **_widths(spec.limits),
                **limits,
            },
            "fork": {"session_id": session_id, "at_turn": at_turn, "without": tuple(without)},
            **given,
        }
    )


def _widths(limits: Limits) -> dict[str, int]:
    """Return the widths that were given; a session of an older version has none."""
    widths = {
        "max_parallel_calls": limits.max_parallel_calls,
        "max_parallel_runs": limits.max_parallel_runs,
    }
    return {name: width for name, width in widths.items() if width is not None}


def send(system: System, request: DiagnoseRequest) -> None:
    """Enqueue a request.

    Raises:
        Unavailable: The broker did not take it.
    """
    settings = system.settings
    client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
    try:
        client.enqueue(request)
    finally:
        client.close()


def _check_turn(past: Sequence[Event], session_id: str, at_turn: int) -> None:
    last = last_turn(past)
    if at_turn > last:
        raise RequestInvalid(
            f"session {session_id!r} has {last} turns so far, and none with the number {at_turn}"
        )


def _name(session_id: str, at_turn: int | None, without: Sequence[str]) -> str:
    """Return the same id for the same fork, so that saying it twice makes one session."""
    where = "end" if at_turn is None else f"t{at_turn}"
    steps = "".join(f"-{step.replace('/', '-').replace('.', '-')}" for step in without)
    return f"{session_id[:70]}-fork-{where}{steps}"
