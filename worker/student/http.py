"""A student behind an OpenAI-compatible chat endpoint (vLLM, Ollama, llama.cpp, a vendor's).

Rule: one call is one attempt, and it ends by its deadline whatever the server does: names that do
not resolve, a byte a second, a body without an end. Retries are the caller's.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

from worker.errors import Misconfigured, StudentFault
from worker.student.reply import read_answer, read_status

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from worker.ports import StudentAnswer

__all__ = ["HttpStudent"]

#: A server that is up accepts a connection at once, also across a continent.
_CONNECT_TIMEOUT_MS = 5_000
#: An answer of 100,000 tokens takes half a megabyte. What is longer than this is no answer.
_MAX_BODY_BYTES = 8 * 1024 * 1024
_KEPT_CONNECTIONS = 32

_T = TypeVar("_T")


class HttpStudent:
    """A student over HTTP: the port `worker.ports.Student`. Safe to share among threads.

    Connections are pooled and made at the first answer, once a process: a student may be made
    before a fork.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        *,
        timeout_ms: int,
        max_tokens: int | None,
        temperature: float | None,
        system_prompt: str | None = None,
        extra: Mapping[str, Any] | None = None,
        connect_timeout_ms: int = _CONNECT_TIMEOUT_MS,
        max_body_bytes: int = _MAX_BODY_BYTES,
    ) -> None:
        """Describe a student; nothing is connected yet.

        Args:
            base_url: Up to and including `/v1`.
            model: The model's name, sent with each request.
            api_key: Bearer token; empty sends none.
            timeout_ms: For one answer, from the first look-up of a name to the last byte.
            max_tokens: Limit of one answer; None leaves it to the server.
            temperature: None leaves it to the server.
            system_prompt: Sent before each task; None sends none.
            extra: More fields of each request, under our own ones.
            connect_timeout_ms: For the connection alone.
            max_body_bytes: A longer reply is a fault.

        Raises:
            Misconfigured: `base_url` or `api_key` cannot be used.
        """
        self._url = _completions_url(base_url)
        self._headers = _headers(api_key)
        self._key = api_key.encode()
        self._timeout_ms = timeout_ms
        self._connect_timeout_ms = min(connect_timeout_ms, timeout_ms)
        self._max_body_bytes = max_body_bytes
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        ours = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
        self._fields = {
            **(extra or {}),
            **{name: value for name, value in ours.items() if value is not None},
        }
        self._lock = threading.Lock()
        self._line: _Line | None = None

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Have the student answer a task.

        Raises:
            StudentFault: The server failed; with whether the same request may succeed later.
        """
        messages = [*self._system, {"role": "user", "content": query}]
        body = {**self._fields, "messages": messages, "seed": seed, "stream": False}
        started_ns = time.monotonic_ns()
        reply = self._call(body, run_id)
        latency_ms = (time.monotonic_ns() - started_ns) // 1_000_000
        read_status(reply.status, reply.headers, self._without_key(reply.body))
        return read_answer(reply.body, latency_ms=latency_ms, status=reply.status)

    def close(self) -> None:
        """Close the connections; answers under way end with a fault. May be called twice."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None and line.pid == os.getpid():
            line.close()

    def _without_key(self, body: bytes) -> bytes:
        """Return a body that may be quoted in an error: some servers send the key back."""
        return body.replace(self._key, b"[key]") if self._key else body

    def _call(self, body: dict[str, Any], run_id: str) -> _Reply:
        line = self._open_line()
        try:
            return line.run(self._send(line.client, body, run_id))
        except TimeoutError as exc:
            raise self._fault("timeout", f"did not answer within {self._timeout_ms} ms") from exc
        except httpx2.ConnectTimeout as exc:
            what = f"did not accept a connection within {self._connect_timeout_ms} ms"
            raise self._fault("timeout", what) from exc
        except httpx2.RemoteProtocolError as exc:
            raise self._fault("bad_body", f"broke the protocol ({exc})") from exc
        except httpx2.TransportError as exc:
            raise self._fault("connect", f"cannot be reached ({exc})") from exc
        except CancelledError as exc:
            raise self._fault("connect", "was not waited for: the client was closed") from exc

    async def _send(self, client: httpx2.AsyncClient, body: dict[str, Any], run_id: str) -> _Reply:
        headers = {**self._headers, "x-request-id": run_id}
        async with (
            asyncio.timeout(self._timeout_ms / 1000),
            client.stream("POST", self._url, json=body, headers=headers) as response,
        ):
            return _Reply(
                status=response.status_code,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=await self._read(response),
            )

    async def _read(self, response: httpx2.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            # Not asked for, and a small body may unfold to any size.
            raise self._fault("bad_body", f"sent a body with encoding {encoding!r}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._max_body_bytes:
                what = f"sent more than {self._max_body_bytes} bytes"
                raise self._fault("too_large", what, retryable=False)
        return bytes(body)

    def _fault(self, reason: str, what: str, *, retryable: bool = True) -> StudentFault:
        return StudentFault(
            f"The student's server at {self._url!r} {what}.", reason=reason, retryable=retryable
        )

    def _open_line(self) -> _Line:
        with self._lock:
            if self._line is None or self._line.pid != os.getpid():
                self._line = _Line(self._connect_timeout_ms)
            return self._line


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class _Line:
    """The connections of one process, and the thread that looks after them.

    The calls of all threads run on one event loop: only there can a deadline cut short whatever a
    call waits for. A blocking client has a limit for each wait and none for their sum.
    """

    def __init__(self, connect_timeout_ms: int) -> None:
        self.pid = os.getpid()
        self.client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=connect_timeout_ms / 1000),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="student-http", daemon=True
        )
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        """Run a call on the loop and return what comes of it.

        Raises:
            CancelledError: The line was closed.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:
            call.close()
            raise CancelledError from None
        try:
            return future.result()
        finally:
            future.cancel()  # an interrupted caller takes its call along

    def close(self) -> None:
        """End the calls under way, the connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.client.aclose()
        await self._loop.shutdown_default_executor()


def _completions_url(base_url: str) -> str:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as exc:
        raise Misconfigured(f"A student's base_url {base_url!r} is not a URL: {exc}.") from exc
    if url.scheme not in {"http", "https"} or not url.host:
        raise Misconfigured(
            f"A student's base_url must be like 'http://host:8000/v1', not {base_url!r}."
        )
    if url.userinfo or url.query:
        # Not shown: it may hold a password.
        raise Misconfigured("A student's base_url may hold no login and no query: use `api_key`.")
    return f"{base_url.rstrip('/')}/chat/completions"


def _headers(api_key: str) -> dict[str, str]:
    if not api_key.isascii() or not api_key.isprintable():
        raise Misconfigured("A student's api_key may hold printable ASCII characters only.")
    login = {"authorization": f"Bearer {api_key}"} if api_key else {}
    # Plain bodies: what is counted against the limit is what arrives.
    return {**login, "accept-encoding": "identity"}
