"""A student that plays back recorded runs: a real server, with answers that are known beforehand.

Rule: it says what was recorded and nothing else. A task is recognised by its query, word for word;
the run is the recorded one number `seed % recorded`. A query that was never recorded is refused.

Run as `python -m worker.student.playback --runs student_runs.jsonl --benchmark benchmark.json` it
serves until SIGTERM, and prints `ready http://…/v1` once it does. `--faults` takes a JSON list of
`Fault`s. `GET /requests` answers with what was asked so far. Where `PLAYBACK_API_KEY` is set,
clients must send that key.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Asked", "Fault", "Playback", "Recording", "Recordings"]

#: Only to fill in `usage`: the recordings hold no counts.
_CHARS_PER_TOKEN = 4
_KEY_VARIABLE = "PLAYBACK_API_KEY"
_MAX_REQUEST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recorded run of a task."""

    task_id: str
    attempt: int
    #: Goes out as the response's id.
    trace_id: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with some requests. The first one in the plan that fits is used."""

    #: Only requests for this task; None for all.
    task_id: str | None = None
    #: Only requests with this seed; None for all.
    seed: int | None = None
    #: How many requests it spoils; None for all.
    times: int | None = None
    #: Waits before it answers, rightly or wrongly.
    delay_ms: int = 0
    #: Answers with this status instead of 200.
    status: int | None = None
    #: Sent along, if not empty: seconds or a date.
    retry_after: str = ""
    #: Replaces the whole body.
    body: str | None = None
    #: Answers with null as the content.
    null_content: bool = False
    #: Says that the answer was cut at its token limit.
    cut: bool = False
    #: Closes the connection without an answer.
    drop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that was received."""

    task_id: str | None
    seed: int
    #: The `x-request-id` header.
    run_id: str
    #: What it was answered with; 0 for a dropped connection.
    status: int


class Recordings:
    """Recorded runs by the query of their task."""

    def __init__(self, runs: Iterable[Recording], queries: Mapping[str, str]) -> None:
        """Take runs and the queries of their tasks, by task id.

        Raises:
            ValueError: A run's task has no query, or two tasks have the same one.
        """
        self._runs: dict[str, list[Recording]] = {}
        self._tasks = {query.strip(): task_id for task_id, query in queries.items()}
        if len(self._tasks) != len(queries):
            raise ValueError("two tasks of the benchmark have the same query: it names no task")
        for run in sorted(runs, key=lambda run: run.attempt):
            if run.task_id not in queries:
                raise ValueError(f"the benchmark has no task {run.task_id!r}, but a run of it")
            self._runs.setdefault(run.task_id, []).append(run)

    @classmethod
    def load(cls, runs: Path, benchmark: Path) -> Self:
        """Read `student_runs.jsonl` and `benchmark.json`."""
        lines = runs.read_text(encoding="utf-8").splitlines()
        rows = [cast("dict[str, Any]", json.loads(line)) for line in lines if line.strip()]
        samples = json.loads(benchmark.read_text(encoding="utf-8"))["samples"]
        names = [field.name for field in dataclasses.fields(Recording)]
        return cls(
            (Recording(**{name: row[name] for name in names}) for row in rows),
            {sample["trace_id"]: sample["query"] for sample in samples},
        )

    def task_of(self, query: str) -> str | None:
        """Return the id of the task with this query, None for an unknown one."""
        return self._tasks.get(query.strip())

    def run(self, task_id: str, seed: int) -> Recording | None:
        """Return the run that a seed stands for, None for a task that was never recorded."""
        runs = self._runs.get(task_id, [])
        return runs[seed % len(runs)] if runs else None


