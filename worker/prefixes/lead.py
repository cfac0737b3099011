"""First calls of sessions, of which one goes ahead while no cache holds what all of them share.

Rule: an entry can be read only once the answer to the call that wrote it has begun. So of many
sessions that begin at once one goes first, and the others wait until its answer begins, seconds: one
pays 1.25 x for tools and system prompt and the others 0.1 x, and no call is made for that alone. A
session that begins by itself waits for nobody, and nobody waits for longer than `LEAD_MS`.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from worker.core.caching import shared_prefix
from worker.errors import RateLimited, TeacherFault, Unavailable
from worker.prefixes.keys import prefix_name

if TYPE_CHECKING:
    from collections.abc import Generator

    from worker.core.teaching import TeacherRequest
    from worker.ports import Prefixes

__all__ = ["Lead", "Led"]

#: When who waits looks again.
_LOOK_MS = 300


class Led:
    """A call that was let go."""

    def __init__(self, prefixes: Prefixes | None = None, prefix: str = "") -> None:
        self._prefixes = prefixes
        self._prefix = prefix
        self.has_begun = False

    def began(self) -> None:
        """Say that the answer begins: from now on the provider has the prefix."""
        self.has_begun = True
        if self._prefixes is not None:
            with suppress(Unavailable):
                self._prefixes.began(self._prefix)


class Lead:
    """Lets the calls of one provider account go, first ones one by one while nothing is cached."""

    def __init__(self, prefixes: Prefixes, *, account: str) -> None:
        """Take where it is noted who goes first, and whose cache it is."""
        self._prefixes = prefixes
        self._account = account

    @contextmanager
    def going(self, request: TeacherRequest, who: str) -> Generator[Led]:
        """Let a call go; it says `began` when its answer begins.

        Args:
            request: The call. One that shares nothing, or that has a conversation behind it, goes.
            who: The session and step.

        Raises:
            RateLimited: Another session goes first.
        """
        told = shared_prefix(request)
        if told is None:
            yield Led()
            return
        prefix = prefix_name(self._account, request.model, told)
        leads = len(request.messages) == 1 and self._leads(prefix, who)
        led = Led(self._prefixes, prefix)
        try:
            yield led
        except BaseException as exc:
            if leads and not led.has_begun:
                with suppress(Unavailable):
                    self._prefixes.lost(prefix, who, sent=isinstance(exc, TeacherFault))
            raise

    def _leads(self, prefix: str, who: str) -> bool:
        try:
            going = self._prefixes.ask(prefix, who)
        except Unavailable:
            return False
        if going == "wait":
            raise RateLimited(
                "another session's first call is writing the shared prefix to the prompt cache",
                retry_after_ms=_LOOK_MS,
                why="the prompt cache",
            )
        return going == "lead"
