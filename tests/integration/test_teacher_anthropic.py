"""The teacher's adapter against real HTTP servers: scripted ones that fail, and the simulator."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from worker.core.teaching import JudgeRequest, TeacherReply, TeacherRequest
from worker.core.values import Usage
from worker.embedded.process import free_ports
from worker.embedded.teacher.server import SimulatedTeacher
from worker.errors import Misconfigured, TeacherFault, Unavailable
from worker.judge.llm import LlmJudge
from worker.teacher.anthropic import AnthropicTeacher

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

KEY = "sk-ant-secret"
Json = dict[str, Any]

USAGE: Json = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 40,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "output_tokens": 1,
}
PROMPT = Usage(
    input_tokens=10,
    cache_write_5m_tokens=10,
    cache_write_1h_tokens=20,
    cache_read_tokens=40,
    output_tokens=1,
)
START: Json = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "usage": USAGE,
    },
}
STOP: Json = {"type": "message_stop"}


def ends(stop_reason: str | None, output_tokens: int = 25) -> Json:
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}}


def text_block(index: int, *texts: str) -> list[Json]:
    begin: Json = {"type": "text", "text": ""}
    return [
        {"type": "content_block_start", "index": index, "content_block": begin},
        *(
            {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "text_delta", "text": text},
            }
            for text in texts
        ),
        {"type": "content_block_stop", "index": index},
    ]


WHOLE = [START, *text_block(0, "Good", "bye"), ends("end_turn"), STOP]

# ------------------------------------------------------------------------- a server with a script


@dataclass(frozen=True, slots=True)
class Wait:
    """Say nothing for a while, or until the client hangs up."""

    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection with a RST."""


#: What a connection is given after its request was read; it is closed at the end.
Step = bytes | Wait | Reset


def head(status: str = "200 OK", **headers: str) -> bytes:
    fields = {"content-type": "text/event-stream", "request-id": "req_1"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


def sse(*events: Json) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def chunks(*events: Json) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(sse(event)), sse(event)) for event in events)


CHUNKED = head(transfer_encoding="chunked")
LAST_CHUNK = b"0\r\n\r\n"
GOOD = [CHUNKED, chunks(*WHOLE), LAST_CHUNK]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """Plays one script a request; the last one is repeated."""

    scripts: list[Sequence[Step]]
    seen: list[Seen] = field(default_factory=list[Seen])
    #: One thread a connection.
    talks: list[threading.Thread] = field(default_factory=list[threading.Thread])
    #: The client ended a connection while the script was waiting.
    hung_up: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    tls: ssl.SSLContext | None = None

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.talks.append(threading.Thread(target=self._talk, args=(connection,)))
            self.talks[-1].start()

    def _talk(self, connection: socket.socket) -> None:
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True)
        with (
            connection,
            connection.makefile("rb") as incoming,
            contextlib.suppress(OSError, UnicodeDecodeError),
        ):
            while (request := _read_request(incoming)) is not None:
                self.seen.append(request)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                for step in script:
                    self._play(step, connection)
                if not script or script[-1] != LAST_CHUNK:
                    return

    def _play(self, step: Step, connection: socket.socket) -> None:
        match step:
            case bytes():
                connection.sendall(step)
            case Wait():
                connection.settimeout(step.seconds)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1) == b"":
                        self.hung_up.set()
            case Reset():
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()


def _read_request(incoming: Any) -> Seen | None:
    line = incoming.readline().decode().strip()
    if not line:
        return None
    headers: dict[str, str] = {}
    while text := incoming.readline().decode().strip():
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return Seen(line, headers, incoming.read(int(headers.get("content-length", "0"))))


@contextlib.contextmanager
def scripted(*scripts: Sequence[Step], tls: ssl.SSLContext | None = None) -> Generator[Scripted]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Scripted(list(scripts), tls=tls)
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for talk in server.talks:
                talk.join(5)


@contextlib.contextmanager
def opened(url: str, **settings: int) -> Generator[AnthropicTeacher]:
    with contextlib.closing(AnthropicTeacher(base_url=url, api_key=KEY, **settings)) as teacher:
        yield teacher


