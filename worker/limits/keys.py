"""Every Redis key of the limits, in one place.

Rule: the keys of one account share one hash tag, since a stop holds for all of its groups; accounts
are named by hashes, so that no key and no log holds an API key.
"""

from __future__ import annotations

import hashlib
import re

from worker.errors import BadInput

__all__ = ["KEYS", "account_name", "prefix_of", "valid_account", "valid_group"]

#: name -> (key pattern, type, meaning). `docs/keys.md` is made from this.
KEYS = {
    "limits": (
        "{P:rl:<account>}:<group>:b",
        "hash",
        "levels and times of the buckets, what the provider said, pause, slots, averages",
    ),
    "slots": (
        "{P:rl:<account>}:<group>:s",
        "zset",
        "call under way -> when its slot ends without a word, in ms",
    ),
    "taken": (
        "{P:rl:<account>}:<group>:g",
        "hash",
        "call under way -> when it began, tokens taken for its input and output",
    ),
    "recent": (
        "{P:rl:<account>}:<group>:r",
        "zset",
        "request of the last second -> when it went, in ms; not those that were given back",
    ),
    "line": (
        "{P:rl:<account>}:<group>:l",
        "zset",
        "step that waits -> when its turn is, in ms",
    ),
    "groups": ("{P:rl:<account>}:groups", "set", "groups of the account"),
    "stop": (
        "{P:rl:<account>}:stop",
        "string",
        "why the account is stopped, in the provider's words",
    ),
}

_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}", re.ASCII)
_GROUP = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}", re.ASCII)


def prefix_of(prefix: str, account: str) -> str:
    """Return the keys' prefix of an account, with its hash tag."""
    return f"{{{prefix}:rl:{valid_account(account)}}}:"


def account_name(kind: str, *parts: str) -> str:
    """Return the name of the account that these parts (an address, a key) make."""
    told = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"{kind}-{told[:16]}"


def valid_account(account: str) -> str:
    """Return `account` if it may stand in a key.

    Raises:
        BadInput: It may not.
    """
    return _checked(_ACCOUNT, "an account of limits", account)


def valid_group(group: str) -> str:
    """Return `group` if it may stand in a key.

    Raises:
        BadInput: It may not.
    """
    return _checked(_GROUP, "a group of models", group)


def _checked(form: re.Pattern[str], what: str, name: str) -> str:
    if not form.fullmatch(name):
        raise BadInput(
            f"{what} is named by small letters, digits, dots and dashes, not {name[:100]!r}",
            name=name,
        )
    return name
