"""`costs.jsonl` as it is written and read back, and what is noted when a charge is refunded.

Rule: files of every version are readable: what an older worker did not write has its default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic
from pydantic import BaseModel, ConfigDict, TypeAdapter

from worker.core.costs import Cost
from worker.errors import BadInput
from worker.ports import EntryState

if TYPE_CHECKING:
    from worker.ports import Entry

__all__ = ["Refund", "cost_of", "read_costs", "read_refund"]


_ROW = TypeAdapter(Cost)


class Refund(BaseModel):
    """A charge for an unknown outcome that was given back, noted once the ledger has done so."""

    model_config = ConfigDict(frozen=True)

    reservation_id: str
    amount_nusd: int
    why: str


def cost_of(entry: Entry) -> Cost:
    """Return a reservation as `costs.jsonl` has it.

    One that was given back has no time: a hold is given back later where a worker died, and the file
    would not have the same bytes then.
    """
    return Cost(
        reservation_id=entry.reservation_id,
        step_id=entry.step_id,
        kind=entry.kind,
        model=entry.model,
        state=entry.state.value,
        amount_nusd=entry.amount_nusd,
        actual_nusd=entry.actual_nusd,
        usage=entry.usage,
        request_id=entry.request_id,
        why=entry.why,
        created_ms=entry.created_ms,
        ended_ms=0 if entry.state is EntryState.VOID else entry.ended_ms,
    )


def read_costs(body: bytes) -> tuple[Cost, ...]:
    """Return the rows of a `costs.jsonl`.

    Raises:
        BadInput: It is none.
    """
    try:
        return tuple(_ROW.validate_json(line) for line in body.splitlines())
    except pydantic.ValidationError as exc:
        raise BadInput(
            f"{body[:80]!r} is no costs.jsonl: restore it from the bucket's versions"
        ) from exc


def read_refund(body: bytes) -> Refund:
    """Return a note of a refund.

    Raises:
        BadInput: It is none.
    """
    try:
        return Refund.model_validate_json(body)
    except pydantic.ValidationError as exc:
        raise BadInput(f"{body[:80]!r} is no note of a refund") from exc
