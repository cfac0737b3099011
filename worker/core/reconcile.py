"""Which calls of unknown outcome were not billed, by the provider's own count of tokens.

Rule: nothing is given back that could have been billed. A call that was billed has tokens, and they
stand in the export near the time of the call. So the export is cut where no call reaches across the
cut; where, between two cuts, the calls of known outcome account for every single token of a model,
none is left for the unknown ones there: they were not billed. One token too many, and all of them stay
charged, since nobody can say whose it was. One token too few, and the export is not this ledger's, or
not whole: nothing at all is given back.

It holds for API keys that nobody else uses, all that the fleet pays with: what others use is a token
too many, and only keeps charges that could have gone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from worker.core.batches import ASKED_AT_MOST_MS, is_batched
from worker.core.costs import plus
from worker.core.values import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.core.costs import Charge

__all__ = ["Bucket", "Kept", "Verdict", "family", "joined", "reconcile"]

#: The provider's clock and Redis's are never further apart than this.
CLOCKS_MS = 120_000
#: A request that nobody listens to any more is written to its end within this: the client's own limit.
RUN_ON_MS = 600_000
#: A call whose end was not written down has ended by then.
LONGEST_MS = 1_800_000
#: The export counts as settled this long after a call; the provider's figures are 5 minutes old.
SETTLED_MS = 1_800_000

_DATED = re.compile(r"-20\d{6}$")
_NOTHING = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What the provider counted in a stretch of time, by model."""

    start_ms: int
    end_ms: int
    usage: Mapping[str, Usage] = field(default_factory=dict[str, Usage])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A call that stays charged at its bound, and why."""

    charge: Charge
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an export proves."""

    #: Proven not billed.
    refunds: tuple[Charge, ...] = ()
    kept: tuple[Kept, ...] = ()
    #: Why the export proves nothing at all; empty where it can.
    problem: str = ""
    #: Tokens by model that no call of known outcome accounts for: of unknown ones, or of others.
    unexplained: Mapping[str, Usage] = field(default_factory=dict[str, Usage])


@dataclass(slots=True)
class _Stretch:
    """Neighbouring buckets between two cuts, and the calls of one model in them."""

    first: int
    last: int
    known: Usage = field(default_factory=Usage)
    unknown: list[Charge] = field(default_factory=list["Charge"])
    end_ms: int = 0


def family(model: str) -> str:
    """Return a model's name without its date: an alias and what it stands for are billed as one."""
    return _DATED.sub("", model)


def joined(exports: Sequence[Sequence[Bucket]]) -> tuple[Bucket, ...]:
    """Return several accounts' exports as one: only the times that all of them tell, added up."""
    told: defaultdict[tuple[int, int], list[Bucket]] = defaultdict(list)
    for bucket in (bucket for export in exports for bucket in export):
        told[bucket.start_ms, bucket.end_ms].append(bucket)
    return tuple(
        Bucket(start_ms=start_ms, end_ms=end_ms, usage=_together(found))
        for (start_ms, end_ms), found in sorted(told.items())
        if len(found) == len(exports)
    )


def _together(buckets: Iterable[Bucket]) -> dict[str, Usage]:
    usage: defaultdict[str, Usage] = defaultdict(Usage)
    for bucket in buckets:
        for model, tokens in bucket.usage.items():
            usage[model] = plus(usage[model], tokens)
    return dict(usage)


def reconcile(buckets: Iterable[Bucket], charges: Iterable[Charge], *, now_ms: int) -> Verdict:
    """Return which unknown outcomes among `charges` the export proves unbilled.

    Args:
        buckets: The export, in any order, none twice.
        charges: Every charge of the key's fleet. One that is left out only keeps others charged.
        now_ms: The time; nothing that is younger than half an hour is decided.
    """
    time = sorted(buckets, key=lambda bucket: bucket.start_ms)
    refunds: list[Charge] = []
    kept: list[Kept] = []
    unexplained: dict[str, Usage] = {}
    known = _NOTHING
    for model, found in sorted(_by_family(charges).items()):
        stretches, outside = _stretches(time, found)
        kept += (Kept(charge=one, why="the export does not cover its time") for one in outside)
        for stretch in stretches:
            left = _minus(_exported(time, stretch, model), stretch.known)
            if _least(left) < 0:
                return Verdict(kept=_all_kept(charges), problem=_too_few(model, time, stretch))
            known = plus(known, stretch.known)
            if left != _NOTHING:
                unexplained[model] = plus(unexplained.get(model, _NOTHING), left)
            _decide(stretch, left, _settled_ms(time, now_ms), refunds, kept)
    if refunds and known == _NOTHING:
        return Verdict(kept=_all_kept(charges), problem=_NO_PROOF_OF_THE_KEY)
    return Verdict(refunds=tuple(refunds), kept=tuple(kept), unexplained=unexplained)


_NO_PROOF_OF_THE_KEY = (
    "no call of known outcome is in the export, so nothing shows that it is of this fleet's key: "
    "export a longer time"
)


