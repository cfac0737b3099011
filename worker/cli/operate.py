"""Commands for who runs the fleet: worker, doctor, budget."""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from worker import doctor as checks
from worker.cli.connection import connected
from worker.cli.output import NOT_FOUND, Amount, console, dollars, fail, said
from worker.core.commands import Queue
from worker.core.keys import valid_name
from worker.core.prices import nusd
from worker.errors import BadInput, DiagnosisError
from worker.ledger.keys import is_session
from worker.settings import MOST_USD, account_scope, load_settings

if TYPE_CHECKING:
    from worker.bootstrap import System

__all__ = ["budget", "doctor", "worker"]

_QUEUES = ",".join(queue.value for queue in Queue)
#: From glibc's malloc.h.
_M_ARENA_MAX = -8
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--queues", default=_QUEUES, show_default=True, help="Comma-separated.")
@click.option(
    "--concurrency",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Steps at a time.",
)
@click.option(
    "--pool",
    type=click.Choice(["threads", "prefork", "solo"]),
    default="threads",
    show_default=True,
    help="Steps wait for networks: threads are cheapest.",
)
@click.option("--name", default=None, help="Name in Flower; default: the queues and the host.")
def worker(queues: str, concurrency: int, pool: str, name: str | None) -> None:
    """Run a worker until SIGTERM; then it finishes what it holds."""
    settings = load_settings()
    names = _known_queues(queues)
    _spare_memory()
    from worker.app import run_worker

    label = name or f"{'-'.join(names)}@%h"
    sys.exit(
        run_worker(settings, names, concurrency, pool, label if "@" in label else f"{label}@%h")
    )


def _spare_memory() -> None:
    """Let all threads share two of the C library's heaps; where it is not glibc, do nothing.

    By default each of up to eight times as many heaps as there are cores keeps what one thread
    needed at its busiest: 10 MB more in a worker of 16 threads. Python allocates under one lock
    anyway.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a check, for scripts.")
@click.option(
    "--ready",
    is_flag=True,
    help="Only whether this machine's worker can work now (its ready_file).",
)
def doctor(as_json: bool, ready: bool) -> None:  # noqa: FBT001 - click's way
    """Say what is reachable, what is misconfigured and what to do; exit 7 where something fails."""
    settings = load_settings()
    if ready:
        found = checks.worker_checks(settings)
    else:
        found = checks.examine(settings, progress=None if as_json else _looking)
    if as_json:
        for check in found:
            click.echo(check.model_dump_json())
    else:
        console.print(_table(found))
    sys.exit(7 if any(check.state == "fail" for check in found) else 0)


def _looking(line: str) -> None:
    console.print(line, style="dim")


def _table(found: list[checks.Check]) -> Table:
    table = Table("", "what", "found", "what to do", box=None)
    for check in found:
        mark = Text(check.state, style=_COLOURS[check.state])
        table.add_row(mark, said(check.name), said(check.found), said(check.cure))
    return table


def _scope(context: click.Context, parameter: click.Parameter, scope: str) -> str:
    del context, parameter
    try:
        if is_session(scope):
            valid_name("session_id", scope.partition(":")[2])
            return scope
        return account_scope(scope)
    except (ValueError, BadInput) as exc:
        raise click.BadParameter(str(exc)) from exc


@click.group()
def budget() -> None:
    """Show and change the accounts that sessions are charged to."""


@budget.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an account.")
def list_accounts(as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Show all accounts but the sessions' own."""
    with connected() as system:
        accounts = system.ledger.accounts()
    table = Table("scope", "cap", "spent", "held", "unknown outcome", "free", "", box=None)
    for account in accounts:
        amounts = (
            account.cap_nusd,
            account.posted_nusd,
            account.held_nusd,
            account.unknown_nusd,
            account.free_nusd,
        )
        if as_json:
            names = ("cap_nusd", "posted_nusd", "held_nusd", "unknown_nusd", "free_nusd")
            row = {**dict(zip(names, amounts, strict=True)), "frozen": account.frozen}
            click.echo(json.dumps({"scope": account.scope, **row}))
        else:
            state = Text("frozen" if account.frozen else "", style="red")
            table.add_row(account.scope, *(dollars(amount) for amount in amounts), state)
    if not as_json:
        console.print(table)


@budget.command(name="set")
@click.argument("scope", callback=_scope)
@click.argument("usd", type=Amount(MOST_USD))
def set_cap(scope: str, usd: float) -> None:
    """Set the cap of SCOPE (fleet, tenant:NAME or campaign:NAME) to USD; made where missing.

    Sessions that wait for money look at once. SCOPE may be session:ID too, where there is one.
    """
    cap_nusd = nusd(usd)
    with connected() as system:
        if is_session(scope) or not system.ledger.open_account(scope, cap_nusd):
            system.ledger.set_cap(scope, cap_nusd)
        system.runner.waking.wake(every_ms=0)
        account = system.ledger.account(scope)
        _store_accounts(system)
    if account is None:
        fail(f"{scope!r} could not be made", code=NOT_FOUND)
    console.print(f"{scope}: {dollars(account.posted_nusd)} spent of {dollars(account.cap_nusd)}")


@budget.command()
@click.argument("scope")
def freeze(scope: str) -> None:
    """Take no more reservations from SCOPE until `unfreeze`."""
    with connected() as system:
        system.ledger.freeze(scope)
        _store_accounts(system)
    console.print(f"{scope} is frozen: its sessions end with what they know")


@budget.command()
@click.argument("scope")
def unfreeze(scope: str) -> None:
    """Take reservations from SCOPE again, also after a breach."""
    with connected() as system:
        system.ledger.unfreeze(scope)
        _store_accounts(system)
    console.print(f"{scope} takes reservations again")


@budget.command()
@click.option("--off", is_flag=True, help="Let spending go on.")
def kill(off: bool) -> None:  # noqa: FBT001 - click's way
    """Stop all spending of the fleet at once."""
    with connected() as system:
        system.ledger.kill(on=not off)
        _store_accounts(system)
    console.print("spending goes on" if off else "no paid call is made until `budget kill --off`")


def _store_accounts(system: System) -> None:
    """Have the change stored now and not in some seconds, so that it outlasts Redis."""
    try:
        system.epoch.mark(at_once=True)
    except DiagnosisError as exc:
        console.print(f"not stored outside of Redis yet: {exc}", style="dim")


def _known_queues(queues: str) -> list[str]:
    names = [name.strip() for name in queues.split(",") if name.strip()]
    unknown = [name for name in names if name not in {queue.value for queue in Queue}]
    if unknown or not names:
        raise click.UsageError(f"--queues: {unknown or queues!r} is not among {_QUEUES}")
    return names
