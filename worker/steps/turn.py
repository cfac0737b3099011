"""The step that lets the teacher take a turn.

Rule: a turn is paid for before it is asked, and its content is stored as it came.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from worker.core import evidence, policy, transcript
from worker.core.caching import sent_prompt
from worker.core.events import TeacherReplied, TeacherStopped
from worker.core.replies import SUBMIT, Meaning, read_reply
from worker.core.values import Ending, Purpose, Stop
from worker.errors import BudgetDenied, TeacherFault
from worker.steps.context import closing_hold_id
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from worker.core.commands import TakeTurn
    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.core.values import SentPrompt
    from worker.paid import PaidReply
    from worker.steps.context import Step

__all__ = ["take_turn"]


def take_turn(step: Step, command: TakeTurn) -> TeacherReplied | TeacherStopped:
    """Ask the teacher and return its reply, or why it could not be asked.

    Raises:
        TeacherFault: The call failed and may be tried again.
        InBatch: It is the extraction, in a batch that has not ended.
        BudgetDenied: The session pauses for want of money.
        Cancelled: The step was told to stop.
    """
    request = _request(step, command.purpose)
    try:
        paid = _pay(step, command, request)
    except BudgetDenied as exc:
        if policy.pauses(step.session.spec, command, exc):
            raise
        return _stopped(command, Stop.BUDGET, str(exc))
    except TeacherFault as exc:
        if exc.retry == "later":
            raise
        return _stopped(command, Stop.FAULT, str(exc))
    return _replied(step, command, paid, sent=_sent(step, command, request, paid))


def _request(step: Step, purpose: Purpose) -> TeacherRequest:
    match purpose:
        case Purpose.EXPLORE:
            return transcript.exploring_request(step.session, anthropic_tools(), step.text_of)
        case Purpose.CLOSE:
            only = [tool for tool in anthropic_tools() if tool["name"] == SUBMIT]
            return transcript.closing_request(step.session, only, step.text_of)
        case Purpose.EXTRACT:
            return transcript.extraction_request(step.session, step.text_of)


def _pay(step: Step, command: TakeTurn, request: TeacherRequest) -> PaidReply:
    closes = command.purpose is Purpose.CLOSE
    return step.pay(
        request,
        kind=command.purpose.value,
        account=step.session.spec.teacher,
        prompt_bound_tokens=transcript.prompt_bound_tokens(step.session, request, step.text_of),
        replaces=closing_hold_id(step.session_id) if closes else None,
        batch_kind="extract_batch" if command.purpose is Purpose.EXTRACT else None,
    )


def _sent(
    step: Step, command: TakeTurn, request: TeacherRequest, paid: PaidReply
) -> SentPrompt | None:
    """Return what later turns are to find in the cache; only the exploration's calls leave any."""
    if command.purpose is not Purpose.EXPLORE:
        return None
    return sent_prompt(
        request,
        asked_ms=step.ports.clock.now_ms() - paid.reply.latency_ms,
        before=[turn.reply for turn in step.session.turns],
    )


def _stopped(command: TakeTurn, stop: Stop, detail: str) -> TeacherStopped:
    return TeacherStopped(turn=command.turn, purpose=command.purpose, stop=stop, detail=detail)


def _replied(
    step: Step, command: TakeTurn, paid: PaidReply, *, sent: SentPrompt | None
) -> TeacherReplied:
    reply = paid.reply
    meaning = _meaning(step, command.purpose, reply)
    return TeacherReplied(
        turn=command.turn,
        purpose=command.purpose,
        content=step.store(json.dumps(reply.content, ensure_ascii=False)),
        stop_reason=reply.stop_reason,
        calls=meaning.calls,
        ending=_stored(step, meaning.ending),
        stop=meaning.stop,
        usage=reply.usage,
        cost_nusd=paid.cost_nusd,
        model=reply.model,
        message_id=reply.message_id,
        request_id=reply.request_id,
        latency_ms=reply.latency_ms,
        sent=sent,
    )


def _meaning(step: Step, purpose: Purpose, reply: TeacherReply) -> Meaning:
    if purpose is not Purpose.CLOSE:
        return read_reply(reply, purpose)
    known = step.workspace
    traces = {*known.trace_tasks, *evidence.run_tasks(step.session.runs)}
    return read_reply(reply, purpose, task_ids=known.task_ids, trace_ids=traces)


def _stored(step: Step, ending: Ending | None) -> Ending | None:
    if ending is None:
        return None
    return replace(ending, diagnosis=step.store(step.text_of(ending.diagnosis)))
