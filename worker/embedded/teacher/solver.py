"""The teacher that runs on a task itself.

Rule: its answer is the answer key's, word for word, since it is scored like a student's; a task
that is not in the key it does not know, and it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.embedded.teacher.reply import Reply, saying

if TYPE_CHECKING:
    from worker.embedded.teacher.keys import AnswerKey
    from worker.embedded.teacher.wire import MessagesRequest

__all__ = ["UNKNOWN", "Solver"]

UNKNOWN = "I don't know (simulated teacher: this task is not in its answer key)."


class Solver:
    """Answers tasks."""

    def __init__(self, key: AnswerKey) -> None:
        self._key = key

    def reply(self, request: MessagesRequest) -> Reply:
        """Return the answer to the task in the newest message."""
        return saying(self._key.answer_to(request.last_user_text) or UNKNOWN)
