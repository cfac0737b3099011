"""How fast and how many at once a server of somebody else's may be called.

Rule: pure arithmetic on whole numbers, the same here and in `worker/limits/lua`. A bucket of a rate
a minute holds one second of it; requests are never taken on credit, tokens are: a call is let go
while there are any, and what it really used is put right when it has ended. Slots, how many calls
may be under way, halve where a server says that it has too much, and grow back.

Units: a token or request is `UNIT` parts, so that a rate a minute is as many parts a millisecond.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from worker.core.bounds import json_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.errors import StudentFault, TeacherFault

__all__ = [
    "Rates",
    "Limits",
    "Ask",
    "Standing",
    "Outcome",
    "Ending",
    "Bucket",
    "Window",
    "burst_parts",
    "refilled",
    "wait_for_ms",
    "tightest",
    "opened",
    "after_answer",
    "after_overload",
    "slots_of",
    "smoothed",
    "model_group",
    "new_input_tokens",
    "told_rates",
    "ending_of_reply",
    "ending_of_fault",
    "ending_of_answer",
    "ending_of_student_fault",
    "after",
    "spread_wait_ms",
    "pause_spread_ms",
    "needed_parts",
    "still_to_take",
    "given_back_parts",
]

#: Parts of a token: a rate a minute is as many parts a millisecond.
UNIT = 60_000
#: How much of its rate a bucket holds; a request that is older is not given back. "60 RPM might be
#: enforced as 1 request per second", says the provider; a second also bridges how late a waiting step
#: is told.
BURST_MS = 1_000
#: What nobody asked about for so long is forgotten.
KEEP_MS = 3_600_000
#: Slots are counted in thousandths, so that they can grow by less than one.
MILLI = 1_000
#: More than any fleet has threads.
MOST_SLOTS = 10_000
#: A teacher's account begins with so many calls at once, and again after so long without one; each
#: that ends well makes room for two, so they double every call's length. Providers refuse what grows
#: at a jump ("acceleration limits").
START_SLOTS = 16
IDLE_MS = 300_000
#: A claim on a slot lives so long without a word of its process.
SLOT_TTL_MS = 15_000
#: How long a place in the line is kept for a step whose turn has come.
TURN_MS = 5_000
#: A waiting step is told again within these bounds, wherever it stands in the line.
LEAST_WAIT_MS = 50
LONGEST_WAIT_MS = 15_000
#: A server may ask for a day, and no session shall wait for that: whoever hears it gives its call up
#: (`worker.runner.LONGEST_WAIT_MS`, as long), and holds up nobody else.
LONGEST_PAUSE_MS = 900_000
#: What an output is taken to be before one was seen, and a call's length.
FIRST_OUTPUT_TOKENS = 1_000
FIRST_LATENCY_MS = 1_000
#: A server whose answers take so many times as long as its best ones is full. Below the floor
#: nobody minds.
LATENCY_FACTOR = 3
LATENCY_FLOOR_MS = 1_000
#: Averages move by this share of what is new; the best latency drifts up by that one.
SMOOTH = 8
DRIFT = 256
#: The pause after a refusal that says nothing about how long.
PAUSE_MS = 1_000
#: The buckets, in the order in which amounts are told.
NAMES = ("requests", "input_tokens", "output_tokens")
#: JSON of conversations has 2.3 to 3 bytes a token.
BYTES_PER_TOKEN = 3
#: A provider's word about its own limits is believed up to here: parts stay exact in a double.
MOST_PER_MINUTE = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Limits a minute; None where there is none, or none is known."""

    requests: int | None = None
    #: Tokens that are not read from the cache: those are free.
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the settings say of one account and model group, or of one student's server."""

    rates: Rates = Rates()
    #: Calls at once, whatever the server stands; None: as many as there are.
    most: int | None = None
    #: Calls at once at the beginning and after idle times; None: as many as there are.
    start: int | None = None
    #: Whether long answers count as a sign that the server is full.
    watches_latency: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A call that wants to be made."""

    #: Never used for another call; a repeat (the reply was lost) is told the same.
    grant: str
    #: Who waits: the same for every try of a step, so that it keeps its place.
    name: str
    input_tokens: int = 0
    #: The most that it may say; it is taken to be the usual.
    max_output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The answer to an ask, and how things stand."""

    #: `go`: call now. `wait`: ask again after `wait_ms`. `stopped`: the account refuses to pay.
    status: Literal["go", "wait", "stopped"]
    wait_ms: int = 0
    #: What is waited for: `requests`, `input tokens`, `output tokens`, `slots` or `pause`; of a
    #: pause and a stop `said` has the server's own words.
    why: str = ""
    said: str = ""