def request(**changes: Any) -> TeacherRequest:
    fields: Json = {
        "model": "claude-opus-4-6",
        "max_tokens": 1_000,
        "system": [{"type": "text", "text": "You diagnose."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Go."}]}],
        "timeout_ms": 20_000,
    }
    return TeacherRequest(**(fields | changes))


def send(
    teacher: AnthropicTeacher,
    wanted: TeacherRequest | None = None,
    *,
    on_answer: Callable[[str], None] = lambda _: None,
    on_start: Callable[[Usage], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> TeacherReply:
    return teacher.send(
        wanted or request(), on_answer=on_answer, on_start=on_start, stopped=stopped
    )


# ------------------------------------------------------------------------------------ a whole reply


def test_a_whole_reply_comes_with_everything_that_was_said_of_it() -> None:
    started: list[Usage] = []
    with scripted(GOOD) as server, opened(server.url) as teacher:
        reply = send(teacher, on_start=started.append)

    assert started == [PROMPT]
    assert reply.latency_ms >= 0
    assert reply == TeacherReply(
        content=[{"type": "text", "text": "Goodbye"}],
        stop_reason="end_turn",
        usage=Usage(
            input_tokens=10,
            cache_write_5m_tokens=10,
            cache_write_1h_tokens=20,
            cache_read_tokens=40,
            output_tokens=25,
        ),
        model="claude-test",
        message_id="msg_1",
        request_id="req_1",
        latency_ms=reply.latency_ms,
    )


def test_the_request_is_what_the_core_built_and_what_its_price_depends_on() -> None:
    tools = [{"name": "t", "description": "d", "input_schema": {"type": "object"}}]
    with scripted(GOOD) as server, opened(server.url) as teacher:
        send(teacher, request(tools=tools))
        send(teacher, request(system=[]))

    with_tools, without = (json.loads(seen.body) for seen in server.seen)
    assert with_tools == {
        "model": "claude-opus-4-6",
        "max_tokens": 1_000,
        "system": [{"type": "text", "text": "You diagnose."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Go."}]}],
        "tools": tools,
        "tool_choice": {"type": "auto"},
        "stream": True,
        "service_tier": "standard_only",
        "inference_geo": "global",
    }
    assert set(without) == set(with_tools) - {"tools", "tool_choice", "system"}
    assert [seen.line for seen in server.seen] == ["POST /v1/messages HTTP/1.1"] * 2
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_large_request_arrives_whole() -> None:
    prompt = "".join(f"line {number} ü\n" for number in range(40_000))
    with scripted(GOOD) as server, opened(server.url) as teacher:
        send(teacher, request(system=[{"type": "text", "text": prompt}]))

    assert json.loads(server.seen[0].body)["system"][0]["text"] == prompt


def test_what_the_teacher_said_goes_back_byte_for_byte() -> None:
    arguments = '{"q": "größer \\u00e9 \\n", "n": 1.0, "deep": [{"a": null, "b": []}], "": 10}'
    blocks: list[Json] = [
        {"type": "thinking", "thinking": "so…", "signature": "EqQB+/=="},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "brand_new", "z": 1, "a": {"keep": None}, "extra": "…"},
        {"type": "text", "text": "Hallo\u2028Welt 🎉", "citations": None},
        {"type": "tool_use", "id": "toolu_1", "name": "t", "input": json.loads(arguments)},
    ]
    streamed: list[Json] = [*blocks[:4], {**blocks[4], "input": {}}]
    events: list[Json] = [
        {"type": "content_block_start", "index": index, "content_block": block}
        for index, block in enumerate(streamed)
    ]
    halves = [
        {
            "type": "content_block_delta",
            "index": 4,
            "delta": {"type": "input_json_delta", "partial_json": half},
        }
        for half in (arguments[:9], arguments[9:])
    ]
    answer = [CHUNKED, chunks(START, *events, *halves, ends("tool_use"), STOP), LAST_CHUNK]
    with scripted(answer) as server, opened(server.url) as teacher:
        first = send(teacher)
        stored = json.loads(json.dumps(first.content))
        send(teacher, request(messages=[{"role": "assistant", "content": stored}]))

    expected = json.dumps(blocks, ensure_ascii=False, separators=(",", ":"))
    assert f'"content":{expected}' in server.seen[1].body.decode()


def test_arguments_that_were_cut_can_be_sent_back() -> None:
    tool: Json = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"task_id": "ta'}
    events: list[Json] = [
        {"type": "content_block_start", "index": 0, "content_block": tool},
        {"type": "content_block_delta", "index": 0, "delta": delta},
    ]
    answer = [CHUNKED, chunks(START, *events, ends("max_tokens"), STOP), LAST_CHUNK]
    with scripted(answer) as server, opened(server.url) as teacher:
        reply = send(teacher)

    assert reply.stop_reason == "max_tokens"
    assert reply.content == [{**tool, "input": {"INVALID_JSON": '{"task_id": "ta'}}]


@pytest.mark.parametrize(
    ("blocks", "output_tokens", "unbilled"),
    [([], 0, True), ([], 3, False), (text_block(0, "I"), 0, False)],
)
def test_a_refusal_before_any_output_is_not_charged(
    blocks: list[Json], output_tokens: int, unbilled: bool
) -> None:
    events = [START, *blocks, ends("refusal", output_tokens), STOP]
    with scripted([CHUNKED, chunks(*events), LAST_CHUNK]) as server, opened(server.url) as teacher:
        reply = send(teacher)

    assert (reply.stop_reason, reply.unbilled) == ("refusal", unbilled)


def test_calls_share_a_connection_and_a_stream_that_stays_open_is_not_waited_for() -> None:
    open_end: list[Step] = [CHUNKED, chunks(*WHOLE), Wait()]
    with scripted(GOOD, GOOD, open_end) as server, opened(server.url) as teacher:
        began = time.monotonic()
        for _ in range(3):
            assert send(teacher).stop_reason == "end_turn"

        assert len(server.talks) == 1
        assert time.monotonic() - began < 10
        assert server.hung_up.wait(5)


# ------------------------------------------------------------------------------------------ faults

Expected = tuple[Literal["unbilled", "unknown"], Literal["later", "never", "stop"]]
LATER: Expected = ("unknown", "later")


def error(status: str, message: str, code: str = "", kind: str = "some_error") -> list[Step]:
    told: Json = {"type": kind, "message": message}
    if code:
        told["details"] = {"error_code": code}
    body = json.dumps({"type": "error", "error": told}).encode()
    return [head(status, content_type="application/json", content_length=str(len(body))), body]


def fault_of(
    script: Sequence[Step], wanted: TeacherRequest | None = None, **s: int
) -> TeacherFault:
    with (
        scripted(script) as server,
        opened(server.url, **s) as teacher,
        pytest.raises(TeacherFault) as caught,
    ):
        send(teacher, wanted)
    assert len(server.seen) == 1, "one call is one request"
    assert KEY not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("script", "status", "expected"),
    [
        (error("400 Bad Request", "max_tokens: too large"), 400, ("unbilled", "never")),
        (
            error("400 Bad Request", "You have reached your specified API usage limits."),
            400,
            ("unbilled", "stop"),
        ),
        (error("401 Unauthorized", "invalid key"), 401, ("unbilled", "stop")),
        (error("402 Payment Required", "m"), 402, ("unbilled", "stop")),
        (error("403 Forbidden", "m"), 403, ("unbilled", "stop")),
        (error("404 Not Found", "model: x"), 404, ("unbilled", "never")),
        (error("408 Request Timeout", "m"), 408, LATER),
        (error("409 Conflict", "m"), 409, LATER),
        (error("413 Too Large", "m"), 413, ("unbilled", "never")),
        (error("422 Unprocessable", "m"), 422, ("unbilled", "never")),
        (error("429 Too Many", "m"), 429, ("unbilled", "later")),
        (
            error("429 Too Many", "m", "enforced_spend_limit_reached"),
            429,
            ("unbilled", "stop"),
        ),
        (
            error("429 Too Many", "m", "contract_spend_limit_reached"),
            429,
            ("unbilled", "stop"),
        ),
        (error("500 Internal", "m"), 500, LATER),
        (error("502 Bad Gateway", "m"), 502, LATER),
        (error("503 Unavailable", "m"), 503, LATER),
        (error("504 Timeout", "m"), 504, LATER),
        (error("529 Overloaded", "m"), 529, ("unbilled", "later")),
        ([head("502 Bad Gateway", content_type="text/html"), b"<html>oops"], 502, LATER),
        ([head("307 Moved", location="/elsewhere", content_length="0")], 307, ("unknown", "never")),
        ([head("429 Too Many", content_length="100"), b"{", Reset()], 429, ("unbilled", "later")),
    ],
    ids=str,
)
def test_a_status_is_a_fault_by_the_table(
    script: Sequence[Step], status: int, expected: Expected
) -> None:
    fault = fault_of(script)

    assert fault.status == status
    assert (fault.billing, fault.retry) == expected
    assert fault.request_id == "req_1"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "7"}, 7_000),
        ({"retry_after_ms": "120", "retry_after": "7"}, 120),
        (
            {
                "date": "Sun, 22 Nov 2026 20:00:00 GMT",
                "retry_after": "Sun, 22 Nov 2026 20:01:00 GMT",
            },
            60_000,
        ),
        ({}, None),
    ],
)
def test_the_servers_own_word_on_when_to_come_back(
    headers: dict[str, str], expected: int | None
) -> None:
    fault = fault_of([head("429 Too Many", content_length="2", **headers), b"{}"])

    assert fault.retry_after_ms == expected


