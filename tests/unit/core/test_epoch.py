"""Whether a Redis is judged rightly, whatever was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from worker.core.epoch import NO_MARK, Mark, Position, Stored, Verdict, epoch_number, judge

EPOCH = "00000001-aa"
HERE = Position(epoch=EPOCH, mark=Mark(5, "e"), before=Mark(4, "d"))
THERE = Stored(newest=EPOCH, mark=Mark(5, "e"))


def test_a_redis_with_the_newest_mark_is_whole() -> None:
    assert judge(HERE, THERE) is Verdict.WHOLE


def test_a_redis_that_was_ahead_of_the_store_when_its_worker_died_is_whole() -> None:
    assert judge(HERE, replace(THERE, mark=Mark(4, "d"))) is Verdict.WHOLE


def test_a_store_that_lost_its_marks_says_nothing_about_redis() -> None:
    assert judge(HERE, replace(THERE, mark=Mark(2, "b"))) is Verdict.WHOLE
    assert judge(HERE, replace(THERE, mark=NO_MARK)) is Verdict.WHOLE


def test_a_redis_that_lacks_the_newest_mark_is_older() -> None:
    assert judge(HERE, replace(THERE, mark=Mark(6, "f"))) is Verdict.OLDER


def test_a_redis_that_passed_the_same_number_in_another_history_is_older() -> None:
    assert judge(HERE, replace(THERE, mark=Mark(5, "other"))) is Verdict.OLDER
    assert judge(HERE, replace(THERE, mark=Mark(4, "other"))) is Verdict.OLDER


def test_a_redis_that_lacks_what_somebody_saw_there_is_older() -> None:
    assert judge(replace(HERE, has_seen=False), THERE) is Verdict.OLDER
    assert judge(HERE, THERE, evidence="a request went out before") is Verdict.OLDER


def test_a_redis_that_is_being_rebuilt_is_not_trusted_before_that_is_done() -> None:
    assert judge(replace(HERE, doubt="older"), THERE) is Verdict.OLDER


def test_a_redis_without_an_epoch_is_new_only_where_no_epoch_ever_was() -> None:
    assert judge(Position(), Stored(knows=False)) is Verdict.NEW
    assert judge(Position(), replace(THERE, knows=False)) is Verdict.EMPTY


def test_a_copy_from_before_the_last_rebuilding_is_older_and_a_stranger_is_foreign() -> None:
    stored = replace(THERE, newest="00000002-bb", mark=NO_MARK)

    assert judge(HERE, stored) is Verdict.OLDER
    assert judge(HERE, replace(stored, knows=False)) is Verdict.FOREIGN


def test_nothing_of_another_fleets_bucket_is_used() -> None:
    assert judge(Position(), replace(THERE, ours=False)) is Verdict.FOREIGN
    assert judge(HERE, replace(THERE, ours=False)) is Verdict.FOREIGN
    assert judge(HERE, Stored(knows=False)) is Verdict.FOREIGN


def test_an_epoch_begins_with_its_number() -> None:
    assert epoch_number(EPOCH) == 1
    assert epoch_number("") == 0
    assert epoch_number("x-1") == 0


@dataclass
class Server:
    """A Redis, with the history that its data came through."""

    epoch: str = ""
    marks: tuple[Mark, ...] = ()

    def standing(self) -> Position:
        *_, before, last = (NO_MARK, NO_MARK, *self.marks)
        return Position(epoch=self.epoch, mark=last, before=before)


@dataclass
class World:
    """One fleet: a Redis that is restarted, emptied, copied and put back; a store that never forgets."""

    server: Server = field(default_factory=Server)
    copies: list[Server] = field(default_factory=list[Server])
    epochs: list[str] = field(default_factory=list[str])
    #: Of each epoch.
    stored: dict[str, list[Mark]] = field(default_factory=dict[str, list[Mark]])
    #: What is in the store before it and was in the server when it was stored.
    nonces: int = 0

    def new_nonce(self) -> str:
        self.nonces += 1
        return f"{self.nonces}"

    def seen(self) -> Stored:
        if not self.epochs:
            return Stored(knows=False)
        newest = self.epochs[-1]
        marks = self.stored[newest]
        return Stored(
            newest=newest,
            mark=marks[-1] if marks else NO_MARK,
            knows=self.server.epoch in self.epochs,
        )

    def verdict(self) -> Verdict:
        return judge(self.server.standing(), self.seen())

    def truth(self) -> Verdict:
        """Say what is so, from the whole history, which no worker has."""
        if not self.epochs:
            return Verdict.NEW
        if not self.server.epoch:
            return Verdict.EMPTY
        newest = self.epochs[-1]
        if self.server.epoch != newest:
            return Verdict.OLDER
        has_all = set(self.stored[newest]) <= {*self.server.marks}
        return Verdict.WHOLE if has_all else Verdict.OLDER

    def do(self, act: str) -> None:
        match act:
            case "begin" if self.verdict() is not Verdict.WHOLE:
                epoch = f"{len(self.epochs) + 1:08d}-{self.new_nonce()}"
                self.epochs.append(epoch)
                self.stored[epoch] = []
                self.server = Server(epoch)
            case "mark" | "die in mark" if self.verdict() is Verdict.WHOLE:
                self.mark(dies=act == "die in mark")
            case "empty":
                self.server = Server()
            case "copy":
                self.copies.append(self.server)
            case "put back" if self.copies:
                self.server = self.copies[-1]
            case "go on unnoticed" if self.server.epoch:
                number = len(self.server.marks) + 1
                new = Mark(number, self.new_nonce())
                self.server = replace(self.server, marks=(*self.server.marks, new))
            case _:
                pass

    def mark(self, *, dies: bool) -> None:
        """Do as `Epoch.mark` does: mend what a dead one left, then Redis, then the store."""
        stored = self.stored[self.server.epoch]
        if len(stored) < len(self.server.marks):
            stored.append(self.server.marks[-1])
        new = Mark(len(self.server.marks) + 1, self.new_nonce())
        self.server = replace(self.server, marks=(*self.server.marks, new))
        if not dies:
            stored.append(new)


ACTS = ("begin", "mark", "mark", "die in mark", "empty", "copy", "put back")


@given(st.lists(st.sampled_from(ACTS), max_size=40))
def test_no_loss_of_what_was_marked_is_missed_and_no_restart_is_taken_for_one(
    acts: list[str],
) -> None:
    world = World()
    for act in acts:
        world.do(act)

        assert world.verdict() is world.truth()


@given(st.lists(st.sampled_from(ACTS), max_size=30), st.integers(1, 3))
def test_an_older_copy_that_went_on_is_known_however_far_it_went(
    acts: list[str], further: int
) -> None:
    world = World()
    for act in (
        "begin",
        *acts,
        "begin",
        "copy",
        "mark",
        "put back",
        *["go on unnoticed"] * further,
    ):
        world.do(act)

    # Two marks beyond the stored one are out of sight: but nobody passes two without looking.
    expected = Verdict.OLDER if further <= 2 else Verdict.WHOLE
    assert world.verdict() is expected
