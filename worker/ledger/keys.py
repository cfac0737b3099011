"""Every Redis key of the ledger, in one place, and which names may become part of one.

Rule: all keys share one hash tag, `{prefix}`, because one script charges several accounts at once;
the accounts of a reservation that stands already are read from its hash.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "KEYS",
    "KEEP_MS",
    "MAX_NUSD",
    "prefix_of",
    "is_session",
    "session_scope",
    "valid_amount",
    "valid_reservation_id",
    "valid_scope",
    "valid_scopes",
]

#: name -> (key pattern, type, meaning). `docs/keys.md` is made from this.
KEYS = {
    "account": (
        "{P}:bud:a:<scope>",
        "hash",
        "cap, posted, held, unknown, breach in nano-dollars; frozen, closed 0/1",
    ),
    "reservation": (
        "{P}:bud:r:<reservation>",
        "hash",
        "state, amount, actual, what was told, why, ended_ms; replaced_by, stands_for, deadline",
    ),
    "promises": (
        "{P}:bud:p:<scope>",
        "hash",
        "session -> nano-dollars that it may expect of the account, until it ends",
    ),
    "open": ("{P}:bud:open", "zset", "reservation that is held or sent -> its deadline in ms"),
    "session": ("{P}:bud:s:<session>", "list", "the session's reservations as they were made"),
    "names": ("{P}:bud:names", "set", "scopes of all accounts but the sessions'"),
    "meta": (
        "{P}:bud:meta",
        "hash",
        "kill 0/1; cut: the last transition that is being archived; epoch, doubt; and the newest mark",
    ),
    "turn": ("{P}:bud:turn:<duty>", "string", "the worker whose turn it is: `mark` or `rescue`"),
    "transitions": (
        "{P}:bud:j",
        "stream",
        "every transition that is not archived yet, at most about 500,000",
    ),
}

#: A session's account and list, and a reservation that has ended, are kept this long after they
#: were last touched: 30 days. `costs.jsonl` has them for good; the other accounts never expire.
KEEP_MS = 30 * 24 * 3_600_000
#: Lua's numbers are doubles: whole up to here, $9.007 million.
MAX_NUSD = 2**53 - 1

_SESSION = "session:"
_SCOPE = re.compile(r"[a-z0-9][a-z0-9._:@/+-]{0,254}")
_RESERVATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+#-]{0,254}")
#: How much of a refused value an error quotes.
_QUOTED_CHARS = 80


def prefix_of(name: str) -> str:
    """Return the start of every key; `name` is the hash tag."""
    return f"{{{name}}}:bud:"


def is_session(scope: str) -> bool:
    """Whether the account belongs to one session."""
    return scope.startswith(_SESSION)


def session_scope(session_id: str) -> str:
    """Return the account of a session."""
    return valid_scope(f"{_SESSION}{session_id}")


def valid_scope(scope: str) -> str:
    """Return `scope` if it may name an account.

    Raises:
        BadInput: It has a character that a key or a list of scopes cannot hold.
    """
    if not _SCOPE.fullmatch(scope):
        raise BadInput(
            f"an account is named like 'tenant:acme' (lower case, digits, ._:@/+-), "
            f"not {scope[:_QUOTED_CHARS]!r}",
            scope=scope,
        )
    return scope


def valid_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Return `scopes` if a reservation may be charged to them.

    Raises:
        BadInput: There is none, one stands twice (it would be charged twice), or one has no name.
    """
    if not scopes or len(set(scopes)) < len(scopes):
        raise BadInput(
            f"a reservation is charged to one account or more, each once, not to {list(scopes)!r}",
            scopes=tuple(scopes),
        )
    return tuple(valid_scope(scope) for scope in scopes)


def valid_reservation_id(reservation_id: str) -> str:
    """Return `reservation_id` if it may stand in a key.

    Raises:
        BadInput: It may not.
    """
    if not _RESERVATION.fullmatch(reservation_id):
        raise BadInput(
            f"a reservation is named by letters, digits and ._:@/+#-, at most 255 of them, "
            f"not {reservation_id[:_QUOTED_CHARS]!r}",
            reservation_id=reservation_id,
        )
    return reservation_id


def valid_amount(amount_nusd: int, *, least: int = 0) -> int:
    """Return `amount_nusd` if it is a whole number that every counter holds exactly.

    Raises:
        BadInput: It is no `int`, below `least`, or above `MAX_NUSD`.
    """
    if type(amount_nusd) is not int or not least <= amount_nusd <= MAX_NUSD:
        raise BadInput(
            f"an amount is a whole number of nano-dollars from {least} to {MAX_NUSD}, "
            f"not {amount_nusd!r}",
            amount_nusd=amount_nusd,
        )
    return amount_nusd