BEGUN = chunks(START, *text_block(0, "Good"))
OVERLOADED: Json = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
DENIED: Json = {"type": "error", "error": {"type": "permission_error", "message": "no"}}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([], LATER),
        ([Reset()], LATER),
        ([b"HTTP/1.1 2"], LATER),
        ([b"not http at all\r\n\r\n"], LATER),
        ([CHUNKED], LATER),
        ([CHUNKED, BEGUN], LATER),
        ([CHUNKED, BEGUN, Reset()], LATER),
        ([CHUNKED, BEGUN, LAST_CHUNK], LATER),
        ([head(), sse(START)], LATER),
        ([CHUNKED, BEGUN, chunks(ends("end_turn")), LAST_CHUNK], LATER),
        ([CHUNKED, BEGUN, chunks(ends(None), STOP), LAST_CHUNK], LATER),
        ([CHUNKED, BEGUN, chunks(OVERLOADED), LAST_CHUNK], LATER),
        ([CHUNKED, chunks(DENIED), LAST_CHUNK], ("unknown", "stop")),
        ([head(), b"event: message_start\ndata: {broken\n\n"], LATER),
        ([head(), b"event: message_start\ndata: \xff\xfe\n\n"], LATER),
        ([head(content_encoding="gzip"), b"this is not gzip"], LATER),
        ([head(), sse(STOP)], LATER),
        ([head(), sse(WHOLE[1])], LATER),
        ([head(content_type="text/html"), b"<html>"], ("unknown", "never")),
        ([head(content_type="application/json"), b"{}"], ("unknown", "never")),
    ],
    ids=str,
)
def test_what_breaks_after_the_request_was_sent_may_have_been_billed(
    script: Sequence[Step], expected: Expected
) -> None:
    fault = fault_of(script)

    assert (fault.billing, fault.retry) == expected


