"""`costs.jsonl` as it is read back, and what is noted when a charge is refunded.

Rule: files of every version are readable: what an older worker did not write has its default.
"""

from __future__ import annotations

import pydantic
from pydantic import BaseModel, ConfigDict

from worker.errors import BadInput

__all__ = ["CostRow", "Refund", "read_costs", "read_refund"]


class _UsageRow(BaseModel):
    model_config = ConfigDict(frozen=True)

    input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0


class CostRow(BaseModel):
    """One reservation of an ended session."""

    model_config = ConfigDict(frozen=True)

    reservation_id: str
    step_id: str
    kind: str
    model: str
    state: str
    amount_nusd: int
    actual_nusd: int
    usage: _UsageRow | None = None
    request_id: str = ""
    why: str = ""
    created_ms: int = 0
    ended_ms: int = 0


class Refund(BaseModel):
    """A charge for an unknown outcome that was given back, noted before the ledger is told."""

    model_config = ConfigDict(frozen=True)

    reservation_id: str
    amount_nusd: int
    why: str


def read_costs(body: bytes) -> tuple[CostRow, ...]:
    """Return the rows of a `costs.jsonl`.

    Raises:
        BadInput: It is none.
    """
    try:
        return tuple(CostRow.model_validate_json(line) for line in body.splitlines())
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
