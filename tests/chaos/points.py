"""Operations as places where a worker can be struck.

Rule: whatever a worker does to the outside goes through `counted`, so an operation that a port gets
tomorrow is struck tomorrow. An operation is known by its number: the same story and seed, the same
numbers, up to the first strike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Killed", "Point", "Strikes", "Through", "Way", "counted"]

T = TypeVar("T")

#: (name of the operation, the operation) -> what it returned, if the worker lives to see it.
Through: TypeAlias = "Callable[[str, Callable[[], Any]], Any]"


class Killed(BaseException):
    """The process is gone. No `except Exception` of the code under test may catch it."""


class Way(StrEnum):
    """What happens to a worker at an operation."""

    #: Killed; the operation never took effect.
    BEFORE = "killed before"
    #: Killed; the operation took effect, its reply was lost.
    AFTER = "killed after"
    #: The reply was lost; the client says the same again.
    AGAIN = "said again"
    #: The server is away; the operation never took effect.
    AWAY = "away before"
    #: The operation took effect, then the server is away.
    UNHEARD = "away after"
    #: The process stops a little longer than its lease lasts: another one has just taken over.
    DOZED = "dozed"
    #: The process stops for so long that others have finished, then goes on with the operation.
    STALLED = "stalled"


#: Number of an operation -> what happens there.
Strikes = dict[int, Way]


@dataclass(frozen=True, slots=True)
class Point:
    """One operation of a run."""

    #: `journal.commit`, `artifacts.put_new`, …
    name: str
    #: The step under way in the worker; empty outside of steps.
    step_id: str


class _Counted:
    """Any port; each of its methods goes through `through` first."""

    def __init__(
        self,
        inner: object,
        port: str,
        through: Through,
        free: Collection[str],
    ) -> None:
        self._inner = inner
        self._port = port
        self._through = through
        self._free = free

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in self._free or not callable(value):
            return value

        def operation(*args: Any, **kwargs: Any) -> Any:
            return self._through(f"{self._port}.{name}", lambda: value(*args, **kwargs))

        self.__dict__[name] = operation
        return operation


def counted(
    inner: T,
    port: str,
    through: Through,
    *,
    free: Collection[str] = (),
) -> T:
    """Return `inner` with every operation going through `through`, but for those that are `free`."""
    return cast("T", _Counted(inner, port, through, free))