def test_an_error_event_says_what_it_was() -> None:
    fault = fault_of([CHUNKED, BEGUN, chunks(OVERLOADED), LAST_CHUNK])

    assert "overloaded_error" in str(fault)
    assert "busy" in str(fault)
    assert fault.request_id == "req_1"


def test_nobody_there_means_nothing_was_billed() -> None:
    (port,) = free_ports(1)
    with opened(f"http://127.0.0.1:{port}") as teacher, pytest.raises(TeacherFault) as caught:
        send(teacher)

    assert (caught.value.billing, caught.value.retry) == ("unbilled", "later")
    assert "refused" in str(caught.value)


def test_a_server_without_tls_where_tls_is_expected_was_sent_nothing() -> None:
    with (
        scripted([head("400 Bad Request"), b"speak http"]) as server,
        opened(server.url.replace("http:", "https:"), connect_timeout_ms=300) as teacher,
        pytest.raises(TeacherFault) as caught,
    ):
        send(teacher)

    assert caught.value.billing == "unbilled"


def test_a_request_that_is_no_json_is_not_sent() -> None:
    with scripted(GOOD) as server, opened(server.url) as teacher:
        for text in ("\ud83d", float("nan"), object()):
            wanted = request(messages=[{"role": "user", "content": [{"text": text}]}])
            with pytest.raises(TeacherFault) as caught:
                send(teacher, wanted)
            assert (caught.value.billing, caught.value.retry) == ("unbilled", "never")

    assert server.seen == []


# ------------------------------------------------------------------------------- time, and stopping


def drip(piece: bytes, seconds: float = 0.05) -> list[Step]:
    return [step for _ in range(600) for step in (piece, Wait(seconds))]


@pytest.mark.parametrize(
    "script",
    [
        [Wait()],
        drip(b"H"),
        [CHUNKED, Wait()],
        [CHUNKED, *drip(b"1\r\n:\r\n")],
        [CHUNKED, BEGUN, *drip(chunks({"type": "ping"}))],
        [head("500 Internal", content_length="10000"), *drip(b"x")],
        [head("429 Too Many", content_length="10000"), *drip(b"x")],
    ],
    ids=["silent", "drips head", "silent stream", "drips", "pings", "drips error", "drips 429"],
)
def test_a_call_ends_when_its_time_is_up(script: Sequence[Step]) -> None:
    began = time.monotonic()

    fault = fault_of(script, request(timeout_ms=700))

    assert 0.6 < time.monotonic() - began < 10
    billed = "unbilled" if fault.status == 429 else "unknown"
    assert (fault.billing, fault.retry) == (billed, "later")


