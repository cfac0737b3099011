"""Every Redis key of the journal, in one place.

Rule: all keys share one hash tag, `{prefix}`, because one script changes several of them at once.
Session and step ids were checked before they come here (`worker.core.keys`).
"""

from __future__ import annotations

__all__ = ["DRIVE", "KEYS", "member", "split_member"]

#: name -> (key pattern, type, meaning). `docs/keys.md` is made from this.
KEYS = {
    "due": ("{P}:due", "zset", "`session/step` -> when somebody must be told next, in ms"),
    "sessions": ("{P}:sessions", "zset", "session -> when it was created, in ms"),
    "session": (
        "{P}:s:<session>",
        "hash",
        "status, times, counters, labels; of a pruned session this is left",
    ),
    "journal": ("{P}:j:<session>", "list", "records: a head line, then the event as JSON"),
    "index": ("{P}:k:<session>", "hash", "event key -> `position token`"),
    "open": ("{P}:o:<session>", "set", "steps that are due or under way"),
    "attempts": (
        "{P}:n:<session>",
        "hash",
        "step that was begun and then not wanted any more -> its attempts, counted on from there",
    ),
    "notes": (
        "{P}:a:<session>",
        "list",
        "what befell attempts, the newest 500: time, attempt, worker, step; then the words",
    ),
    "dead": (
        "{P}:dead",
        "hash",
        "number -> a step that was given up, the newest 1,000; `last`: the newest number",
    ),
    "waits": (
        "{P}:waits",
        "hash",
        "`session/step` that waits for money -> since when, how much, whether in escrow, accounts",
    ),
    "row": (
        "{P}:t:<session>/<step>",
        "hash",
        "queue, state, not_before, lease_until, fence, token, owner, counters, last_error, waits",
    ),
}

#: The pseudo-step "somebody must drive this session".
DRIVE = "drive"


def member(session_id: str, step_id: str) -> str:
    """Return a step's name in the due set."""
    return f"{session_id}/{step_id}"


def split_member(name: str) -> tuple[str, str]:
    """Return (session id, step id) of a name in the due set."""
    session_id, _, step_id = name.partition("/")
    return session_id, step_id
