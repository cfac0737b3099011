"""Commands about the servers that the fleet calls: how much of their limits is used, who is paused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import click
from rich.table import Table

from worker.cli.connection import connected
from worker.cli.output import NOT_FOUND, console, fail, said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.core.rates import Limits
    from worker.ports import GroupView, Limiter
    from worker.settings import Settings

__all__ = ["limits"]


class _Server(NamedTuple):
    kind: str
    name: str
    account: str
    limits: Limits

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def _servers(settings: Settings) -> Iterator[_Server]:
    for name, teacher in settings.teachers.items():
        yield _Server("teacher", name, teacher.account, teacher.limits)
    for name, student in settings.students.items():
        yield _Server("student", name, student.account, student.limits)


@click.group()
def limits() -> None:
    """Show how the teachers' and students' servers are called, and let a stopped one go again."""


@limits.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a group of models.")
def list_limits(as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Show calls under way, steps that wait, pauses and stops; exit 0."""
    table = Table("server", "group", "under way", "of", "waiting", "", box=None)
    with connected() as system:
        for server in _servers(system.settings):
            stopped = system.limiter.stopped(server.account)
            for view in _views(system.limiter, server):
                if as_json:
                    click.echo(json.dumps({**_row(server, view), "stopped": stopped}))
                most = _most(server, view)
                table.add_row(
                    said(server.title),
                    said(view.group),
                    str(view.under_way),
                    "any" if most is None else str(most),
                    str(view.waiting),
                    said(_state(view, stopped)),
                )
    if not as_json:
        console.print(table if table.rows else "nothing was called in the last hour")


def _views(limiter: Limiter, server: _Server) -> tuple[GroupView, ...]:
    return limiter.groups(server.account)


def _most(server: _Server, view: GroupView) -> int | None:
    known = [most for most in (view.slots, server.limits.most) if most is not None]
    return min(known) if known else None


def _row(server: _Server, view: GroupView) -> dict[str, object]:
    return {
        "server": server.title,
        **asdict(view),
        "slots": _most(server, view),
        "limits": asdict(server.limits.rates),
    }


def _state(view: GroupView, stopped: str | None) -> str:
    if stopped is not None:
        return f"stopped: {stopped}"
    return f"paused for {view.pause_ms / 1000:.0f} s: {view.said}" if view.pause_ms else ""


@limits.command()
@click.argument("kind", type=click.Choice(["teacher", "student"]))
@click.argument("name")
def lift(kind: str, name: str) -> None:
    """End a stop (a spend limit) or a pause of a teacher's or student's account."""
    with connected() as system:
        found = [server for server in _servers(system.settings) if server[:2] == (kind, name)]
        if not found:
            fail(f"the settings know no {kind} named {name!r}", code=NOT_FOUND)
        lifted = system.limiter.lift(found[0].account)
    click.echo(f"{kind} {name} is called again" if lifted else f"{kind} {name} was not held back")
