"""What must hold of a world that has come to rest, whatever it was struck with.

Rule: a law says what it saw, never just that it failed. What a run with a strike may leave otherwise
than a run without one is written down here, in one place (`set_aside`), with the reason; everything
else is compared byte for byte.

| what may differ                  | when                          | why                               |
|----------------------------------|-------------------------------|-----------------------------------|
| `timestamp` of a row             | always                        | it is the time of the commit      |
| attempt in a `reservation_id`    | always                        | a step that was begun again       |
| rows of `costs.jsonl` in `void`  | always                        | held, never sent, costs nothing   |
| costs and provider's ids of a step | its call was bought again   | both calls are charged, truly     |
| the session's total              | a call was bought again       | the sum of the above              |
| `amount_nusd` of a row           | the ledger was away           | its bound could not be narrowed   |
| how often it stood still         | an operator asked for things  | when he was heard is chance       |

And the ledger may say less than the artifacts where a worker was stopped until its session had
ended: a call that was charged at its bound turned out to cost less.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tests.chaos.points import Way
from tests.chaos.world import SESSION
from worker.core import keys
from worker.core.events import SessionEnded
from worker.core.rates import UNIT, burst_parts
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.chaos.world import World
    from worker.ports import Entry

__all__ = ["Came", "Left", "broken_laws", "came_of", "left_by"]

_PLACE = {"tenant": "default", "campaign": "default", "session_id": SESSION}
_NAMES = {
    "diagnosis.md",
    "clusters.json",
    "teacher_traces/diagnose.jsonl",
    "transcript.jsonl",
    "runs.jsonl",
    "costs.jsonl",
    "session.json",
}
#: What is left where writing all of them kills.
_LEAST = {"diagnosis.md", "clusters.json", "costs.jsonl", "session.json"}
_CHARGED = frozenset({"settled", "expired"})
_AWAY = frozenset({Way.AWAY, Way.UNHEARD})
_ATTEMPT = re.compile(r"/\d+\.(\d+(?:-batch)?)$")
_COST_LINE = re.compile(r"^.*Cost.*$", re.MULTILINE)


class Came(StrEnum):
    """What came of a strike; the first that holds, from the worst to the best."""

    RED = "red"
    #: A call's outcome was unknown, so it was charged and bought again.
    PAID_AGAIN = "paid again"
    STEP_AGAIN = "step again"
    #: The same bytes once times are set aside: something came later.
    LATER = "later"
    SAME = "same bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a world left behind."""

    manifest: bytes
    files: Mapping[str, bytes]
    entries: tuple[Entry, ...]
    started: Mapping[str, int]

    @property
    def charged(self) -> Counter[str]:
        """How many calls each step was charged for, as the artifacts say."""
        rows = [json.loads(line) for line in self.files.get("costs.jsonl", b"").splitlines()]
        return Counter(row["step_id"] for row in rows if row["state"] in _CHARGED)


def left_by(world: World) -> Left:
    """Return what a world left behind; no files where there is no manifest."""
    artifacts = world.stores.artifacts
    manifest = artifacts.get(keys.manifest(**_PLACE)) or b""
    listed: dict[str, Any] = json.loads(manifest)["files"] if manifest else {}
    return Left(
        manifest=manifest,
        files={name: artifacts.get(file["key"]) or b"" for name, file in listed.items()},
        entries=world.stores.ledger.entries(SESSION),
        started=Counter(started.step_id for started in world.started),
    )


def came_of(world: World, left: Left, calm: Left, *, broken: bool) -> Came:
    """Return what came of the strikes, against the same story without any."""
    if broken:
        return Came.RED
    if left.charged - calm.charged:
        return Came.PAID_AGAIN
    if again(world, left, calm):
        return Came.STEP_AGAIN
    return Came.SAME if left.manifest == calm.manifest else Came.LATER


def again(world: World, left: Left, calm: Left) -> int:
    """Return how many steps were begun again, beyond what the story itself asks for."""
    if world.story.exact:
        return (Counter(left.started) - Counter(calm.started)).total()
    return sum(count - 1 for count in left.started.values())


def broken_laws(world: World, left: Left, calm: Left) -> list[str]:
    """Return one line for each law that does not hold."""
    return [
        *world.wrong,
        *_ended_once(world, left),
        *_begun(world, left, calm),
        *_books(world, left),
        *_nothing_left(world),
        *_limits_kept(world),
        *(_differences(world, left, calm) if world.story.exact and left.files else ()),
    ]


