"""The limits in memory: for one process, for tests, and as the plain words of what the scripts do.

Rule: it does what the Lua scripts do, to the part and the millisecond; `tests/contract` holds both
to that under any schedule.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.core import rates
from worker.core.rates import Bucket, Rates, Standing, Window
from worker.limits.keys import valid_account, valid_group
from worker.ports import GroupView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.core.rates import Ask, Ending, Limits
    from worker.ports import Clock

__all__ = ["MemoryLimiter"]


@dataclass(frozen=True, slots=True)
class _Taken:
    began_ms: int
    #: In the order of `NAMES`.
    amounts: tuple[int, int, int]


@dataclass(slots=True)
class _Group:
    #: By the names of `core.rates.NAMES`.
    buckets: dict[str, Bucket] = field(default_factory=dict[str, Bucket])
    told: Rates = field(default_factory=Rates)
    usual_output_tokens: int = 0
    window: Window = field(default_factory=Window)
    pause_until_ms: int = 0
    said: str = ""
    asked_ms: int = 0
    #: Whether anything was ever asked or told.
    known: bool = False
    #: Grant -> when its slot ends without a word.
    slots: dict[str, int] = field(default_factory=dict[str, int])
    taken: dict[str, _Taken] = field(default_factory=dict[str, _Taken])
    #: Grant -> when its request was let go, of the last second, but for those that were given back.
    recent: dict[str, int] = field(default_factory=dict[str, int])
    #: Name -> when its turn is.
    line: dict[str, int] = field(default_factory=dict[str, int])


class MemoryLimiter:
    """`ports.Limiter` in this process. Safe to share among threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._groups: defaultdict[str, dict[str, _Group]] = defaultdict(dict)
        self._stops: dict[str, str] = {}

    def admit(self, account: str, group: str, limits: Limits, ask: Ask) -> Standing:
        """Let a call go, or say when to ask again. A repeat is told the same."""
        with self._lock:
            found = self._group(account, group)
            now = self._clock.now_ms()
            _forget_dead(found, now)
            if account in self._stops:
                return Standing(status="stopped", why="stop", said=self._stops[account])
            if ask.grant in found.taken:
                return Standing(status="go")
            return _admit(found, limits, ask, now)

    def keep(self, account: str, group: str, grants: Sequence[str]) -> None:
        """Keep the slots of calls that are still under way."""
        with self._lock:
            found = self._group(account, group)
            until = self._clock.now_ms() + rates.SLOT_TTL_MS
            for grant in grants:
                if grant in found.slots:
                    found.slots[grant] = until

    def end(self, account: str, group: str, limits: Limits, grant: str, ending: Ending) -> None:
        """Free the slot, put right what was taken, and learn from how the call ended."""
        with self._lock:
            found = self._group(account, group)
            if ending.stops:
                self._stops.setdefault(account, ending.said)
            _end(found, limits, grant, ending, self._clock.now_ms())

    def lift(self, account: str) -> bool:
        """Let an account's calls go again after a stop or in a pause; False where there is none."""
        with self._lock:
            now = self._clock.now_ms()
            lifted = self._stops.pop(valid_account(account), None) is not None
            for group in self._groups[account].values():
                lifted = lifted or group.pause_until_ms > now
                group.pause_until_ms, group.said = 0, ""
            return lifted

    def stopped(self, account: str) -> str | None:
        """Return in whose words the account is stopped, None where it is not."""
        return self._stops.get(valid_account(account))

    def groups(self, account: str) -> tuple[GroupView, ...]:
        """Return how the account's groups stand, by name."""
        with self._lock:
            now = self._clock.now_ms()
            found = sorted(self._groups[valid_account(account)].items())
            return tuple(_view(name, group, now) for name, group in found if group.known)

    def _group(self, account: str, group: str) -> _Group:
        return self._groups[valid_account(account)].setdefault(valid_group(group), _Group())


def _forget_dead(group: _Group, now: int) -> None:
    for grant in [grant for grant, until in group.slots.items() if until <= now]:
        del group.slots[grant]
        group.taken.pop(grant, None)
    for name in [name for name, turn in group.line.items() if turn + rates.TURN_MS <= now]:
        del group.line[name]


def _admit(group: _Group, limits: Limits, ask: Ask, now: int) -> Standing:
    idle = not group.slots and now - group.asked_ms >= rates.IDLE_MS
    group.window = rates.opened(group.window, limits.start, idle=idle)
    group.asked_ms, group.known = now, True
    usual = group.usual_output_tokens or rates.FIRST_OUTPUT_TOKENS
    amounts = (1, ask.input_tokens, min(ask.max_output_tokens, usual))
    places = _places(group, ask.name, now)
    waits = [
        *_bucket_waits(group, limits, amounts, places, now),
        *_slot_waits(group, limits, places),
    ]
    why, wait_ms = max(waits, key=lambda wait: wait[1], default=("", 0))
    wait_ms = rates.spread_wait_ms(wait_ms)
    if group.pause_until_ms > now:
        limit = rates.tightest(limits.rates.requests, group.told.requests)
        after_ms = group.pause_until_ms - now + rates.pause_spread_ms(places[0], limit)
        why, wait_ms = "pause", max(after_ms, wait_ms)
    if why:
        group.line[ask.name] = now + wait_ms
        said = group.said if why == "pause" else ""
        return Standing(status="wait", wait_ms=wait_ms, why=why, said=said)
    group.line.pop(ask.name, None)
    group.slots[ask.grant] = now + rates.SLOT_TTL_MS
    group.taken[ask.grant] = _Taken(now, amounts)
    group.recent = {g: at for g, at in group.recent.items() if at >= now - rates.BURST_MS}
    group.recent[ask.grant] = now
    _charge(group, limits, amounts, now)
    return Standing(status="go")


