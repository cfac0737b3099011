"""The Redis key of a shared prefix.

Rule: a prefix is named by a hash of whose cache it is in and what it holds, so that no key and no log
holds an API key or a prompt.
"""

from __future__ import annotations

import hashlib
import re

from worker.errors import BadInput

__all__ = ["KEYS", "KEEP_MS", "LEAD_MS", "WARM_MS", "key_of", "prefix_name"]

#: name -> (key pattern, type, meaning). `docs/keys.md` is made from this.
KEYS = {
    "warm": (
        "<P>:warm:<prefix>",
        "string",
        "`warm` while the provider keeps the prefix, else since when and by whom it is being written",
    ),
}

#: How long others wait for the one that goes first. An answer of the provider begins within seconds.
LEAD_MS = 10_000
#: How long nobody else goes first after one whose answer did not begin in time: a provider that
#: answers nobody must not be asked by one session after the other.
KEEP_MS = 60_000
#: How long a prefix counts as kept after an answer began: five minutes from the start of its request,
#: which was up to a minute ago.
WARM_MS = 240_000

_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)


def prefix_name(account: str, model: str, told: str) -> str:
    """Return the name of what `told` is in the cache of an account, for a model."""
    whole = f"{account}\n{model}\n{told}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def key_of(key_prefix: str, prefix: str) -> str:
    """Return the key of a prefix.

    Raises:
        BadInput: It is no prefix's name.
    """
    if not _NAME.fullmatch(prefix):
        raise BadInput(f"a shared prefix is named by `prefix_name`, not {prefix[:100]!r}")
    return f"{key_prefix}:warm:{prefix}"
