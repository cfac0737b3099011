"""The teacher through the Anthropic Messages API.

Rule: one attempt of one call, streamed, exactly as the core built it. What is pinned here is what
its price depends on; every way to fail leaves as a `TeacherFault`, sorted by
`worker.core.teacher_faults`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast

from worker.core.bounds import cache_writes
from worker.core.rates import told_rates
from worker.core.teacher_faults import Failure, What, retry_after_ms, teacher_fault
from worker.errors import Misconfigured
from worker.teacher import batches
from worker.teacher.assembly import Assembly, BrokenReply, ProviderError, event_of
from worker.teacher.watched import Answer, Ended, Watch, WatchedBackend, Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2
    from anthropic import APIStatusError, Stream

    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.core.values import Usage
    from worker.ports import Batch, BatchAnswer

__all__ = ["AnthropicTeacher"]

_T = TypeVar("_T")

#: The bounds of `worker.core.bounds` hold for standard capacity, wherever there is some.
_PINNED = {"service_tier": "standard_only", "inference_geo": "global"}
#: As many calls as a worker has threads, and then some.
_MAX_IDLE_CONNECTIONS = 16
#: After the last event: the few bytes that end the response, so that its connection is used again.
_DRAIN_S = 0.2
#: The SDK and its HTTP client write whole prompts, or headers, into their DEBUG logs.
_LOGGERS = ("anthropic", "httpx2", "httpcore2")
#: Of a request about a batch: making one, and reading its answer, take seconds.
_BATCH_TIMEOUT_MS = 60_000
#: How many batches a page lists, and how many pages are looked through.
_PAGE = 100
_PAGES = 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class AnthropicTeacher:
    """`ports.Teacher` at an address. Safe to share between threads; close it when done."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        connect_timeout_ms: int = 5_000,
        idle_timeout_ms: int = 120_000,
    ) -> None:
        """Build a client; nothing is sent yet.

        Args:
            base_url: Such as `https://api.anthropic.com`.
            api_key: The account's key.
            connect_timeout_ms: For the connection and its TLS, each.
            idle_timeout_ms: The longest silence; while it thinks the API sends pings.

        Raises:
            Misconfigured: The key or the address cannot be used.
        """
        # Imported here: 25 MB, and not every worker talks to a teacher.
        import httpx2  # noqa: PLC0415

        sdk = _load_sdk()

        _check(base_url, api_key)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._api_key = api_key
        self._watches = Watches()
        self._sdk = sdk
        self._http = httpx2
        self._timeout = httpx2.Timeout(idle_timeout_ms / 1000, connect=connect_timeout_ms / 1000)
        self._client = sdk.Anthropic(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            timeout=self._timeout,
            open_telemetry=False,
            http_client=self._http_client(base_url),
        )

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        """Send the request and return the whole reply.

        `on_answer` is called when the head of the response is there, `on_start` when the prompt's
        usage is known, before any output; what they raise ends the call and comes out here. `stopped` is asked at every event and four times a second;
        it must not raise.

        Raises:
            TeacherFault: With what the provider did with it and whether to try again.
        """
        watch = Watch(timeout_ms=request.timeout_ms, stopped=stopped)
        with self._watches.using(watch):
            try:
                watch.check()
                with self._post(request, watch) as stream:
                    on_answer(_request_id(stream))
                    return self._read(stream, request, watch, on_start)
            except self._errors as exc:
                self._fail(exc, watch)

    # ------------------------------------------------------------------------------------- batches

    def create(self, request: TeacherRequest, *, custom_id: str) -> str:
        """Make a batch of one request; return the provider's id of it.

        Raises:
            TeacherFault: With whether one may have been made.
        """
        body = _body(request)
        del body["stream"]
        sent = {"requests": [{"custom_id": custom_id, "params": body}]}
        return self._told_of("POST", lambda: batches.PATH, sent, batches.batch_of).batch_id

    def look(self, batch_id: str) -> Batch:
        """Return how a batch stands.

        Raises:
            TeacherFault: It cannot be asked about.
        """
        return self._told_of("GET", lambda: batches.path_of(batch_id), None, batches.batch_of)

    def answer(self, batch: Batch, *, custom_id: str) -> BatchAnswer | None:
        """Return what became of a request in a batch that has ended; None where it is not in it.

        Raises:
            TeacherFault: The results cannot be read.
        """

        def read(response: httpx2.Response) -> BatchAnswer | None:
            return batches.answer_of(
                response.content.decode(),
                custom_id=custom_id,
                cache_ttl="5m",
                request_id=response.headers.get("request-id", ""),
            )

        return self._asked("GET", lambda: batches.path_of(batch.batch_id, "/results"), None, read)

    def recent(self, *, since_ms: int) -> tuple[Batch, ...]:
        """Return the batches that were made since then, the newest first.

        Raises:
            TeacherFault: They cannot be listed.
        """
        found: list[Batch] = []
        path = f"{batches.PATH}?limit={_PAGE}"
        for _ in range(_PAGES):
            page = self._told_of("GET", lambda path=path: path, None, batches.batches_of)
            found += (batch for batch in page if batch.created_ms >= since_ms)
            if len(page) < _PAGE or page[-1].created_ms < since_ms:
                break
            path = f"{batches.PATH}?limit={_PAGE}&after_id={page[-1].batch_id}"
        return tuple(found)

    def cancel(self, batch_id: str) -> None:
        """Ask for a batch to end early.

        Raises:
            TeacherFault: That could not be asked.
        """
        self._told_of("POST", lambda: batches.path_of(batch_id, "/cancel"), {}, batches.batch_of)

    def _told_of(
        self,
        method: str,
        path: Callable[[], str],
        body: dict[str, Any] | None,
        read: Callable[[dict[str, Any]], _T],
    ) -> _T:
        """Return what `read` makes of the JSON that the provider answers with."""
        return self._asked(method, path, body, lambda answer: read(event_of(answer.text)))

    def _asked(
        self,
        method: str,
        path: Callable[[], str],
        body: dict[str, Any] | None,
        read: Callable[[httpx2.Response], _T],
    ) -> _T:
        """Make one request that is not streamed, and return what `read` makes of its answer."""
        watch = Watch(timeout_ms=_BATCH_TIMEOUT_MS, stopped=lambda: False)
        options: Any = {"timeout": self._timeout}
        with self._watches.using(watch):
            try:
                if method == "GET":
                    answer = self._client.get(path(), cast_to=self._http.Response, options=options)
                else:
                    answer = self._client.post(
                        path(), body=body, cast_to=self._http.Response, options=options
                    )
                return read(answer)
            except self._errors as exc:
                self._fail(exc, watch)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        """What a call can end with."""
        return (
            *(self._sdk.AnthropicError, self._http.HTTPError, self._http.StreamError),
            *(Ended, BrokenReply, ProviderError, UnicodeDecodeError),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ----------------------------------------------------------------------------------- the call

    def _post(self, request: TeacherRequest, watch: Watch) -> Stream[object]:
        """Send the request and return the response when its head is there."""
        # `messages.create` would warn of models that are about to retire, and does nothing else.
        try:
            return self._client.post(
                "/v1/messages",
                body=_body(request),
                cast_to=object,
                options={"timeout": self._timeout},
                stream=True,
                stream_cls=self._sdk.Stream[object],
            )
        except (TypeError, ValueError, RecursionError) as exc:
            if watch.sent:
                raise
            raise Ended(What.UNSENDABLE, str(exc)) from exc

    def _read(
        self,
        stream: Stream[object],
        request: TeacherRequest,
        watch: Watch,
        on_start: Callable[[Usage], None],
    ) -> TeacherReply:
        response = stream.response
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise Ended(What.NOT_A_STREAM, f"its content type is {kind[:80]!r}")
        assembly = Assembly(cache_ttl=_cache_ttl(request))
        # Not the SDK's parsed events: those drop keys that it does not know, and add others.
        events = self._sdk.Stream.raw_events(response)
        for event in events:
            watch.check()
            if event.data and assembly.feed(event_of(event.data)) == "started":
                on_start(assembly.usage)
            if assembly.done:
                latency_ms = watch.elapsed_ms
                _drain(events, watch)
                return assembly.reply(
                    request_id=response.headers.get("request-id", ""),
                    latency_ms=latency_ms,
                    rates=told_rates(response.headers),
                )
        raise Ended(What.CUT, "the stream ended before the message did")

    def _http_client(self, base_url: str) -> httpx2.Client:
        """Build the HTTP client: watched, and one request is one request."""
        import httpcore2  # noqa: PLC0415 - comes with httpx2

        transport = self._http.HTTPTransport(
            proxy=_proxy_for(self._http.URL(base_url)),
            limits=self._http.Limits(
                max_connections=None, max_keepalive_connections=_MAX_IDLE_CONNECTIONS
            ),
        )
        # httpcore2 takes a network backend, but httpx2 has no way to hand one on.
        pool: Any = transport._pool  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        pool._network_backend = WatchedBackend(  # noqa: SLF001
            pool._network_backend,  # noqa: SLF001
            self._watches,
            timeout_error=httpcore2.ReadTimeout,
        )
        return self._http.Client(
            transport=transport,
            timeout=self._timeout,
            # A redirected request would be a second one, with no reservation.
            follow_redirects=False,
            event_hooks={"response": [self._note]},
        )

    def _note(self, response: httpx2.Response) -> None:
        """Keep the head of a response: its status counts, also where its body never comes."""
        if self._watches.current is not None:
            self._watches.current.answer = Answer(response.status_code, response.headers)

    # ------------------------------------------------------------------------------------- faults

    def _fail(self, exc: Exception, watch: Watch) -> NoReturn:
        answer = watch.answer
        raise teacher_fault(
            Failure(
                **self._found(exc, watch),
                sent=watch.sent,
                status=answer.status if answer else None,
                retry_after_ms=retry_after_ms(answer.headers) if answer else None,
                request_id=answer.headers.get("request-id") if answer else None,
            )
        ) from exc

    def _found(self, exc: Exception, watch: Watch) -> dict[str, Any]:
        """Return the fields of a `Failure` that the exception tells."""
        detail = _innermost(exc).replace(self._api_key, "***")
        ended = next((link for link in _chain(exc) if isinstance(link, Ended)), None)
        if watch.answer is not None and not _is_success(watch.answer):
            return {"what": What.STATUS, "detail": detail} | self._told(exc)
        if ended is not None:
            return {"what": ended.what, "detail": ended.detail}
        if isinstance(exc, ProviderError):
            told = {"error_type": exc.error_type, "error_code": exc.error_code}
            return {"what": What.ERROR_EVENT, "detail": exc.message, **told}
        return {"what": self._network_fault(exc, watch), "detail": detail}

    def _told(self, exc: Exception) -> dict[str, Any]:
        """Return what the body of an error status says."""
        if not isinstance(exc, self._sdk.APIStatusError):
            return {}
        status = cast("APIStatusError", exc)
        return {
            "detail": (status.api_message or status.message).replace(self._api_key, "***"),
            "error_type": status.type or "",
            "error_code": status.error_code or "",
        }

    def _network_fault(self, exc: Exception, watch: Watch) -> What:
        if isinstance(exc, BrokenReply | UnicodeDecodeError | self._http.DecodingError):
            return What.BROKEN
        if not watch.sent:
            return What.CONNECT
        timeouts = (self._sdk.APITimeoutError, self._http.TimeoutException)
        return What.TIMEOUT if isinstance(exc, timeouts) else What.CUT


# ------------------------------------------------------------------------------------ the request


def _check(base_url: str, api_key: str) -> None:
    """Refuse what could only fail later, at the first call.

    Raises:
        Misconfigured: The key or the address cannot be used.
    """
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise Misconfigured(
            f"The teacher at {base_url!r} has no usable API key: it is "
            f"{'empty' if not api_key else 'not plain text'}. Set it in the worker's settings."
        )
    if not base_url.startswith(("http://", "https://")):
        raise Misconfigured(
            f"{base_url!r} is no address of a Messages API: begin it with 'https://'."
        )


def _body(request: TeacherRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": request.messages,
        "stream": True,
        **_PINNED,
    }
    if request.system:
        body["system"] = request.system
    if request.tools:
        # Not forced, which some models refuse; several calls in one turn are welcome.
        body["tools"] = request.tools
        body["tool_choice"] = {"type": "auto"}
    return body


def _load_sdk() -> Any:  # noqa: ANN401 - the SDK's names that are used here
    """Return the SDK's client, stream and errors, without the rest of it: 18 MB less.

    Expected: one `import anthropic`. Actual (2.12): that loads 2,900 modules, among them every
    call of the API, beta and administration included, of which none is made here. The client's own
    module does without them, so it is loaded alone; whoever then imports the package gets the whole
    of it, around the same client. Remove when the SDK imports its resources lazily.
    """
    if "anthropic" not in sys.modules:
        spec = importlib.util.find_spec("anthropic")
        assert spec is not None, "anthropic is a dependency of this package"
        sys.modules["anthropic"] = importlib.util.module_from_spec(spec)
        try:
            client = importlib.import_module("anthropic._client")
            errors = importlib.import_module("anthropic._exceptions")
        finally:
            del sys.modules["anthropic"]
        return SimpleNamespace(**vars(errors), Anthropic=client.Anthropic, Stream=client.Stream)
    return importlib.import_module("anthropic")


def _cache_ttl(request: TeacherRequest) -> Literal["5m", "1h"]:
    """Return the longest time to live among the request's cache breakpoints."""
    writes = cache_writes(system=request.system, messages=request.messages, tools=request.tools)
    return "1h" if writes.has_1h else "5m"


def _proxy_for(url: httpx2.URL) -> str | None:
    """Return the proxy that the environment names for an address, None for none."""
    if url.host in _LOOPBACK or urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


# -------------------------------------------------------------------------------------- the reply


def _request_id(stream: Stream[object]) -> str:
    return stream.response.headers.get("request-id", "")


def _drain(events: Iterator[object], watch: Watch) -> None:
    """Read to the end of the response, if it comes at once; nothing that goes wrong matters."""
    watch.end_within(_DRAIN_S)
    with contextlib.suppress(Exception):
        for _ in events:
            pass


def _is_success(answer: Answer) -> bool:
    return 200 <= answer.status < 300  # noqa: PLR2004 - HTTP


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _innermost(exc: Exception) -> str:
    """Return what really happened, below the layers that pass it on."""
    *_, last = _chain(exc)
    return f"{type(last).__name__}: {last}"
