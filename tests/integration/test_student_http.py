from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from worker.core.values import RunOutcome
from worker.embedded.process import Launch, Program, base_environment, log_shows
from worker.errors import Misconfigured, StudentFault
from worker.student.http import HttpStudent
from worker.student.playback import Fault, Playback, Recording, Recordings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from worker.embedded.llama import LlamaServer
    from worker.ports import Student

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

AIRLINE = Path(__file__).parents[3] / "shared" / "data" / "tau-airline-home"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
RECORDINGS = Recordings(
    [
        Recording(task_id=task_id, attempt=attempt, trace_id=f"{task_id}/{attempt}", output=output)
        for task_id, outputs in {"t": ["4", "5"], "u": ["Lyon"]}.items()
        for attempt, output in enumerate(outputs)
    ],
    {"t": "2+2?", "u": "Capital of France?"},
)


@contextmanager
def student_at(base_url: str, **options: Any) -> Generator[HttpStudent]:
    settings: dict[str, Any] = {"timeout_ms": 5_000, "max_tokens": 16, "temperature": 0.0}
    student = HttpStudent(base_url, "some-model", **{**settings, **options})
    yield student
    student.close()


@contextmanager
def playback(**options: Any) -> Generator[tuple[Playback, HttpStudent]]:
    with Playback(RECORDINGS, **options) as server, student_at(server.base_url) as student:
        yield server, student


@contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Generator[str]:
    """Serve what `talk` says once the request's headers are in."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = b""
            while b"\r\n\r\n" not in received:
                received += self.request.recv(65_536)
            try:
                talk(self.request, over)
            except OSError:
                return  # the student hung up

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def fault_of(student: Student) -> StudentFault:
    with pytest.raises(StudentFault) as raised:
        student.answer("2+2?", seed=0, run_id="r-1")
    return raised.value


def test_an_answer_comes_back_with_all_that_is_known_about_it() -> None:
    with playback() as (_, student):
        answer = student.answer("2+2?", seed=1, run_id="r-1")

    assert answer.outcome is RunOutcome.ANSWERED
    assert answer.content == "5"
    assert answer.response_id == "t/1"
    assert answer.model == "playback"
    assert answer.finish_reason == "stop"


def test_the_server_is_told_the_seed_and_the_run() -> None:
    with playback() as (server, student):
        student.answer("2+2?", seed=7, run_id="session/run/t/7")

    (asked,) = server.asked
    assert (asked.seed, asked.run_id) == (7, "session/run/t/7")


def test_the_request_holds_what_was_configured_and_ours_wins_over_extra() -> None:
    received: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            size = 0
            while (line := self.rfile.readline().strip()) != b"":
                received.append(line.lower())
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            received.append(self.rfile.read(size))
            self.wfile.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        base_url = f"http://127.0.0.1:{server.server_address[1]}/v1/"
        extra = {"top_p": 0.9, "max_tokens": 1}
        with student_at(base_url, api_key="k-1", system_prompt="Be brief.", extra=extra) as student:
            assert fault_of(student).reason == "bad_body"
        thread.join()

    assert received[0] == b"post /v1/chat/completions http/1.1"
    assert b"authorization: bearer k-1" in received
    assert b"accept-encoding: identity" in received
    assert json.loads(received[-1]) == {
        "model": "some-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2?"},
        ],
        "max_tokens": 16,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": 0,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("fault", "outcome", "content"),
    [
        (Fault(null_content=True), RunOutcome.EMPTY, None),
        (Fault(cut=True), RunOutcome.CUT, "4"),
    ],
)
def test_null_and_cut_content_are_outcomes_of_their_own(
    fault: Fault, outcome: RunOutcome, content: str | None
) -> None:
    with playback(faults=[fault]) as (_, student):
        answer = student.answer("2+2?", seed=0, run_id="r-1")

    assert (answer.outcome, answer.content) == (outcome, content)


@pytest.mark.parametrize(
    ("fault", "reason", "retryable"),
    [
        (Fault(status=429, retry_after="3"), "rate_limited", True),
        (Fault(status=503), "server_error", True),
        (Fault(status=401), "refused", False),
        (Fault(status=400), "refused", False),
        (Fault(body='{"choices": [{"mess'), "bad_body", True),
        (Fault(body="{}"), "bad_body", True),
        (Fault(drop=True), "bad_body", True),
    ],
)
def test_every_fault_says_what_it_was_and_whether_to_try_again(
    fault: Fault, reason: str, *, retryable: bool
) -> None:
    with playback(faults=[fault]) as (_, student):
        raised = fault_of(student)

    assert (raised.reason, raised.retryable) == (reason, retryable)
    assert raised.retry_after_ms == (3_000 if fault.retry_after else None)


def test_after_a_fault_the_same_student_answers_again() -> None:
    plan = [Fault(drop=True, times=1), Fault(status=503, times=1)]

    with playback(faults=plan) as (_, student):
        faults = [fault_of(student).reason for _ in plan]
        answer = student.answer("2+2?", seed=0, run_id="r-1")

    assert faults == ["bad_body", "server_error"]
    assert answer.content == "4"


def test_nobody_at_the_address_is_a_fault_that_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with student_at(f"http://127.0.0.1:{port}/v1") as student:
        raised = fault_of(student)

    assert (raised.reason, raised.retryable, raised.status) == ("connect", True, None)


def test_a_name_that_does_not_exist_is_a_fault_that_may_pass() -> None:
    with student_at("http://no-such-host.invalid/v1") as student:
        assert fault_of(student).reason == "connect"


def silent(_: socket.socket, over: threading.Event) -> None:
    over.wait()


def dripping_headers(client: socket.socket, over: threading.Event) -> None:
    client.sendall(OK)
    while not over.wait(0.02):
        client.sendall(b"x-drip: 1\r\n")


def dripping_body(client: socket.socket, over: threading.Event) -> None:
    client.sendall(OK + b"content-length: 100000\r\n\r\n")
    while not over.wait(0.02):
        client.sendall(b" ")


@pytest.mark.parametrize("talk", [silent, dripping_headers, dripping_body])
def test_the_deadline_holds_whatever_the_server_does(
    talk: Callable[[socket.socket, threading.Event], None],
) -> None:
    with raw_server(talk) as base_url, student_at(base_url, timeout_ms=300) as student:
        started = time.monotonic()
        raised = fault_of(student)
        took_s = time.monotonic() - started

    assert (raised.reason, raised.retryable) == ("timeout", True)
    assert "300 ms" in raised.message
    assert 0.3 <= took_s < 1.5


def test_a_body_without_an_end_is_cut_off_at_the_limit() -> None:
    sent = Counter[str]()

    def endless(client: socket.socket, over: threading.Event) -> None:
        client.sendall(OK + b"transfer-encoding: chunked\r\n\r\n")
        while not over.is_set():
            client.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            sent["bytes"] += 0x10000

    with raw_server(endless) as base_url, student_at(base_url, max_body_bytes=1_000_000) as student:
        raised = fault_of(student)

    assert (raised.reason, raised.retryable) == ("too_large", False)
    assert sent["bytes"] < 32_000_000  # what the sockets' buffers hold comes on top


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"this is not HTTP\r\n\r\n", "bad_body"),
        (OK + b"content-length: 50\r\n\r\n{}", "bad_body"),
        (OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\nab", "bad_body"),
        (b"HTTP/1.1 302 Found\r\nlocation: /v2\r\ncontent-length: 0\r\n\r\n", "refused"),
        (OK + b"content-length: 4\r\n\r\nnull", "bad_body"),
    ],
)
def test_broken_replies_are_faults_and_redirects_are_not_followed(
    reply: bytes, reason: str
) -> None:
    with (
        raw_server(lambda client, _: client.sendall(reply)) as base_url,
        student_at(base_url) as student,
    ):
        assert fault_of(student).reason == reason


def test_a_key_that_the_server_sends_back_is_not_in_the_error() -> None:
    reply = b"HTTP/1.1 400 No\r\ncontent-length: 16\r\n\r\nbad key sk-12345"

    with (
        raw_server(lambda client, _: client.sendall(reply)) as base_url,
        student_at(base_url, api_key="sk-12345") as student,
    ):
        raised = fault_of(student)

    assert "bad key [key]" in raised.message
    assert "sk-12345" not in repr(raised.facts)


def test_a_wrong_key_is_refused_and_the_right_one_is_not() -> None:
    with Playback(RECORDINGS, api_key="right") as server:
        with student_at(server.base_url, api_key="right") as student:
            assert student.answer("2+2?", seed=0, run_id="r-1").content == "4"
        with student_at(server.base_url, api_key="wrong") as student:
            assert fault_of(student).status == 401


def test_many_threads_share_one_student_and_run_side_by_side() -> None:
    with playback(delay_ms=200) as (server, student):
        started = time.monotonic()
        with ThreadPoolExecutor(32) as threads:
            jobs = [
                threads.submit(student.answer, "2+2?", seed=seed, run_id=f"r-{seed}")
                for seed in range(32)
            ]
            contents = [job.result().content for job in jobs]
        took_s = time.monotonic() - started

    assert contents == ["4", "5"] * 16
    assert {asked.run_id for asked in server.asked} == {f"r-{seed}" for seed in range(32)}
    assert took_s < 32 * 0.2 / 4


def test_closing_ends_the_answers_under_way_and_may_be_done_twice() -> None:
    talking = threading.Event()

    def talk(_: socket.socket, over: threading.Event) -> None:
        talking.set()
        over.wait()

    with raw_server(talk) as base_url, student_at(base_url, timeout_ms=60_000) as student:
        with ThreadPoolExecutor(1) as threads:
            job = threads.submit(fault_of, student)
            assert talking.wait(5)
            student.close()
            raised = job.result(timeout=5)
        student.close()

    assert (raised.reason, raised.retryable) == ("connect", True)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_student_made_and_used_before_a_fork_works_after_it() -> None:
    with playback() as (_, student):
        student.answer("2+2?", seed=0, run_id="r-1")
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has its own idea
            signal.alarm(10)  # whatever goes wrong in there, it ends
            try:
                answer = student.answer("2+2?", seed=1, run_id="r-2")
                os.write(write_end, (answer.content or "").encode())
            finally:
                os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)

        assert os.read(read_end, 100) == b"5"
        assert student.answer("2+2?", seed=0, run_id="r-3").content == "4"
    os.close(read_end)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://u:secret@host/v1",
        "http://h/?a=1",
    ],
)
def test_an_address_that_cannot_work_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(Misconfigured) as raised, student_at(base_url):
        pass

    assert "secret" not in raised.value.message


@pytest.mark.parametrize("api_key", ["a\nb", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(api_key: str) -> None:
    with pytest.raises(Misconfigured) as raised, student_at("http://h/v1", api_key=api_key):
        pass

    assert api_key not in raised.value.message


@pytest.mark.skipif(
    not AIRLINE.exists(), reason="the recorded airline runs are not on this machine"
)
def test_recorded_airline_runs_come_back_as_recorded_from_a_process_of_its_own(
    tmp_path: Path,
) -> None:
    program = Program(
        "playback",
        Launch(
            argv=(
                *(sys.executable, "-m", "worker.student.playback"),
                *("--runs", str(AIRLINE / "student_runs.jsonl")),
                *("--benchmark", str(AIRLINE / "benchmark.json")),
            ),
            env=base_environment(),
        ),
        ready=log_shows("^ready"),
        log_path=tmp_path / "playback.log",
    )
    lines = (AIRLINE / "student_runs.jsonl").read_text().splitlines()
    runs = {(run["task_id"], run["attempt"]): run["output"] for run in map(json.loads, lines)}
    samples = json.loads((AIRLINE / "benchmark.json").read_text())["samples"]

    program.start()
    try:
        with student_at(program.output().split()[1]) as student:
            heard = {
                (sample["trace_id"], seed): student.answer(
                    sample["query"], seed=seed, run_id="r"
                ).content
                for sample in samples
                for seed in range(4)
            }
    finally:
        program.stop()

    assert heard == runs


def test_a_real_model_answers_the_same_for_the_same_seed_whatever_is_asked_beside_it(
    llama_server: LlamaServer,
) -> None:
    def ask(number: int) -> str | None:
        query = f"Write one sentence about the number {number}."
        return student.answer(query, seed=number, run_id=f"r-{number}").content

    options = {"api_key": llama_server.api_key, "temperature": 0.8, "max_tokens": 12}
    with student_at(llama_server.base_url, timeout_ms=50_000, **options) as student:
        with ThreadPoolExecutor(6) as threads:
            together = list(threads.map(ask, range(6)))
        alone = [ask(number) for number in (4, 1)]

    assert alone == [together[4], together[1]]
    assert len(set(together)) == 6