def test_silence_ends_a_call_before_its_time_is_up() -> None:
    began = time.monotonic()

    fault = fault_of([CHUNKED, BEGUN, Wait()], idle_timeout_ms=500)

    assert 0.4 < time.monotonic() - began < 10
    assert (fault.billing, fault.retry) == LATER


def test_a_server_that_does_not_read_ends_in_time() -> None:
    huge = request(system=[{"type": "text", "text": "x" * 12_000_000}], timeout_ms=2_000)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        began = time.monotonic()
        with opened(url) as teacher, pytest.raises(TeacherFault) as caught:
            send(teacher, huge)

    assert time.monotonic() - began < 10
    assert (caught.value.billing, caught.value.retry) == LATER


@pytest.mark.parametrize(
    "script",
    [[Wait()], [CHUNKED, BEGUN, Wait()], [CHUNKED, BEGUN, *drip(chunks({"type": "ping"}))]],
    ids=["silent", "stalls", "pings"],
)
def test_a_stop_ends_the_call_and_the_connection(script: Sequence[Step]) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    began = time.monotonic()
    with scripted(script) as server, opened(server.url) as teacher:
        timer.start()
        with pytest.raises(TeacherFault, match="stopped") as caught:
            send(teacher, stopped=stop.is_set)

        assert time.monotonic() - began < 10
        assert server.hung_up.wait(5)
    timer.join()
    assert (caught.value.billing, caught.value.retry) == LATER


def test_a_call_that_is_stopped_before_it_began_is_not_sent() -> None:
    with scripted(GOOD) as server, opened(server.url) as teacher:
        with pytest.raises(TeacherFault, match="stopped") as caught:
            send(teacher, stopped=lambda: True)

        assert send(teacher).stop_reason == "end_turn"

    assert len(server.seen) == 1
    assert caught.value.billing == "unbilled"


def test_the_id_of_the_request_is_told_before_anything_of_the_reply_is_there() -> None:
    told: list[str] = []

    def tell(request_id: str) -> None:
        told.append(request_id)
        raise Unavailable("that will do")

    with (
        scripted([CHUNKED, Wait()]) as server,
        opened(server.url) as teacher,
        pytest.raises(Unavailable, match="that will do"),
    ):
        send(teacher, on_answer=tell)

    assert told == ["req_1"]


def test_what_on_start_raises_ends_the_call_and_comes_out() -> None:
    def refuse(_: Usage) -> None:
        raise Unavailable("the ledger does not answer")

    with scripted([CHUNKED, BEGUN, Wait()]) as server, opened(server.url) as teacher:
        with pytest.raises(Unavailable, match="ledger"):
            send(teacher, on_start=refuse)

        assert server.hung_up.wait(5)


def test_a_slow_reply_over_tls_comes_whole_and_a_silent_one_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    reply, pause = chunks(*WHOLE), Wait(0.4)  # longer than a tick
    slow = [CHUNKED, reply[:99], pause, reply[99:300], pause, reply[300:], LAST_CHUNK]
    silent = [CHUNKED, BEGUN, Wait()]
    with (
        scripted(slow, silent, tls=self_signed(tmp_path)) as server,
        opened(server.url.replace("http:", "https:")) as teacher,
    ):
        assert send(teacher).content == [{"type": "text", "text": "Goodbye"}]
        with pytest.raises(TeacherFault, match="in time"):
            send(teacher, request(timeout_ms=600))