def _ended_once(world: World, left: Left) -> Iterable[str]:
    """The session ended once, with all artifacts, a result and its reason."""
    story, ends = world.story, _ends(world)
    if len(ends) != 1 or not left.manifest:
        yield f"{len(ends)} ends, a manifest of {len(left.manifest)} bytes"
        return
    sha256 = hashlib.sha256(left.manifest).hexdigest()
    listed = json.loads(left.manifest)["files"]
    for name, file in listed.items():
        if hashlib.sha256(left.files[name]).hexdigest() != file["sha256"]:
            yield f"{name} is not what the manifest lists"
    if set(listed) != (_LEAST if "conclude" in story.poison else _NAMES):
        yield f"the manifest lists {sorted(listed)}"
    if ends[0].manifest_sha256 != sha256:
        yield "the journal names another manifest"
    results = set(world.published)
    if len(results) != 1:
        yield f"{len(results)} different results were published"
    session = json.loads(left.files["session.json"])
    said = (session["outcome"], session["stop"])
    if said[0] not in story.outcomes or (story.stops and said[1] not in story.stops):
        yield f"it ended as {said}: {session['reason']}"
    costs = {
        "journal": ends[0].cost_nusd,
        "artifacts": session["cost"]["total_nusd"],
        **{f"result {n}": result.cost_nusd for n, result in enumerate(results)},
    }
    posted = _account(world, f"session:{SESSION}").posted_nusd
    slept = bool({Way.DOZED, Way.STALLED} & set(world.strikes.values()))
    late_truth = slept and posted < ends[0].cost_nusd
    if len(set(costs.values())) > 1 or (posted != ends[0].cost_nusd and not late_truth):
        yield f"the cost differs: {costs}, {posted} in the ledger"
    if any(result.manifest_sha256 != sha256 for result in results):
        yield "the result names another manifest"


def _ends(world: World) -> list[SessionEnded]:
    records = world.stores.journal.load(SESSION).records
    return [event for event in decode_all(records) if isinstance(event, SessionEnded)]


def _begun(world: World, left: Left, calm: Left) -> Iterable[str]:
    """No step was begun after it was committed, and at most one again for each strike."""
    for started in world.started:
        if started.committed:
            yield f"{started.step_id} ran on {started.worker} although it was committed"
    extra = again(world, left, calm)
    allowed = len(world.strikes) + world.poisoned
    if extra > allowed:
        yield f"{extra} steps began again, {allowed} strikes: {dict(left.started)}"


def _books(world: World, left: Left) -> Iterable[str]:
    """Nothing is held any more; every account says the same; one request a reservation."""
    posted: set[int] = set()
    for scope in ("fleet", "tenant:default", "campaign:default", f"session:{SESSION}"):
        account = _account(world, scope)
        posted.add(account.posted_nusd)
        if account.held_nusd:
            yield f"{scope}: {account.held_nusd} are still held"
    if posted != {sum(entry.actual_nusd for entry in left.entries)}:
        yield f"posted {posted}, entries {[(e.reservation_id, e.state) for e in left.entries]}"
    yield from _spooled(world, left)
    charged = sum(entry.state in _CHARGED for entry in left.entries)
    if world.bill.requests > charged:
        yield f"{world.bill.requests} requests under {charged} reservations"


def _spooled(world: World, left: Left) -> Iterable[str]:
    """What reached the disk was charged exactly; where all of it did, the ledger is the bill."""
    entries = {entry.reservation_id: entry for entry in left.entries}
    for heard in world.heard:
        entry = entries[heard.spooled.reservation_id]
        if (entry.state, entry.actual_nusd) != ("settled", heard.spooled.cost_nusd):
            yield f"{entry.reservation_id} was heard, and is {entry.state} at {entry.actual_nusd}"
    names = {heard.spooled.reservation_id for heard in world.heard}
    charged = {entry.reservation_id for entry in left.entries if entry.state in _CHARGED}
    posted = _account(world, f"session:{SESSION}").posted_nusd
    if charged == names and posted != world.bill.billed_nusd:
        yield f"all was heard, {posted} charged, {world.bill.billed_nusd} billed"


def _account(world: World, scope: str) -> Any:
    account = world.stores.ledger.account(scope)
    assert account is not None
    return account