def _places(group: _Group, name: str, now: int) -> tuple[int, int]:
    """Return how many stand before this one, and for how many of them room is left.

    Who has waited for its turn leaves room for nobody; others do for all whose turn has come.
    """
    mine = group.line.get(name)
    turns = [turn for other, turn in group.line.items() if other != name]
    ahead = len(turns) if mine is None else sum(turn < mine for turn in turns)
    has_turn = mine is not None and mine <= now
    return ahead, 0 if has_turn else sum(turn <= now for turn in turns)


def _bucket_waits(
    group: _Group, limits: Limits, amounts: Sequence[int], places: tuple[int, int], now: int
) -> Iterator[tuple[str, int]]:
    ahead, ripe = places
    for name, amount in zip(rates.NAMES, amounts, strict=True):
        limit = _limit(group, limits, name)
        if limit is None or amount == 0:
            continue
        level = rates.refilled(group.buckets.get(name), limit, now).level
        parts = rates.needed_parts(name)
        if level < parts + ripe * amount * rates.UNIT:
            needed = parts + ahead * amount * rates.UNIT
            yield name.replace("_", " "), rates.wait_for_ms(level, needed, limit)


def _slot_waits(
    group: _Group, limits: Limits, places: tuple[int, int]
) -> Iterator[tuple[str, int]]:
    ahead, ripe = places
    slots = rates.slots_of(group.window, limits.most)
    if slots is not None and len(group.slots) + ripe >= slots:
        usual_ms = group.window.latency_ms or rates.FIRST_LATENCY_MS
        yield "slots", (ahead + 1) * usual_ms // slots


def _end(group: _Group, limits: Limits, grant: str, ending: Ending, now: int) -> None:
    if ending.told != Rates():
        group.told, group.known = ending.told, True
    if ending.pause_ms and now + ending.pause_ms > group.pause_until_ms:
        group.pause_until_ms, group.said = now + ending.pause_ms, ending.said
        group.known = True
    under_way = len(group.slots)
    group.slots.pop(grant, None)
    taken = group.taken.pop(grant, None)
    if taken is None:
        return
    _charge(group, limits, rates.still_to_take(taken.amounts, ending), now)
    if ending.outcome == "unsent":
        _give_back(group, limits, grant, taken.began_ms, now)
    if ending.outcome == "answered" and ending.output_tokens is not None:
        usual = group.usual_output_tokens
        group.usual_output_tokens = rates.smoothed(usual, ending.output_tokens)
    group.window = rates.after(
        group.window,
        ending,
        began_ms=taken.began_ms,
        under_way=under_way,
        now_ms=now,
        watches_latency=limits.watches_latency,
    )


def _charge(group: _Group, limits: Limits, amounts: Sequence[int], now: int) -> None:
    """Take amounts from the buckets; less than nothing gives back, up to a full bucket."""
    for name, amount in zip(rates.NAMES, amounts, strict=True):
        limit = _limit(group, limits, name)
        if limit is None or amount == 0:
            continue
        level = rates.refilled(group.buckets.get(name), limit, now).level - amount * rates.UNIT
        group.buckets[name] = Bucket(min(level, rates.burst_parts(limit)), now)


def _give_back(group: _Group, limits: Limits, grant: str, began_ms: int, now: int) -> None:
    """Give a request back that was never sent, as far as nobody has got its place meanwhile."""
    group.recent.pop(grant, None)
    limit = _limit(group, limits, "requests")
    if limit is None or began_ms < now - rates.BURST_MS:
        return
    level = rates.refilled(group.buckets.get("requests"), limit, now).level
    ages_ms = sorted(now - at for at in group.recent.values() if at >= began_ms)
    back = rates.given_back_parts(level, limit, ages_ms)
    group.buckets["requests"] = Bucket(level + back, now)


def _limit(group: _Group, limits: Limits, name: str) -> int | None:
    return rates.tightest(getattr(limits.rates, name), getattr(group.told, name))


def _view(name: str, group: _Group, now: int) -> GroupView:
    return GroupView(
        group=name,
        under_way=sum(until > now for until in group.slots.values()),
        slots=rates.slots_of(group.window, None),
        waiting=sum(turn + rates.TURN_MS > now for turn in group.line.values()),
        pause_ms=max(group.pause_until_ms - now, 0),
        said=group.said if group.pause_until_ms > now else "",
        told=group.told,
    )