class Playback:
    """The server. `with Playback(recordings) as student: … student.base_url`."""

    def __init__(
        self,
        recordings: Recordings,
        *,
        faults: Sequence[Fault] = (),
        delay_ms: int = 0,
        port: int = 0,
        api_key: str = "",
        model: str = "playback",
    ) -> None:
        """Listen on loopback; requests are answered once it was started.

        Args:
            recordings: What it knows.
            faults: What goes wrong, in order of precedence.
            delay_ms: Waits this long before each answer.
            port: 0 takes a free one.
            api_key: What clients must send; empty asks for nothing.
            model: What it calls itself.
        """
        self._recordings = recordings
        self._faults = [_Planned(fault, fault.times) for fault in faults]
        self._delay_ms = delay_ms
        self._api_key = api_key
        self._model = model
        self._asked: list[Asked] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.playback = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What was asked so far, in the order of the answers."""
        with self._lock:
            return tuple(self._asked)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, request: Mapping[str, Any], headers: Mapping[str, str]) -> _Reply:
        """Return what a request is answered with, and remember that it was asked."""
        if self._api_key and headers.get("authorization") != f"Bearer {self._api_key}":
            return _refusal(HTTPStatus.UNAUTHORIZED, "wrong or missing key")
        seed, task_id = _seed(request), self._recordings.task_of(_query(request))
        fault = self._next_fault(task_id, seed)
        reply = self._answer(task_id, seed, fault)
        self._stopping.wait((self._delay_ms + fault.delay_ms) / 1000)
        run_id = headers.get("x-request-id", "")
        with self._lock:
            self._asked.append(
                Asked(task_id=task_id, seed=seed, run_id=run_id, status=reply.status)
            )
        return reply

    def _answer(self, task_id: str | None, seed: int, fault: Fault) -> _Reply:
        if fault.drop:
            return _Reply(status=0, body="")
        if fault.status is not None:
            body = _error("fault by plan") if fault.body is None else fault.body
            return _Reply(status=fault.status, body=body, retry_after=fault.retry_after)
        run = None if task_id is None else self._recordings.run(task_id, seed)
        if run is None:
            return _refusal(HTTPStatus.BAD_REQUEST, "no run of a task with this query is recorded")
        if fault.body is not None:
            return _Reply(status=HTTPStatus.OK, body=fault.body)
        return _Reply(status=HTTPStatus.OK, body=json.dumps(self._completion(run, fault)))

    def _completion(self, run: Recording, fault: Fault) -> dict[str, Any]:
        content = None if fault.null_content else run.output
        tokens = len(content or "") // _CHARS_PER_TOKEN
        return {
            "id": run.trace_id,
            "object": "chat.completion",
            "model": self._model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": "length" if fault.cut else "stop",
                }
            ],
            "usage": {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens},
        }

    def _next_fault(self, task_id: str | None, seed: int) -> Fault:
        with self._lock:
            for planned in self._faults:
                if planned.fits(task_id, seed):
                    planned.left = None if planned.left is None else planned.left - 1
                    return planned.fault
        return Fault()


@dataclass(slots=True)
class _Planned:
    fault: Fault
    #: How many requests it will still spoil; None for all.
    left: int | None

    def fits(self, task_id: str | None, seed: int) -> bool:
        wanted = self.fault.task_id in {None, task_id} and self.fault.seed in {None, seed}
        return wanted and self.left != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    #: 0 closes the connection without a word.
    status: int
    body: str
    retry_after: str = ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: A whole fleet may connect in the same moment.
    request_queue_size = 256
    playback: Playback


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Headers and body leave in one piece; else each answer waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm: ClassVar[bool] = True

    @property
    def _playback(self) -> Playback:
        return cast("_Server", self.server).playback

    def do_GET(self) -> None:
        """Say what was asked."""
        if self.path == "/requests":
            asked = [dataclasses.asdict(asked) for asked in self._playback.asked]
            self._send(_Reply(status=HTTPStatus.OK, body=json.dumps(asked)))
        else:
            self._send(_refusal(HTTPStatus.NOT_FOUND, "try POST /v1/chat/completions"))

    def do_POST(self) -> None:
        """Play back a run."""
        size = int(self.headers.get("content-length") or 0)
        if size > _MAX_REQUEST_BYTES:
            self.close_connection = True
            self._send(_refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large"))
            return
        body = self.rfile.read(size)
        if self.path != "/v1/chat/completions":
            self._send(_refusal(HTTPStatus.NOT_FOUND, "try POST /v1/chat/completions"))
            return
        try:
            request = cast("dict[str, Any]", dict(json.loads(body)))
        except (ValueError, TypeError):
            self._send(_refusal(HTTPStatus.BAD_REQUEST, "the request is not a JSON object"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self._playback.reply(request, headers))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent: `GET /requests` tells."""

    def _send(self, reply: _Reply) -> None:
        if reply.status == 0:
            self.close_connection = True
            return
        body = reply.body.encode()
        self.send_response(reply.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if reply.retry_after:
            self.send_header("retry-after", reply.retry_after)
        self.end_headers()
        self.wfile.write(body)


def _query(request: Mapping[str, Any]) -> str:
    """Return the last message of the user, empty where there is none."""
    messages = request.get("messages")
    for message in reversed(cast("list[Any]", messages) if isinstance(messages, list) else []):
        if isinstance(message, dict):
            said = cast("dict[str, Any]", message)
            if said.get("role") == "user" and isinstance(said.get("content"), str):
                return said["content"]
    return ""


def _seed(request: Mapping[str, Any]) -> int:
    seed = request.get("seed")
    return seed if isinstance(seed, int) else 0


def _error(message: str) -> str:
    return json.dumps({"error": {"message": message}})


def _refusal(status: HTTPStatus, message: str) -> _Reply:
    return _Reply(status=status, body=_error(message))


def _main(argv: Sequence[str]) -> None:
    options = _arguments().parse_args(argv)
    # Blocked before the server makes its threads, which inherit it: only sigwait sees them.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    student = Playback(
        Recordings.load(options.runs, options.benchmark),
        faults=_plan(options.faults),
        delay_ms=options.delay_ms,
        port=options.port,
        api_key=os.environ.get(_KEY_VARIABLE, ""),
    )
    with student:
        sys.stdout.write(f"ready {student.base_url}\n")
        sys.stdout.flush()
        signal.sigwait(ends)


def _plan(path: Path | None) -> list[Fault]:
    if path is None:
        return []
    rows = cast("list[dict[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
    return [Fault(**row) for row in rows]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.student.playback", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="student_runs.jsonl")
    parser.add_argument("--benchmark", type=Path, required=True, help="benchmark.json")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay-ms", type=int, default=0, help="before each answer")
    parser.add_argument("--faults", type=Path, help="what goes wrong: a JSON list")
    return parser


if __name__ == "__main__":
    _main(sys.argv[1:])
