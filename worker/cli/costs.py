"""Commands about what was spent: costs.

Rule: every amount is exact to the nano-dollar; what is not known for sure stands apart from it.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click
from rich.console import Console
from rich.table import Table

from worker.cli.connection import connected
from worker.cli.output import console, said
from worker.core.costs import DIMENSIONS, summed, total, unknown
from worker.core.findings import usd_text
from worker.costs import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from worker.core.costs import Charge, Dimension, Sum
    from worker.costs import Collected

__all__ = ["costs", "progress_bar"]

Row = dict[str, Any]

#: Sums could not be made whole.
_INCOMPLETE = 1


def _dimensions(
    context: click.Context, parameter: click.Parameter, names: str
) -> tuple[Dimension, ...]:
    del context, parameter
    wanted = [name.strip() for name in names.split(",")]
    if set(wanted) - set(DIMENSIONS) or len(set(wanted)) < len(wanted):
        raise click.BadParameter(f"{names!r}: take some of {', '.join(DIMENSIONS)}, each once.")
    return tuple(cast("list[Dimension]", wanted))


@click.command()
@click.option("--campaign", default=None, help="Only its sessions.")
@click.option("--tenant", default=None, help="Only its sessions.")
@click.option(
    "--by",
    callback=_dimensions,
    metavar="DIMENSIONS",
    default="campaign",
    show_default=True,
    help=f"What to add up by: some of {','.join(DIMENSIONS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, unknown outcomes listed.")
@click.option("--csv", "as_csv", is_flag=True, help="A line a sum, with a header.")
def costs(
    *,
    campaign: str | None,
    tenant: str | None,
    by: tuple[Dimension, ...],
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what was spent, to the nano-dollar, and which part of it is not known for sure.

    Sessions that have ended are read from their artifacts in the object store, for as long as those are
    kept; sessions under way from the ledger, and may still grow. A night is a day from noon to noon,
    UTC. Calls of unknown outcome are charged at their bounds: they are part of every sum, have a column
    of their own, and are listed (in `--json` as `unknown`). Exit 1 where a session could not be read.
    """
    if as_json and as_csv:
        raise click.UsageError("say --json or --csv")
    with connected() as system, progress_bar("reading sessions") as told:
        found = collect(
            system.journal,
            system.ledger,
            system.artifacts,
            tenant=tenant,
            campaign=campaign,
            progress=told,
        )
    if as_json:
        click.echo(json.dumps(_json(found, by), ensure_ascii=False))
    elif as_csv:
        click.echo(_csv(found, by), nl=False)
    else:
        _show(found, by)
    for session, why in found.unreadable:
        click.echo(f"diagnosis: {session} is in no sum: {why}", err=True)
    sys.exit(_INCOMPLETE if found.unreadable else 0)


@contextmanager
def progress_bar(doing: str) -> Generator[Callable[[int, int], object]]:
    """Yield what is told (done, of); shows it on stderr where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(doing, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)


def _row(one: Sum, by: Sequence[Dimension]) -> Row:
    return {
        **dict(zip(by, one.key, strict=True)),
        "calls": one.calls,
        "cost_nusd": one.cost_nusd,
        "cost_usd": usd_text(one.cost_nusd),
        "unknown_calls": one.unknown_calls,
        "unknown_nusd": one.unknown_nusd,
        "held_nusd": one.held_nusd,
        **asdict(one.usage),
    }


def _json(found: Collected, by: Sequence[Dimension]) -> Row:
    return {
        "by": by,
        "rows": [_row(one, by) for one in summed(found.charges, by)],
        "total": _row(total(found.charges), ()),
        "unknown": [_unknown_row(charge) for charge in unknown(found.charges)],
        "sessions": {
            "from_artifacts": len(found.ended),
            "from_ledger": len(found.open),
            "unreadable": [{"session": name, "why": why} for name, why in found.unreadable],
        },
    }


def _unknown_row(charge: Charge) -> Row:
    names = ("session", "tenant", "campaign", "night", "kind", "model", "step_id")
    more = ("reservation_id", "request_id", "actual_nusd", "why")
    return {name: getattr(charge, name) for name in (*names, *more)}


def _csv(found: Collected, by: Sequence[Dimension]) -> str:
    text = io.StringIO()
    rows = [_row(one, by) for one in summed(found.charges, by)]
    header = _row(total(()), ())
    writer = csv.DictWriter(text, [*by, *header], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """Return a value that no spreadsheet takes for a formula; our names begin with none of these."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" else value


def _show(found: Collected, by: Sequence[Dimension]) -> None:
    table = Table(*by, "calls", "cost", "of that unknown", "held now", box=None)
    sums = summed(found.charges, by)
    for one in sums:
        table.add_row(*(said(name) for name in one.key), *_amounts(one))
    whole = total(found.charges)
    if len(sums) != 1:
        table.add_row(*("" for _ in by[1:]), "total", *_amounts(whole))
    console.print(table)
    listed = unknown(found.charges)
    if listed:
        console.print(_unknown_table(listed))
    console.print(
        f"{len(found.ended)} sessions have ended and were read from their artifacts; "
        f"{len(found.open)} are under way and were read from the ledger.",
        style="dim",
    )


def _amounts(one: Sum) -> tuple[str, str, str, str]:
    unknown_usd = (
        f"${usd_text(one.unknown_nusd)} ({one.unknown_calls})" if one.unknown_calls else ""
    )
    held = f"${usd_text(one.held_nusd)}" if one.held_nusd else ""
    return str(one.calls), f"${usd_text(one.cost_nusd)}", unknown_usd, held


def _unknown_table(charges: Sequence[Charge]) -> Table:
    table = Table("unknown outcome", "step", "kind", "model", "charged", "why", "request", box=None)
    for charge in charges:
        table.add_row(
            *(said(word) for word in (charge.session, charge.step_id, charge.kind, charge.model)),
            f"${usd_text(charge.actual_nusd)}",
            said(charge.why),
            said(charge.request_id),
        )
    return table
