"""What the session needs from the outside, as protocols and the values they exchange.

Rule: a port speaks the project's words; vendor types stay behind it. Every adapter of a port, fake
or real, passes the same contract suite (`tests/contract`).
"""

from __future__ import annotations

from worker.core.teaching import JudgeRequest, TeacherReply, TeacherRequest, Verdict
from worker.core.waiting import Room
from worker.ports.artifacts import Artifacts
from worker.ports.clock import Clock
from worker.ports.journal import (
    Announcement,
    Claim,
    Claimed,
    Commit,
    Committed,
    DeadLetter,
    Hints,
    Journal,
    Lease,
    Note,
    Record,
    Slice,
    StepRow,
    Wait,
    Waiting,
)
from worker.ports.ledger import (
    Account,
    Entry,
    EntryState,
    Ledger,
    Register,
    Transition,
    TransitionLog,
)
from worker.ports.limits import Going, GroupView, Limiter, Prefixes
from worker.ports.models import Batch, BatchAnswer, Batches, Student, StudentAnswer, Teacher

__all__ = [
    "Account",
    "Announcement",
    "Artifacts",
    "Batch",
    "BatchAnswer",
    "Batches",
    "Claim",
    "Claimed",
    "Clock",
    "Commit",
    "Committed",
    "DeadLetter",
    "Entry",
    "EntryState",
    "Going",
    "GroupView",
    "Hints",
    "Journal",
    "JudgeRequest",
    "Lease",
    "Ledger",
    "Limiter",
    "Note",
    "Prefixes",
    "Record",
    "Register",
    "Room",
    "Slice",
    "StepRow",
    "Student",
    "StudentAnswer",
    "Teacher",
    "TeacherReply",
    "TeacherRequest",
    "Transition",
    "TransitionLog",
    "Verdict",
    "Wait",
    "Waiting",
]