#: How a call ended, as its server's load sees it. `limited`: refused for its rate. `overloaded`:
#: the server has too much. `failed`: nothing can be learned. `unsent`: it was never made.
Outcome = Literal["answered", "limited", "overloaded", "failed", "unsent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a call ended."""

    outcome: Outcome
    #: The truth about its tokens; None leaves what was taken for it.
    input_tokens: int | None = None
    output_tokens: int | None = None
    #: 0 where it says nothing about the server.
    latency_ms: int = 0
    #: For how long nobody calls.
    pause_ms: int = 0
    #: The account is stopped until somebody lifts it.
    stops: bool = False
    #: The server's words, for people.
    said: str = ""
    #: The limits that the provider said it has.
    told: Rates = Rates()


# ---------------------------------------------------------------------------------------- buckets


@dataclass(frozen=True, slots=True)
class Bucket:
    """What there is of one rate at one instant."""

    #: Parts; below 0 is a debt.
    level: int
    at_ms: int


def burst_parts(per_minute: int) -> int:
    """Return the most that a bucket holds: a second of its rate, but one request at least."""
    return max(per_minute * BURST_MS, UNIT)


def refilled(bucket: Bucket | None, per_minute: int, now_ms: int) -> Bucket:
    """Return the bucket as it is now; a new one is full."""
    burst = burst_parts(per_minute)
    if bucket is None:
        return Bucket(burst, now_ms)
    gained = per_minute * min(max(now_ms - bucket.at_ms, 0), KEEP_MS)
    return Bucket(min(burst, bucket.level + gained), now_ms)


def wait_for_ms(level: int, parts: int, per_minute: int) -> int:
    """Return how long until a bucket holds `parts`."""
    return max(0, -((level - parts) // per_minute))


def tightest(configured: int | None, told: int | None) -> int | None:
    """Return the limit that holds: the provider's word never raises what the settings allow."""
    known = [limit for limit in (configured, told) if limit]
    return min(known) if known else None


# ------------------------------------------------------------------------------------------ slots


@dataclass(frozen=True, slots=True)
class Window:
    """How many calls may be under way, and what is known of how long they take."""

    #: Thousandths of a slot; 0: no limit of ours.
    milli: int = 0
    #: Up to here it grows by one a call, above by one a round of calls; 0: no end.
    aim_milli: int = 0
    #: When it was cut last: a call that began before says nothing new.
    cut_ms: int = 0
    #: The average of the last answers, and the best that it was.
    latency_ms: int = 0
    best_ms: int = 0


def opened(window: Window, start: int | None, *, idle: bool) -> Window:
    """Return the window at an ask; after an idle time it begins small again."""
    if start is None or not idle:
        return window
    milli = min(window.milli or start * MILLI, start * MILLI)
    return replace(window, milli=milli, aim_milli=0)


def slots_of(window: Window, most: int | None) -> int | None:
    """Return how many calls may be under way; None: any number."""
    known = [window.milli // MILLI] if window.milli else []
    known += [most] if most else []
    return min(known) if known else None


def after_answer(
    window: Window,
    *,
    began_ms: int,
    latency_ms: int,
    under_way: int,
    now_ms: int,
    watches_latency: bool,
) -> Window:
    """Return the window after a call that ended well.

    Args:
        window: Before it.
        began_ms: When the call was let go.
        latency_ms: How long it took; 0 where that says nothing.
        under_way: How many calls were, this one included.
        now_ms: The time.
        watches_latency: Whether a server that takes long is one that is full.
    """
    window = _timed(window, latency_ms)
    slow = window.latency_ms > LATENCY_FACTOR * max(window.best_ms, LATENCY_FLOOR_MS)
    if watches_latency and slow:
        return _cut(window, 9, 10, began_ms=began_ms, under_way=under_way, now_ms=now_ms)
    if not window.milli or under_way * 2 * MILLI < window.milli:
        return window  # What is not used proves nothing.
    slow_start = not window.aim_milli or window.milli < window.aim_milli
    grown = window.milli + (MILLI if slow_start else max(1, MILLI * MILLI // window.milli))
    return replace(window, milli=min(grown, MOST_SLOTS * MILLI))


def after_overload(window: Window, *, began_ms: int, under_way: int, now_ms: int) -> Window:
    """Return the window after a server said that it has too much: half of what was under way."""
    return _cut(window, 1, 2, began_ms=began_ms, under_way=under_way, now_ms=now_ms)


def _cut(
    window: Window, share: int, of: int, *, began_ms: int, under_way: int, now_ms: int
) -> Window:
    if began_ms <= window.cut_ms:
        return window
    used = under_way * MILLI
    milli = max(min(window.milli or used, used) * share // of, MILLI)
    return replace(window, milli=milli, aim_milli=milli, cut_ms=now_ms)


def _timed(window: Window, latency_ms: int) -> Window:
    if latency_ms <= 0:
        return window
    average = smoothed(window.latency_ms, latency_ms)
    best = window.best_ms
    if best == 0 or average < best:
        return replace(window, latency_ms=average, best_ms=average)
    return replace(window, latency_ms=average, best_ms=best + (average - best) // DRIFT)


def smoothed(average: int, new: int) -> int:
    """Return a moving average; the first value begins it."""
    return new if average == 0 else average + (new - average) // SMOOTH


def after(
    window: Window,
    ending: Ending,
    *,
    began_ms: int,
    under_way: int,
    now_ms: int,
    watches_latency: bool,
) -> Window:
    """Return the window after a call has ended, however it did."""
    match ending.outcome:
        case "answered":
            return after_answer(
                window,
                began_ms=began_ms,
                latency_ms=ending.latency_ms,
                under_way=under_way,
                now_ms=now_ms,
                watches_latency=watches_latency,
            )
        case "overloaded":
            return after_overload(window, began_ms=began_ms, under_way=under_way, now_ms=now_ms)
        case "limited" | "failed" | "unsent":
            return window


# ----------------------------------------------------------------------------------------- waiting


def spread_wait_ms(wait_ms: int) -> int:
    """Return when to ask again: as told, or within the longest wait, spread over its second half.

    Who stands far behind comes earlier than its turn, in case that things go faster than thought,
    but not all at once.
    """
    half = LONGEST_WAIT_MS // 2
    return max(wait_ms, LEAST_WAIT_MS) if wait_ms <= LONGEST_WAIT_MS else half + wait_ms % half


def pause_spread_ms(ahead: int, requests_per_minute: int | None) -> int:
    """Return how long after a pause it is the turn of one who has so many before it."""
    return ahead * (UNIT // requests_per_minute if requests_per_minute else LEAST_WAIT_MS)


def needed_parts(name: str) -> int:
    """Return what a bucket must hold for a call to go: a whole request, or any token at all."""
    return UNIT if name == "requests" else 1


def given_back_parts(level: int, per_minute: int, ages_ms: Sequence[int]) -> int:
    """Return what the bucket of requests gets back for one that was taken and never sent.

    So much as it would hold beyond its level had that one never been taken; where it was full
    meanwhile, less or nothing, or more would go within a second than its rate. Before each request
    since, it held a full bucket at the most: what it holds now is that, what it gained since then,
    less those that went since then.

    Args:
        level: Of the bucket now.
        per_minute: Its rate.
        ages_ms: How long ago the others went that went in the same millisecond and since, and were
            not given back; the youngest first.
    """
    burst = burst_parts(per_minute)
    most = min(
        (burst + per_minute * age_ms - number * UNIT for number, age_ms in enumerate(ages_ms, 1)),
        default=burst,
    )
    return max(0, min(UNIT, min(burst, most) - level))


def still_to_take(taken: tuple[int, int, int], ending: Ending) -> tuple[int, int, int]:
    """Return what a call used beyond what was taken for it, in the order of `NAMES`.

    Of a call that was never sent all tokens go back; its request goes as `given_back_parts` says.
    """
    if ending.outcome == "unsent":
        return 0, -taken[1], -taken[2]
    used_input = taken[1] if ending.input_tokens is None else ending.input_tokens
    used_output = taken[2] if ending.output_tokens is None else ending.output_tokens
    return 0, used_input - taken[1], used_output - taken[2]


# --------------------------------------------------------------------------------- teacher's calls

#: `claude-opus-4-6` and `claude-opus-4-5-20251101` share the provider's limits of Opus 4.x.
_FAMILY = re.compile(r"(?:claude-)?([a-z]+-\d+)", re.ASCII)
_NOT_IN_KEYS = re.compile(r"[^a-z0-9.-]", re.ASCII)
_GROUP_CHARS = 40


def model_group(model: str) -> str:
    """Return the group of models that share one limit: the family and its major version."""
    family = _FAMILY.match(model)
    return family[1] if family else _NOT_IN_KEYS.sub("-", model.lower())[:_GROUP_CHARS] or "any"


def new_input_tokens(request: TeacherRequest) -> int:
    """Return about how many tokens of a prompt are not read from the cache.

    Everything up to the last breakpoint but one of the messages was sent by the turn before. The
    provider counts, when the reply begins, and its count is charged in the end.
    """
    total, at_breakpoints = 0, list[int]()
    for number, part in enumerate(request.parts):
        for block in part:
            total += json_bytes(block)
            if number >= _FIRST_MESSAGE and block.get("cache_control"):
                at_breakpoints.append(total)
    known = at_breakpoints[-2] if len(at_breakpoints) > 1 else 0
    return -(-(total - known) // BYTES_PER_TOKEN)


#: Of a prompt's parts; before it come tools and system prompt.
_FIRST_MESSAGE = 2
_LIMIT_HEADER = "anthropic-ratelimit-{}-limit"
_LIMIT = re.compile(r"\d{1,9}", re.ASCII)


def told_rates(headers: Mapping[str, str]) -> Rates:
    """Return the limits that the headers of an answer tell; names in lower case."""
    return Rates(
        requests=_told(headers, "requests"),
        input_tokens=_told(headers, "input-tokens"),
        output_tokens=_told(headers, "output-tokens"),
    )


def _told(headers: Mapping[str, str], name: str) -> int | None:
    said = headers.get(_LIMIT_HEADER.format(name), "").strip()
    if not _LIMIT.fullmatch(said):
        return None
    return min(int(said), MOST_PER_MINUTE) or None


def ending_of_reply(reply: TeacherReply) -> Ending:
    """Return what a whole reply says about the load."""
    usage = reply.usage
    return Ending(
        outcome="answered",
        input_tokens=usage.prompt_tokens - usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
        latency_ms=reply.latency_ms,
        told=reply.rates,
    )


def ending_of_fault(fault: TeacherFault, chance: float) -> Ending:
    """Return what a failed call says about the load.

    Args:
        fault: As the adapter sorted it.
        chance: 0..1, for a pause that nobody gave a length.
    """
    pause_ms = _pause_ms(fault.retry_after_ms, chance)
    match fault.pushback:
        case "rate":
            # What was refused for its rate used no tokens.
            return Ending(
                outcome="limited",
                input_tokens=0,
                output_tokens=0,
                pause_ms=pause_ms,
                said=_said(fault.message),
            )
        case "ramp" | "overload":
            return Ending(outcome="overloaded", pause_ms=pause_ms, said=_said(fault.message))
        case "spend":
            return Ending(outcome="failed", stops=True, said=_said(fault.message))
        case "":
            return Ending(outcome="failed")


# -------------------------------------------------------------------------------- student's answers


def ending_of_answer(latency_ms: int) -> Ending:
    """Return what a student's answer says about its server's load."""
    return Ending(outcome="answered", latency_ms=latency_ms)


#: What a server of students says or does when it has too much. A refused connection is none: it
#: says that nobody is there, and halving the number of callers would not bring anybody.
_FULL = frozenset({429, 503, 529})


def ending_of_student_fault(fault: StudentFault, chance: float) -> Ending:
    """Return what a student's fault says about its server's load."""
    if fault.status in _FULL and fault.retryable:
        pause_ms = _pause_ms(fault.retry_after_ms, chance)
        return Ending(outcome="overloaded", pause_ms=pause_ms, said=_said(fault.message))
    if fault.reason == "timeout":
        return Ending(outcome="overloaded", said=_said(fault.message))
    return Ending(outcome="failed")


def _pause_ms(asked_ms: int | None, chance: float) -> int:
    """Return for how long nobody calls: what the server asks for within reason, else about a second."""
    if asked_ms is None or asked_ms > LONGEST_PAUSE_MS:
        return int(PAUSE_MS * (0.5 + chance / 2))
    return asked_ms


_SAID_CHARS = 300


def _said(message: str) -> str:
    return message[:_SAID_CHARS]
