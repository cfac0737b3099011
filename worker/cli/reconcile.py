"""The command that holds the provider's usage against the ledger: reconcile.

Rule: nothing changes without `--apply`, and nothing is given back that could have been billed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from worker.cli.connection import connected
from worker.cli.costs import progress_bar
from worker.cli.output import console, said
from worker.clock import SystemClock
from worker.core.costs import total, unknown
from worker.core.findings import usd_text
from worker.core.reconcile import joined
from worker.core.reconcile import reconcile as decide
from worker.costs import collect
from worker.errors import BadInput
from worker.refunds import carry_out, note_all
from worker.wire.usage_export import read_export

if TYPE_CHECKING:
    from worker.core.costs import Charge
    from worker.core.reconcile import Bucket, Verdict
    from worker.refunds import Refunded

__all__ = ["reconcile"]


@click.command()
@click.argument(
    "usage_exports",
    metavar="USAGE_EXPORT...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option(
    "--api-key-id",
    "api_key_ids",
    multiple=True,
    help="Of the fleet's own key, where an export has several; may be said more than once.",
)
@click.option("--apply", "applied", is_flag=True, help="Give it back. Without it: only say what.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def reconcile(
    usage_exports: tuple[Path, ...],
    *,
    api_key_ids: tuple[str, ...],
    applied: bool,
    as_json: bool,
) -> None:
    """Give back what was charged for calls of unknown outcome that USAGE_EXPORT proves unbilled.

    USAGE_EXPORT holds the answers of the provider's GET /v1/organizations/usage_report/messages with
    group_by[]=model, bucket_width=1m, from before the first call to 45 minutes after the last; pages
    one a line or as a list. It must be of the API key that this fleet alone uses: then a call whose
    tokens are not in it was not billed. Where others use the key too, less is proven, never too much.
    A fleet that pays from several accounts gives an export of each.

    Exit 3 where the export cannot be this fleet's, or is not whole; then nothing is given back.
    """
    buckets = joined([_read(path, api_key_ids) for path in usage_exports])
    done: tuple[Refunded, ...] = ()
    with connected() as system:
        with progress_bar("reading sessions") as told:
            found = collect(system.journal, system.ledger, system.artifacts, progress=told)
        verdict = decide(buckets, found.charges, now_ms=SystemClock().now_ms())
        if verdict.problem:
            raise BadInput(f"{', '.join(path.name for path in usage_exports)}: {verdict.problem}")
        if applied:
            done = carry_out(system.ledger, system.artifacts, verdict.refunds)
            note_all(system.artifacts, found.charges)
    for session, why in found.unreadable:
        click.echo(f"diagnosis: {session} is left out: {why}", err=True)
    if as_json:
        click.echo(json.dumps(_json(verdict, done, applied=applied), ensure_ascii=False))
    else:
        _show(verdict, found.charges, done, applied=applied)


def _read(path: Path, api_key_ids: tuple[str, ...]) -> tuple[Bucket, ...]:
    try:
        return read_export(path.read_bytes(), api_key_ids=api_key_ids)
    except BadInput as exc:
        raise BadInput(f"{path.name}: {exc.message}") from exc
    except OSError as exc:
        raise BadInput(f"{path.name} cannot be read: {exc.strerror}") from exc


def _json(verdict: Verdict, done: tuple[Refunded, ...], *, applied: bool) -> dict[str, Any]:
    refused = [one.charge.reservation_id for one in done if not one.done]
    return {
        "applied": applied,
        "refunds": [_row(charge) for charge in verdict.refunds],
        "refund_nusd": sum(charge.actual_nusd for charge in verdict.refunds),
        "not_carried_out": refused,
        "kept": [{**_row(one.charge), "why": one.why} for one in verdict.kept],
        "unexplained_tokens": {name: asdict(one) for name, one in verdict.unexplained.items()},
    }


def _row(charge: Charge) -> dict[str, Any]:
    names = ("session", "step_id", "kind", "model", "reservation_id", "request_id", "actual_nusd")
    return {name: getattr(charge, name) for name in names}


def _show(
    verdict: Verdict,
    charges: tuple[Charge, ...],
    done: tuple[Refunded, ...],
    *,
    applied: bool,
) -> None:
    fate = {one.charge.reservation_id: _fate(done=one.done) for one in done}
    table = Table("session", "step", "model", "charged", "", box=None)
    for charge in verdict.refunds:
        words = fate.get(charge.reservation_id, "not billed: --apply gives it back")
        table.add_row(*_cells(charge), said(words))
    for one in verdict.kept:
        table.add_row(*_cells(one.charge), said(f"stays: {one.why}"))
    if unknown(charges):
        console.print(table)
    for model, usage in verdict.unexplained.items():
        tokens = sum(asdict(usage).values())
        console.print(said(f"{model}: {tokens} tokens in the export belong to no known outcome"))
    refunded = sum(charge.actual_nusd for charge in verdict.refunds)
    of = total(charges).unknown_nusd
    console.print(
        f"${usd_text(refunded)} of ${usd_text(of)} of unknown outcome "
        f"{'was given back' if applied else 'would be given back'}; "
        "it holds for a key that this fleet alone uses",
    )


def _fate(*, done: bool) -> str:
    return "given back" if done else "not given back: the ledger no longer has it as unknown"


def _cells(charge: Charge) -> tuple[Any, ...]:
    names = said(charge.session), said(charge.step_id), said(charge.model)
    return *names, f"${usd_text(charge.actual_nusd)}"
