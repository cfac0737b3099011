"""The teacher that is asked for its diagnosis when it can explore no more.

Rule: it answers from what the request quotes. Clusters that stand in it already are given back as
they are; otherwise they are counted from the runs that are quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.diagnosis import diagnose, fenced
from worker.embedded.teacher.findings import SUBMIT, exchanges_of, findings_of, json_in, objects_in
from worker.embedded.teacher.reply import Reply, saying, wishing
from worker.embedded.teacher.submission import closing_wish
from worker.embedded.teacher.wire import Text

if TYPE_CHECKING:
    from worker.embedded.teacher.wire import MessagesRequest

__all__ = ["Closing", "is_closing"]

_ABOUT_CLUSTERS = re.compile(r"\bclusters?\b", re.IGNORECASE)
_ABOUT_FAILURES = re.compile(r"diagnos|failure", re.IGNORECASE)
_ARRAY_ALONE = re.compile(r"array\s+(?:alone|only)|only\s+the\s+(?:json\s+)?array", re.IGNORECASE)
#: Keys that only a cluster has.
_CLUSTER_KEYS = frozenset({"student_failure_rate", "skill_gap"})


def is_closing(request: MessagesRequest) -> bool:
    """Whether the request asks for a diagnosis or its clusters, rather than for a task's answer."""
    if any(tool.name == SUBMIT for tool in request.tools):
        return True
    asked = f"{request.system_text}\n{request.last_user_text}"
    return bool(_ABOUT_CLUSTERS.search(asked) and _ABOUT_FAILURES.search(asked))


class Closing:
    """Writes the diagnosis from the evidence in the text."""

    def reply(self, request: MessagesRequest) -> Reply:
        """Return the array alone where that is asked for, else the diagnosis."""
        asked = f"{request.system_text}\n{request.last_user_text}"
        if _ARRAY_ALONE.search(asked):
            return saying(fenced(_clusters(request)))
        diagnosis = diagnose(findings_of(request))
        refusals = [one for one in exchanges_of(request) if one.tool == SUBMIT]
        choice = request.tool_choice
        may_call = choice is None or choice.type != "none"
        wish = closing_wish(request, diagnosis, refusals) if may_call else None
        if wish is None:
            return saying(diagnosis.as_text)
        return wishing(request, "[simulated teacher] The diagnosis, from the notes.", [wish])


def _clusters(request: MessagesRequest) -> list[dict[str, Any]]:
    texts = [
        block.text
        for message in request.messages
        for block in message.content
        if isinstance(block, Text)
    ]
    quoted = [
        found
        for text in texts
        for found in objects_in(json_in(text))
        if found.keys() & _CLUSTER_KEYS
    ]
    return quoted or [cluster.as_json() for cluster in diagnose(findings_of(request)).clusters]