def self_signed(directory: Path) -> ssl.SSLContext:
    """Return the context of a server, whose certificate is `cert.pem` there."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin.replace(year=2126))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


# ------------------------------------------------------------------------------------- many threads


def test_thirty_two_threads_share_a_teacher_and_leave_no_thread_behind() -> None:
    slow: list[Step] = [CHUNKED, chunks(START), Wait(0.3), chunks(*WHOLE[1:]), LAST_CHUNK]
    with scripted(slow) as server, opened(server.url) as teacher:
        before = threading.active_count()
        began = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            sent = [pool.submit(send, teacher) for _ in range(64)]
        replies = [future.result() for future in sent]

        assert time.monotonic() - began < 10
        serving = len(server.talks)
        assert threading.active_count() <= before + serving

    assert {reply.stop_reason for reply in replies} == {"end_turn"}
    assert len(server.seen) == 64


def test_one_calls_stop_is_not_anothers() -> None:
    slow: list[Step] = [CHUNKED, chunks(START), Wait(1.5), chunks(*WHOLE[1:]), LAST_CHUNK]
    with scripted(slow) as server, opened(server.url) as teacher, ThreadPoolExecutor(2) as pool:
        stopped = pool.submit(send, teacher, stopped=lambda: len(server.seen) == 2)
        kept = pool.submit(send, teacher)

        assert isinstance(stopped.exception(10), TeacherFault)
        assert kept.result(10).stop_reason == "end_turn"


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("api_key", ["", "a b", "a\nb", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_a_wrong_setting(api_key: str) -> None:
    with pytest.raises(Misconfigured, match="key") as caught:
        AnthropicTeacher(base_url="http://127.0.0.1:1", api_key=api_key)

    assert not api_key or api_key not in str(caught.value)


@pytest.mark.parametrize("base_url", ["", "api.example", "ftp://x"])
def test_an_address_that_is_none_is_a_wrong_setting(base_url: str) -> None:
    with pytest.raises(Misconfigured, match="address"):
        AnthropicTeacher(base_url=base_url, api_key=KEY)


def test_neither_key_nor_prompt_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with scripted(GOOD) as server, opened(server.url) as teacher:
        send(teacher, request(system=[{"type": "text", "text": "a secret in a trace"}]))

    assert "a secret in a trace" not in caplog.text
    assert KEY not in caplog.text


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with scripted(GOOD) as server, opened(server.url) as teacher:
        assert send(teacher).stop_reason == "end_turn"


def test_a_proxy_of_the_environment_is_used_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with scripted(GOOD, drip(b"H")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with opened("http://teacher.invalid") as teacher:
            assert send(teacher).stop_reason == "end_turn"
            with pytest.raises(TeacherFault, match="in time"):
                send(teacher, request(timeout_ms=400))

    assert proxy.seen[0].line == "POST http://teacher.invalid/v1/messages HTTP/1.1"


# ------------------------------------------------------------------------------------ the simulator


@pytest.fixture
def simulator() -> Iterator[SimulatedTeacher]:
    with SimulatedTeacher(api_key=KEY) as server:
        yield server


def test_what_the_simulator_bills_is_what_the_reply_says(simulator: SimulatedTeacher) -> None:
    cached = {"type": "ephemeral"}
    system = [{"type": "text", "text": "You are the judge. " * 2_000, "cache_control": cached}]
    case = {"task": "2+2?", "reference_answer": "4", "output": "It is 4."}
    messages = [{"role": "user", "content": [{"type": "text", "text": json.dumps(case)}]}]
    started: list[Usage] = []
    with opened(simulator.url) as teacher:
        replies = [
            send(teacher, request(system=system, messages=messages), on_start=started.append)
            for _ in range(2)
        ]

    assert replies[0].usage.cache_write_5m_tokens > 0
    assert replies[1].usage.cache_read_tokens == replies[0].usage.cache_write_5m_tokens
    assert [usage.prompt_tokens for usage in started] == [
        reply.usage.prompt_tokens for reply in replies
    ]
    assert all(reply.usage.output_tokens > 0 for reply in replies)
    assert all(reply.message_id and reply.request_id for reply in replies)


def test_the_judge_reads_what_the_simulator_says(simulator: SimulatedTeacher) -> None:
    judge = LlmJudge()
    with opened(simulator.url) as teacher:
        right, wrong = (
            judge.score(
                JudgeRequest(task="Capital of France?", output=output, reference="Paris"),
                model="claude-opus-4-6",
                call=lambda wanted: send(teacher, wanted),
            )
            for output in ("It is Paris.", "It is Lyon.")
        )
        both = judge.compare(
            task="Capital of France?",
            student_output="It is Lyon.",
            teacher_output="It is Paris.",
            reference="Paris",
            model="claude-opus-4-6",
            call=lambda wanted: send(teacher, wanted),
        )

    assert (right.score, right.passed) == (1.0, True)
    assert (wrong.score, wrong.passed) == (0.0, False)
    assert (both.student_score, both.teacher_score) == (0.0, 1.0)
    assert "Simulated judge" in right.reasoning
