"""The HTTP side: sockets, heads, bodies and chunks.

Rule: it only carries. Which answer a request gets is decided in `exchange.py` and `control.py`.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from worker.embedded.teacher.api_error import ApiError
from worker.embedded.teacher.batches import BATCHES, Lost, answer_batches
from worker.embedded.teacher.control import answer_control
from worker.embedded.teacher.desk import Desk, Received
from worker.embedded.teacher.exchange import COUNT_TOKENS, MESSAGES, Disconnected, Exchange
from worker.embedded.teacher.usage_report import USAGE_REPORT, usage_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TeacherServer"]

#: The provider's own limit.
_MAX_BODY_BYTES = 32_000_000
#: How long `stop` waits for the threads of open connections, which it has woken.
_STOP_S = 10.0
#: SO_LINGER on, zero seconds: closing sends RST.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TeacherServer(ThreadingHTTPServer):
    """Accepts connections; a thread for each, and none left behind by `stop`."""

    daemon_threads = True
    #: Fifty clients may well connect at once.
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], desk: Desk) -> None:
        self.desk = desk
        self._live: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Note who is connected, so that `stop` can wake and wait for them."""
        with self._changed:
            self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """Close in order, but for a connection that a fault wants reset."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == _RESET_ON_CLOSE:
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Serve the connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._live.discard(request)
                self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Keep what went wrong, unless it is only that the client has gone."""
        del request, client_address
        if not isinstance(sys.exception(), ConnectionError | Disconnected):
            self.desk.crashes.append(traceback.format_exc())

    def stop(self) -> None:
        """Stop accepting, wake every connection by closing it, and wait for their threads."""
        self.shutdown()
        with self._changed:
            for live in self._live:
                with suppress(OSError):
                    live.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._live, timeout=_STOP_S)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "SimulatedTeacher"
    sys_version = ""
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self._read_body()
        if body is not None:
            self._answer(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing: what was asked is in the log, what went wrong in the crashes."""

    @property
    def _desk(self) -> Desk:
        return cast("TeacherServer", self.server).desk

    def _answer(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if self.command == "POST" and path in {MESSAGES, COUNT_TOKENS}:
            self._converse(path, body)
            return
        if path == BATCHES or path.startswith(f"{BATCHES}/"):
            self._batch(path, body)
            return
        connection = _HttpConnection(self)
        try:
            answer = self._told(path, body)
        except ApiError as error:
            connection.send(error.status, {}, error.body(""))
        else:
            connection.send(200, {}, answer)

    def _told(self, path: str, body: bytes) -> dict[str, Any]:
        """Return the answer to whatever is no conversation."""
        if self.command == "GET" and path == USAGE_REPORT:
            self._desk.workspace_of({name.lower(): v for name, v in self.headers.items()})
            query = parse_qs(urlsplit(self.path).query)
            lines = self._desk.bill.lines()
            return usage_report(lines, query, now_ms=self._desk.clock.now_ms())
        return answer_control(self._desk, self.command, path, body)

    def _batch(self, path: str, body: bytes) -> None:
        connection = _HttpConnection(self)
        with self._desk.request() as number:
            received = self._received(number, path, body)
            headers = {"request-id": received.request_id}
            query = parse_qs(urlsplit(self.path).query)
            try:
                answer = answer_batches(self._desk, received, self.command, query)
            except ApiError as error:
                body_ = error.body(received.request_id)
                connection.send(error.status, headers | error.headers, body_)
            except Lost:
                connection.drop(reset=True)
            else:
                if isinstance(answer, list):
                    connection.send_lines(200, headers, answer)
                else:
                    connection.send(200, headers, answer)

    def _received(self, number: int, path: str, body: bytes) -> Received:
        return Received(
            sequence_no=number,
            path=path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            received_ms=self._desk.clock.now_ms(),
        )

    def _converse(self, path: str, body: bytes) -> None:
        with self._desk.request() as number:
            received = self._received(number, path, body)
            Exchange(self._desk, _HttpConnection(self), received).run()

    def _read_body(self) -> bytes | None:
        """Return the body; None where it cannot be read and the client was told so."""
        length = self.headers.get("content-length", "")
        if not length.isdecimal():
            error = ApiError(411, "content-length: header is required")
        elif int(length) > _MAX_BODY_BYTES:
            error = ApiError(413, f"Request exceeds the maximum size of {_MAX_BODY_BYTES} bytes")
        else:
            return self.rfile.read(int(length))
        self.close_connection = True
        _HttpConnection(self).send(error.status, {}, error.body(""))
        return None


class _HttpConnection:
    """`exchange.Connection` on a socket."""

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler

    def send(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        encoded = _encoded(body)
        self._send_head(status, headers, len(encoded))
        self._write(encoded)

    def send_lines(
        self, status: int, headers: Mapping[str, str], lines: Sequence[Mapping[str, Any]]
    ) -> None:
        """Send JSON Lines."""
        encoded = b"".join(_encoded(line) + b"\n" for line in lines)
        whole = {"content-type": "application/x-jsonl", "content-length": str(len(encoded))}
        self._send_headers(status, {**whole, **headers})
        self._write(encoded)

    def send_half(self, status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        encoded = _encoded(body)
        self._send_head(status, headers, len(encoded))
        self._write(encoded[: len(encoded) // 2])

    def start_stream(self, headers: Mapping[str, str]) -> None:
        stream = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "transfer-encoding": "chunked",
        }
        self._send_headers(200, {**stream, **headers})

    def send_event(self, event: bytes) -> None:
        self._write(b"%x\r\n%s\r\n" % (len(event), event))

    def end_stream(self) -> None:
        self._write(b"0\r\n\r\n")

    def wait(self, ms: int) -> None:
        """Wait on the socket: a client that leaves makes it readable, with nothing to read."""
        poll = select.poll()
        poll.register(self._handler.connection, select.POLLIN)
        if not poll.poll(ms):
            return
        if self._gone():
            raise Disconnected
        # The next request has come already: from here on only a broken connection wakes us.
        poll.modify(self._handler.connection, 0)
        if poll.poll(ms):
            raise Disconnected

    def drop(self, *, reset: bool = False) -> None:
        self._handler.close_connection = True
        if reset:
            self._handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
            )

    def _gone(self) -> bool:
        try:
            return not self._handler.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _send_head(self, status: int, headers: Mapping[str, str], length_bytes: int) -> None:
        whole = {"content-type": "application/json", "content-length": str(length_bytes)}
        self._send_headers(status, {**whole, **headers})

    def _send_headers(self, status: int, headers: Mapping[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        try:
            self._handler.end_headers()
        except OSError as exc:
            raise Disconnected from exc

    def _write(self, data: bytes) -> None:
        try:
            self._handler.wfile.write(data)
        except OSError as exc:
            raise Disconnected from exc


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