def _nothing_left(world: World) -> Iterable[str]:
    """Nothing is due, nothing is leased."""
    due, steps = world.stores.journal.overdue(), world.stores.journal.steps(SESSION)
    if due or steps:
        yield f"still due: {due}, under way: {steps}"


def _limits_kept(world: World) -> Iterable[str]:
    """No server had more under way than its limit says; no requests went out too fast.

    Where the limits could not be asked, or a worker stopped between its turn and its request, calls go.
    """
    if {Way.AWAY, Way.UNHEARD, Way.DOZED, Way.STALLED} & set(world.strikes.values()):
        return
    loads = (
        (world.story.teacher_limits, world.teacher_load),
        (world.story.student_limits, world.student_load),
    )
    for limits, load in loads:
        if limits is not None and limits.most is not None and load.most > limits.most:
            yield f"{load.most} calls at once where {limits.most} may be"
    limits = world.story.teacher_limits
    if limits is None or limits.rates.requests is None:
        return
    per_minute, sent = limits.rates.requests, world.sent_at_ms
    for first, since_ms in enumerate(sent):
        for number, at_ms in enumerate(sent[first:], 1):
            if number * UNIT > burst_parts(per_minute) + per_minute * (at_ms - since_ms):
                yield f"{number} requests in {at_ms - since_ms} ms where {per_minute} a minute may go"


# ------------------------------------------------------------------------------------- comparing


def _differences(world: World, left: Left, calm: Left) -> Iterable[str]:
    bought = frozenset(left.charged - calm.charged)
    away = bool(_AWAY & set(world.strikes.values()))
    asked = bool(world.story.asked)
    for name in sorted(_NAMES):
        mine, theirs = (
            set_aside(name, of.files.get(name, b""), bought, away=away, asked=asked)
            for of in (left, calm)
        )
        if mine != theirs:
            yield f"{name} differs: {_first_difference(mine, theirs)}"


def _first_difference(mine: str, theirs: str) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b),
        min(len(mine), len(theirs)),
    )
    start = max(at - 60, 0)
    return f"…{mine[start : at + 60]!r} for …{theirs[start : at + 60]!r}"


def set_aside(
    name: str, body: bytes, bought: frozenset[str], *, away: bool = False, asked: bool = False
) -> str:
    """Return an artifact without what may differ.

    Args:
        name: Of the artifact.
        body: Its bytes.
        bought: Steps that a call was bought again for.
        away: The ledger did not answer at some time.
        asked: An operator asked for things.
    """
    text = body.decode()
    if name.endswith(".jsonl"):
        rows = [_plain_row(name, json.loads(line), bought, away) for line in text.splitlines()]
        lines = [json.dumps(row) for row in rows if row is not None]
        return "\n".join(sorted(lines) if name == "costs.jsonl" else lines)
    if name == "session.json":
        aside = [*(["cost"] if bought else []), *(["pauses"] if asked else [])]
        return json.dumps({**json.loads(text), **dict.fromkeys(aside)}) if aside else text
    return _COST_LINE.sub("", text) if bought and name == "diagnosis.md" else text


def _plain_row(
    name: str,
    row: dict[str, Any],
    bought: frozenset[str],
    away: bool,
) -> dict[str, Any] | None:
    aside = {"timestamp", "created_ms", "ended_ms"} | ({"amount_nusd"} if away else set[str]())
    if name == "costs.jsonl":
        if row["state"] == "void" or row["step_id"] in bought:
            return None
        row["reservation_id"] = _ATTEMPT.sub(r"/·.\1", row["reservation_id"])
    elif bought & set(_steps_of(name, row)):
        aside |= {"cost_usd", "cost_nusd", "message_id", "request_id"}
    return {key: value for key, value in row.items() if key not in aside}


def _steps_of(name: str, row: Mapping[str, Any]) -> Iterable[str]:
    """Return the steps whose calls a row's cost is the sum of."""
    if name == "transcript.jsonl":
        purpose = row["purpose"]
        return (f"turn/{row['turn']}" if purpose == "explore" else purpose,)
    if "turn" not in row:
        return ()
    place = f"{row['turn']}.{row['index']}"
    if name == "runs.jsonl":
        ordinal = row["ordinal"]
        return f"call/{place}", f"run/{place}.{ordinal}", f"judge/{place}.{ordinal}"
    return f"call/{place}", *(f"{kind}/{place}.{n}" for kind in ("run", "judge") for n in range(9))
