"""Commands about one session: status, watch, result, cancel, pause, resume."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, NoReturn

import click
from rich.live import Live
from rich.text import Text

from worker.cli.connection import connected
from worker.cli.output import (
    ENDED_OTHERWISE,
    NOT_FOUND,
    SESSION_ID,
    Amount,
    console,
    fail,
    plain,
    said,
    say_json,
)
from worker.cli.panel import clusters_table, session_panel, standing
from worker.client import Client
from worker.clock import SystemClock
from worker.errors import IllegalEvent, UnknownVersion
from worker.settings import load_settings
from worker.status import PrunedView, pruned_view, view

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.bootstrap import System
    from worker.runner import Runner
    from worker.settings import Settings
    from worker.status import SessionView
    from worker.wire.result import DiagnoseResult

__all__ = [
    "cancel",
    "follow",
    "pause",
    "result",
    "resume",
    "show_result",
    "status",
    "watch",
]


#: How often a watched session is read.
LOOK_EVERY_S = 0.4
#: Of the reason for a cancel: it stands in the journal and in the report.
MOST_REASON_CHARS = 500


@click.command()
@click.argument("session_id", required=False, type=SESSION_ID)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def status(session_id: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Show how SESSION_ID stands, or list the newest sessions."""
    with connected() as system:
        if session_id is None:
            _list_sessions(system, as_json=as_json)
            return
        seen = pruned_view(session_id, system.journal) or _view(system, session_id)
    if as_json:
        say_json(seen)
    elif isinstance(seen, PrunedView):
        console.print(f"{session_id} ended as {seen.outcome} and has left Redis")
        console.print(f"artifacts: {seen.artifacts_uri}")
    else:
        console.print(session_panel(seen, SystemClock().now_ms()))


@click.command()
@click.argument("session_id", type=SESSION_ID)
@click.option(
    "--wait-s",
    default=30.0,
    show_default=True,
    type=Amount(),
    help="How long it may take to appear.",
)
def watch(session_id: str, wait_s: float) -> None:
    """Show SESSION_ID live until it ends; exit 6 where it ends otherwise than concluded."""
    with connected() as system:
        outcome = follow(system, session_id, wait_s=wait_s)
    show_result(_result(session_id, timeout_s=10))
    sys.exit(0 if outcome == "concluded" else ENDED_OTHERWISE)


@click.command()
@click.argument("session_id", type=SESSION_ID)
@click.option(
    "--timeout-s",
    default=0.0,
    show_default=True,
    type=Amount(),
    help="Wait so long for the end.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def result(session_id: str, timeout_s: float, as_json: bool) -> None:  # noqa: FBT001
    """Print the result of SESSION_ID; exit 5 where there is none yet, 3 where it was refused."""
    found = _result(session_id, timeout_s=timeout_s)
    if found is None:
        fail(f"session {session_id!r} has no result yet: `diagnosis watch`", code=NOT_FOUND)
    if as_json:
        say_json(found)
    else:
        show_result(found)
    sys.exit(0 if found.outcome == "concluded" else ENDED_OTHERWISE)


def _reason(shown: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option `--reason`; `shown` says where it stands afterwards."""
    default = "asked for on the command line"
    return click.option("--reason", default=default, show_default=True, help=shown)


def _tell(
    session_id: str, reason: str, what: Callable[[Runner], Callable[[str, str], bool]]
) -> None:
    """Ask something of a session, with a reason; exit 5 where there is none that could do it."""
    with connected() as system:
        if not what(system.runner)(session_id, plain(reason)[:MOST_REASON_CHARS]):
            fail(f"session {session_id!r} is unknown or has ended", code=NOT_FOUND)


@click.command()
@click.argument("session_id", type=SESSION_ID)
@_reason("Stands in the report.")
def cancel(session_id: str, reason: str) -> None:
    """Stop SESSION_ID; what is known by then is still written to its artifacts."""
    _tell(session_id, reason, lambda runner: runner.cancel)
    console.print(f"{session_id} is told to stop; its artifacts follow.")


@click.command()
@click.argument("session_id", type=SESSION_ID)
@_reason("Shown until it is resumed.")
def pause(session_id: str, reason: str) -> None:
    """Let SESSION_ID stand still until `resume`: what is under way is finished, nothing else begins.

    Its time limit stands still too. After `limits.max_pause_s` it ends with what it has.
    """
    _tell(session_id, reason, lambda runner: runner.pause)
    console.print(f"{session_id} stands still; `diagnosis resume {session_id}` lets it go on.")


@click.command()
@click.argument("session_id", type=SESSION_ID)
@_reason("Stands in the journal.")
def resume(session_id: str, reason: str) -> None:
    """Let SESSION_ID go on. One that waits for money tries again, and waits again without it."""
    _tell(session_id, reason, lambda runner: runner.resume)
    console.print(f"{session_id} goes on.")


def follow(system: System, session_id: str, *, wait_s: float) -> str:
    """Show a session live until it ends; return its outcome."""
    tick = threading.Event()
    clock = SystemClock()
    waited_s = 0.0
    with Live(console=console, refresh_per_second=8) as live:
        while True:
            seen = view(session_id, system.runner, system.journal, system.ledger)
            if seen is not None:
                live.update(session_panel(seen, clock.now_ms()))
                if seen.outcome is not None:
                    break
            else:
                _result(session_id, timeout_s=0, settings=system.settings)  # raises if refused
                if waited_s >= wait_s:
                    _missing(session_id)
            tick.wait(LOOK_EVERY_S)
            waited_s += LOOK_EVERY_S
    console.print()
    return seen.outcome


def show_result(found: DiagnoseResult | None) -> None:
    """Print a session's clusters and where everything is."""
    if found is None:
        return
    console.print(said(found.outcome, style="bold") + said(f": {found.reason}"))
    if found.clusters:
        console.print(clusters_table(found))
    if found.artifacts_uri:
        console.print(f"artifacts: {found.artifacts_uri}")


def _missing(session_id: str) -> NoReturn:
    fail(f"there is no session {session_id!r}: was it enqueued on this fleet?", code=NOT_FOUND)


def _view(system: System, session_id: str) -> SessionView:
    seen = view(session_id, system.runner, system.journal, system.ledger)
    if seen is None:
        _result(session_id, timeout_s=0, settings=system.settings)  # raises where refused
        _missing(session_id)
    return seen


def _result(
    session_id: str, *, timeout_s: float, settings: Settings | None = None
) -> DiagnoseResult | None:
    """Return a session's result; `settings` are those of the fleet, None takes this process's."""
    settings = settings or load_settings()
    client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
    try:
        return client.result(session_id, timeout_s=timeout_s)
    finally:
        client.close()


def _list_sessions(system: System, *, as_json: bool) -> None:
    session_ids = system.journal.sessions(limit=50)
    for session_id in session_ids:
        seen = _readable(system, session_id)
        if seen is None:
            continue
        if as_json:
            click.echo(seen.model_dump_json())
        else:
            words = seen.paused.words if seen.paused else seen.reason[:80]
            line = Text(f"{seen.session_id}  {standing(seen)}  ")
            console.print(line + said(words), soft_wrap=True)
    if not session_ids and not as_json:
        console.print("There is no session yet: `diagnosis enqueue --home DIR` makes one.")


def _readable(system: System, session_id: str) -> SessionView | None:
    """Return a session's view; one that cannot be read is said so and keeps no other from it."""
    try:
        return view(session_id, system.runner, system.journal, system.ledger)
    except (UnknownVersion, IllegalEvent) as exc:
        click.echo(f"{session_id}: {plain(str(exc))}", err=True)
        return None
