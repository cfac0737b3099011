"""The life of one request to the Messages API, from its bytes to its line on the bill.

Rule: every request gets exactly one line, and an answer is on the bill before its client can know
that it is complete. Faults are played here; what they are stands in `faults.py`.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from worker.embedded.teacher.answer import Answer, answer_of
from worker.embedded.teacher.api_error import ApiError, invalid
from worker.embedded.teacher.bill import (
    BillLine,
    Outcome,
    Usage,
    amount_nano_usd,
    amount_pico_usd,
)
from worker.embedded.teacher.brain import kind_of
from worker.embedded.teacher.catalogue import MODELS
from worker.embedded.teacher.faults import (
    CutStream,
    Delay,
    EmptyContent,
    Fault,
    HangAfter,
    HangBefore,
    Paced,
    Reset,
    Stall,
    Status,
    StopReason,
    StreamError,
)
from worker.embedded.teacher.pace import Pace
from worker.embedded.teacher.prompt import prompt_of
from worker.embedded.teacher.reply import Reply
from worker.embedded.teacher.rules import accepted
from worker.embedded.teacher.stream import Envelope, body_of, error_event, events_of
from worker.embedded.teacher.wire import MessagesRequest, PromptRequest, read_json, read_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.embedded.teacher.cache import Split
    from worker.embedded.teacher.desk import Desk, Received

__all__ = ["COUNT_TOKENS", "MESSAGES", "Connection", "Disconnected", "Exchange"]

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"


class Disconnected(Exception):
    """The client has gone. Nothing can be sent any more."""


class Connection(Protocol):
    """The way back to the client. Every method raises `Disconnected` once the client has gone."""

    def send(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        """Send a whole answer."""
        ...

    def send_half(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        """Send the first half of an answer's body."""
        ...

    def start_stream(self, headers: Mapping[str, str]) -> None:
        """Send the head of a stream of events."""
        ...

    def send_event(self, event: bytes) -> None:
        """Send one event."""
        ...

    def end_stream(self) -> None:
        """Say that no event follows."""
        ...

    def wait(self, ms: int) -> None:
        """Do nothing for a while, unless the client leaves."""
        ...

    def drop(self, *, reset: bool = False) -> None:
        """Close without a word; `reset` does so by RST. Raises nothing."""
        ...


class _Dropped(Exception):
    """A fault has ended the exchange; its line is written."""