def _too_few(model: str, time: Sequence[Bucket], stretch: _Stretch) -> str:
    start_ms, end_ms = time[stretch.first].start_ms, time[stretch.last].end_ms
    return (
        f"between {start_ms} and {end_ms} (ms since 1970) the export has fewer tokens of {model} than "
        f"the ledger has settled: it is of another key, of some models only, or not whole yet"
    )


def _all_kept(charges: Iterable[Charge]) -> tuple[Kept, ...]:
    unknown = (charge for charge in charges if charge.state == "expired")
    return tuple(Kept(charge=charge, why="the export proves nothing") for charge in unknown)


def _decide(
    stretch: _Stretch, left: Usage, settled_ms: int, refunds: list[Charge], kept: list[Kept]
) -> None:
    if stretch.end_ms > settled_ms:
        why = "the export ends too soon after it: half an hour is wanted"
    elif left != _NOTHING:
        tokens = sum(_classes(left))
        why = f"{tokens} tokens around its time are nobody else's: it may have been billed"
    else:
        refunds += stretch.unknown
        return
    kept += (Kept(charge=charge, why=why) for charge in stretch.unknown)


def _settled_ms(time: Sequence[Bucket], now_ms: int) -> int:
    """Return up to when the export is settled: a bucket that has begun says that it was made later."""
    begun = [bucket.start_ms for bucket in time if bucket.start_ms <= now_ms]
    return (begun[-1] if begun else 0) - SETTLED_MS


def _by_family(charges: Iterable[Charge]) -> dict[str, list[Charge]]:
    found: defaultdict[str, list[Charge]] = defaultdict(list)
    for charge in charges:
        if charge.state in {"settled", "expired"}:
            found[family(charge.model)].append(charge)
    return found


def _span_ms(charge: Charge) -> tuple[int, int]:
    """Return the time in which a call's tokens were counted, if they were."""
    end_ms = charge.ended_ms or charge.created_ms + LONGEST_MS
    run_on_ms = RUN_ON_MS if charge.state == "expired" else 0
    if is_batched(charge.kind) and charge.state == "expired":
        # Its session may have ended before its batch.
        end_ms = max(end_ms, charge.created_ms + ASKED_AT_MOST_MS)
    return charge.created_ms - CLOCKS_MS, end_ms + run_on_ms + CLOCKS_MS


def _stretches(
    time: Sequence[Bucket], charges: Iterable[Charge]
) -> tuple[list[_Stretch], list[Charge]]:
    """Return the stretches that no call leaves, and the unknown calls that the export does not cover.

    A known call that is not covered is in no stretch: what the export has of it is a token too many.
    """
    placed: list[tuple[int, int, Charge]] = []
    outside: list[Charge] = []
    for charge in charges:
        place = _place(time, *_span_ms(charge)) if charge.created_ms else None
        if place is not None:
            placed.append((*place, charge))
        elif charge.state == "expired":
            outside.append(charge)
    return list(_merged(placed)), outside


def _place(time: Sequence[Bucket], start_ms: int, end_ms: int) -> tuple[int, int] | None:
    """Return the first and the last bucket of a span, None where buckets are missing in it."""
    touched = [n for n, b in enumerate(time) if b.end_ms > start_ms and b.start_ms < end_ms]
    if not touched or time[touched[0]].start_ms > start_ms or time[touched[-1]].end_ms < end_ms:
        return None
    whole = all(time[n].end_ms == time[n + 1].start_ms for n in touched[:-1])
    return (touched[0], touched[-1]) if whole else None


def _merged(placed: Iterable[tuple[int, int, Charge]]) -> Iterator[_Stretch]:
    current: _Stretch | None = None
    for first, last, charge in sorted(placed, key=lambda one: one[:2]):
        if current is None or first > current.last:
            if current is not None:
                yield current
            current = _Stretch(first, last)
        current.last = max(current.last, last)
        current.end_ms = max(current.end_ms, _span_ms(charge)[1])
        if charge.state == "expired":
            current.unknown.append(charge)
        elif charge.actual_nusd and charge.usage is not None:
            # A refusal that was not charged may be in the export or not: it explains nothing.
            current.known = plus(current.known, charge.usage)
    if current is not None:
        yield current


def _exported(time: Sequence[Bucket], stretch: _Stretch, model: str) -> Usage:
    found = _NOTHING
    for bucket in time[stretch.first : stretch.last + 1]:
        for name, usage in bucket.usage.items():
            if family(name) == model:
                found = plus(found, usage)
    return found


def _classes(usage: Usage) -> tuple[int, ...]:
    return tuple(getattr(usage, each.name) for each in fields(Usage))


def _minus(one: Usage, other: Usage) -> Usage:
    names = (each.name for each in fields(Usage))
    return Usage(**{name: getattr(one, name) - getattr(other, name) for name in names})


def _least(usage: Usage) -> int:
    return min(_classes(usage))
