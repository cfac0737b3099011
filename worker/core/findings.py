"""All that the artifacts of a session are made from, and its money added up.

Rule: plain values, given by the shell; amounts are whole nano-dollars up to the last character.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from worker.core.costs import Cost
    from worker.core.evidence import CheckedCluster
    from worker.core.machine import Session
    from worker.core.values import Outcome, Payload

    TextOf = Callable[[Payload], str]
    #: (session, turn, index, text_of) -> (text, is_error): `transcript.call_result`.
    CallResult = Callable[[Session, int, int, TextOf], tuple[str, bool]]

__all__ = ["Findings", "paid_by_call", "paid_by_step", "usd_text"]

_NANO_PER_DOLLAR = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that the artifacts are made from."""

    session: Session
    outcome: Outcome
    reason: str
    #: What `evidence.check` made of the session's ending.
    clusters: tuple[CheckedCluster, ...]
    #: In the ledger's order.
    costs: tuple[Cost, ...]
    text_of: TextOf
    call_result: CallResult
    #: ISO 8601 time of each journal record, by its key.
    times: Mapping[str, str] = field(default_factory=dict[str, str])
    #: What made this: the worker's version, the price table's, …
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def total_nusd(self) -> int:
        """What the session cost."""
        return sum(cost.actual_nusd for cost in self.costs)

    @property
    def by_kind_nusd(self) -> dict[str, int]:
        """What it cost by kind of call, in the order of the kinds' names."""
        return dict(sorted(_sums((cost.kind, cost) for cost in self.costs).items()))

    @property
    def unknown_nusd(self) -> int:
        """What was charged at its bound, the outcome of the call being unknown."""
        return sum(cost.actual_nusd for cost in self.costs if cost.state == "expired")

    @property
    def still_held_nusd(self) -> int:
        """What is neither charged nor free yet."""
        return sum(cost.amount_nusd for cost in self.costs if cost.state in {"held", "sent"})


def paid_by_step(costs: Iterable[Cost]) -> dict[str, int]:
    """Return what each step cost, with its failed attempts."""
    return _sums((cost.step_id, cost) for cost in costs)


def paid_by_call(costs: Iterable[Cost]) -> dict[str, int]:
    """Return what each tool call cost with all its runs and verdicts, by `turn.index`."""
    places = ((*cost.step_id.partition("/"), cost) for cost in costs)
    return _sums(
        (".".join(place.split(".")[:2]), cost)
        for kind, _, place, cost in places
        if kind in {"call", "run", "judge"}
    )


def _sums(keyed: Iterable[tuple[str, Cost]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, cost in keyed:
        sums[key] = sums.get(key, 0) + cost.actual_nusd
    return sums


def usd_text(nusd: int) -> str:
    """Return nano-dollars as an exact decimal number of dollars: `1.25`, `0.000000001`, `0`."""
    dollars, rest = divmod(abs(nusd), _NANO_PER_DOLLAR)
    decimals = f"{rest:09d}".rstrip("0")
    return f"{'-' if nusd < 0 else ''}{dollars}{'.' if decimals else ''}{decimals}"