class Exchange:
    """One request. Call `run` once."""

    def __init__(self, desk: Desk, connection: Connection, received: Received) -> None:
        self._desk = desk
        self._connection = connection
        self._received = received
        self._workspace = ""
        self._request: MessagesRequest | None = None
        self._kind = ""
        self._fault: Fault | None = None
        self._pace = desk.pace
        self._split: Split | None = None
        self._answer: Answer | None = None
        #: What the client has been sent of the output.
        self._output_tokens = 0
        #: None until the head of an answer is on its way.
        self._http_status: int | None = None
        self._settled = False

    def run(self) -> None:
        """Answer the request, whatever it is, and bill it."""
        try:
            self._serve()
        except ApiError as error:
            self._refuse(error)
        except Disconnected:
            self._settle(Outcome.DISCONNECTED if self._answer else Outcome.UNANSWERED)
            self._connection.drop()
        except _Dropped:
            pass
        except Exception:  # noqa: BLE001 - a fault of the simulator must be seen, not hang a test
            self._desk.crashes.append(traceback.format_exc())
            self._fail()

    def _serve(self) -> None:
        self._desk.log.add(self._received)
        self._workspace = self._desk.workspace_of(self._received.headers)
        if "anthropic-version" not in self._received.headers:
            raise invalid("anthropic-version: header is required")
        body = read_json(self._received.body)
        if self._received.path == COUNT_TOKENS:
            self._count_tokens(accepted(read_shape(PromptRequest, body)))
        else:
            self._converse(accepted(read_shape(MessagesRequest, body)))

    def _count_tokens(self, request: PromptRequest) -> None:
        self._http_status = 200
        self._settle(Outcome.FREE)
        tokens = prompt_of(request).total_tokens
        self._connection.send(200, self._headers(), {"input_tokens": tokens})

    def _converse(self, request: MessagesRequest) -> None:
        self._request = request
        self._kind = kind_of(request)
        split = self._desk.split(request, self._workspace, self._received.received_ms)
        self._desk.buckets.begin(
            self._workspace,
            request.model,
            split.input_tokens + split.write_tokens,
            self._desk.clock.now_ms(),
        )
        self._fault = self._desk.faults.take(self._kind, request.model)
        if isinstance(self._fault, Paced):
            self._pace = Pace(first_ms=self._fault.first_ms, event_ms=self._fault.event_ms)
        self._play_before_answer()
        self._connection.wait(self._pace.first_ms)
        reply = self._played_on(self._desk.reply(request, self._kind))
        answer = answer_of(
            reply,
            max_tokens=request.max_tokens,
            window_left_tokens=MODELS[request.model].window_tokens - split.total_tokens,
            stop_sequences=request.stop_sequences,
        )
        self._split, self._answer = split, answer
        self._desk.begin(split, self._received.received_ms)
        self._play_instead_of_answer(answer)
        if request.stream:
            self._stream(answer)
        else:
            self._send(answer)

    # ------------------------------------------------------------------------------------ answers

    def _send(self, answer: Answer) -> None:
        self._output_tokens = answer.output_tokens
        body = body_of(answer, self._envelope())
        match self._fault:
            case Stall(ms=ms):
                self._connection.wait(ms)
            case CutStream() | StreamError():
                self._http_status = 200
                self._settle(Outcome.CUT)
                self._connection.send_half(200, self._headers(), body)
                self._drop()
            case _:
                pass
        self._http_status = 200
        self._settle_complete(answer)
        self._connection.send(200, self._headers(), body)

    def _stream(self, answer: Answer) -> None:
        self._http_status = 200
        self._connection.start_stream(self._headers())
        for number, event in enumerate(events_of(answer, self._envelope())):
            self._play_in_stream(number)
            self._connection.wait(self._pace.event_ms)
            if event.name == "message_delta":
                self._settle_complete(answer)
            self._connection.send_event(event.encode())
            self._output_tokens = event.output_tokens
        self._connection.end_stream()

    def _refuse(self, error: ApiError) -> None:
        self._http_status = error.status
        self._settle(Outcome.ERROR)
        try:
            self._connection.send(
                error.status,
                self._headers() | error.headers,
                error.body(self._received.request_id),
            )
        except Disconnected:
            self._connection.drop()

    def _fail(self) -> None:
        if self._answer is None:
            self._refuse(ApiError(500, "the simulator itself failed: see crashes in /_sim/log"))
        else:
            self._settle(Outcome.CUT)
            self._connection.drop()

    def _headers(self) -> dict[str, str]:
        headers = {
            "request-id": self._received.request_id,
            "anthropic-organization-id": "org_simulated",
            "x-simulated-teacher": "true",
        }
        if self._workspace:
            headers["anthropic-workspace-id"] = self._workspace
        model = self._request.model if self._request else ""
        now_ms = self._desk.clock.now_ms()
        return headers | self._desk.buckets.headers(self._workspace, model, now_ms)

    def _envelope(self) -> Envelope:
        assert self._request is not None
        return Envelope(
            message_id=self._received.message_id,
            model=self._request.model,
            usage=self._usage(),
            inference_geo=self._request.inference_geo or "global",
        )

    # ------------------------------------------------------------------------------------- faults

    def _play_before_answer(self) -> None:
        match self._fault:
            case Delay(ms=ms):
                self._connection.wait(ms)
            case Status() as fault:
                raise ApiError(
                    fault.status,
                    fault.message,
                    error_type=fault.error_type,
                    headers=fault.headers,
                    details=fault.details,
                )
            case HangBefore(ms=ms):
                self._connection.wait(ms)
                self._settle(Outcome.UNANSWERED)
                self._drop()
            case Reset(billed=False):
                self._settle(Outcome.UNANSWERED)
                self._drop(reset=True)
            case _:
                pass

    def _played_on(self, reply: Reply) -> Reply:
        match self._fault:
            case StopReason(stop_reason=reason, stop_details=details, empty=empty):
                return Reply(() if empty else reply.blocks, reason, details)
            case EmptyContent():
                return Reply(())
            case _:
                return reply

    def _play_instead_of_answer(self, answer: Answer) -> None:
        """Lose the whole answer, where the fault says so: on the bill before the client can act."""
        self._output_tokens = answer.output_tokens
        match self._fault:
            case HangAfter(ms=ms):
                self._settle(Outcome.LOST)
                self._connection.wait(ms)
                self._drop()
            case Reset():
                self._settle(Outcome.LOST)
                self._drop(reset=True)
            case _:
                self._output_tokens = 0

    def _play_in_stream(self, number: int) -> None:
        """Do what the fault does once `number` events were sent."""
        match self._fault:
            case Stall(after_events=after, ms=ms) if after == number:
                self._connection.wait(ms)
            case CutStream(after_events=after) if after == number:
                self._settle(Outcome.CUT)
                self._drop()
            case StreamError(after_events=after) as fault if after == number:
                self._settle(Outcome.CUT)
                event = error_event(fault.error_type, fault.message, self._received.request_id)
                self._connection.send_event(event.encode())
                self._connection.end_stream()
                self._drop()
            case _:
                pass

    def _drop(self, *, reset: bool = False) -> NoReturn:
        self._connection.drop(reset=reset)
        raise _Dropped

    # --------------------------------------------------------------------------------------- bill

    def _settle_complete(self, answer: Answer) -> None:
        self._output_tokens = answer.output_tokens
        self._settle(Outcome.REFUSED if answer.unbilled else Outcome.COMPLETE)

    def _settle(self, outcome: Outcome) -> None:
        """Write the request's line; only the first call does."""
        if not self._settled:
            self._settled = True
            if self._request is not None:
                now_ms = self._desk.clock.now_ms()
                self._desk.buckets.end(
                    self._workspace, self._request.model, self._output_tokens, now_ms
                )
            self._desk.bill.add(self._line(outcome))

    def _line(self, outcome: Outcome) -> BillLine:
        request, answer = self._request, self._answer
        model = request.model if request else ""
        geo = (request.inference_geo if request else None) or "global"
        usage = self._usage()
        pico = amount_pico_usd(model, usage, inference_geo=geo) if outcome.billed else 0
        return BillLine(
            sequence_no=self._received.sequence_no,
            request_id=self._received.request_id,
            message_id=self._received.message_id if answer else "",
            endpoint=self._received.path,
            kind=self._kind,
            model=model,
            usage=usage,
            inference_geo=geo,
            amount_pico_usd=pico,
            amount_nano_usd=amount_nano_usd(pico),
            outcome=outcome,
            billed=outcome.billed,
            http_status=self._http_status,
            stop_reason=answer.stop_reason if answer else None,
            user_id=request.metadata.user_id if request else None,
            fault=self._fault.fault if self._fault else "",
            received_ms=self._received.received_ms,
            ended_ms=self._desk.clock.now_ms(),
        )

    def _usage(self) -> Usage:
        if self._split is None:
            return Usage()
        return Usage(
            input_tokens=self._split.input_tokens,
            cache_write_5m_tokens=self._split.write_5m_tokens,
            cache_write_1h_tokens=self._split.write_1h_tokens,
            cache_read_tokens=self._split.read_tokens,
            output_tokens=self._output_tokens,
        )
