"""How much a server may be asked, and what its prompt cache holds already.

Rule: it is asked before money is held; a hiccup of it costs a refusal and never money.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.core.rates import Ask, Ending, Limits, Rates, Standing

__all__ = [
    "Going",
    "GroupView",
    "Limiter",
    "Prefixes",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """How one group of an account stands, for people."""

    group: str
    #: Calls under way, and how many may be; None: any number.
    under_way: int
    slots: int | None
    #: Steps in the line.
    waiting: int
    #: How long nobody calls yet, and in whose words.
    pause_ms: int
    said: str
    #: The limits that the provider said it has.
    told: Rates


#: What a first call is told: `go`, the prefix is cached or nobody is waited for; `lead`, go and let
#: the others wait; `wait`, ask again.
Going = Literal["go", "lead", "wait"]


class Prefixes(Protocol):
    """Who writes the prefix that sessions share to the provider's cache. All raise `Unavailable`."""

    def ask(self, prefix: str, who: str) -> Going:
        """Say whether a call that begins with the prefix may go, goes first, or waits."""
        ...

    def began(self, prefix: str) -> None:
        """Say that an answer to a call with this prefix has begun: the provider has it now."""
        ...

    def lost(self, prefix: str, who: str, *, sent: bool) -> None:
        """Say that whoever went first got no answer; `sent` lets all others go at once."""
        ...


class Limiter(Protocol):
    """How fast and how many at once the fleet calls somebody else's servers.

    An account is what shares limits: a provider's key, or a student's server. Every method is one
    atomic transition on the server's time. All raise `Unavailable` when it does not answer.
    """

    def admit(self, account: str, group: str, limits: Limits, ask: Ask) -> Standing:
        """Let a call go, or say when to ask again. A repeat is told the same.

        A call that goes has a slot until it is ended, or for `SLOT_TTL_MS` after it was kept last.
        One that waits has a place in the line under its name, and is told a time of its own.
        """
        ...

    def keep(self, account: str, group: str, grants: Sequence[str]) -> None:
        """Keep the slots of calls that are still under way."""
        ...

    def end(self, account: str, group: str, limits: Limits, grant: str, ending: Ending) -> None:
        """Free the slot, put right what was taken, and learn from how the call ended. Idempotent."""
        ...

    def lift(self, account: str) -> bool:
        """Let an account's calls go again after a stop or in a pause; False where there is none."""
        ...

    def stopped(self, account: str) -> str | None:
        """Return in whose words the account is stopped, None where it is not."""
        ...

    def groups(self, account: str) -> tuple[GroupView, ...]:
        """Return how the account's groups stand, by name."""
        ...
