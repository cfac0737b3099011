from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from worker.embedded.demo_benchmark import (
    MAX_TOKENS,
    SYSTEM_PROMPT,
    TEMPERATURE,
    demo_tasks,
    is_right,
)
from worker.embedded.llama import MODEL, LlamaServer, model_path
from worker.errors import Misconfigured
from worker.student.http import HttpStudent

if TYPE_CHECKING:
    from pathlib import Path

    from worker.embedded.demo_benchmark import DemoTask

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]


def ask(
    server: LlamaServer, path: str, body: dict[str, Any] | None = None, key: str | None = None
) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"authorization": f"Bearer {server.api_key if key is None else key}"}
    method = "GET" if body is None else "POST"
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


def test_it_answers_as_an_openai_server_does_and_names_no_path(llama_server: LlamaServer) -> None:
    body = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4, "seed": 1}

    status, reply = ask(llama_server, "/v1/chat/completions", body)

    assert status == 200
    assert reply["model"] == MODEL
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["usage"]["completion_tokens"] <= 4
    assert str(model_path().parent) not in json.dumps(reply)


def test_nobody_gets_an_answer_without_the_key(llama_server: LlamaServer) -> None:
    body = {"messages": [{"role": "user", "content": "Say yes."}]}

    assert ask(llama_server, "/v1/chat/completions", body, key="wrong")[0] == 401
    assert llama_server.api_key not in " ".join(llama_server.launch().argv)


def test_it_serves_no_pages_and_no_other_callers_prompts(llama_server: LlamaServer) -> None:
    assert ask(llama_server, "/")[0] == 404
    assert ask(llama_server, "/slots")[0] >= 400


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(llama_server: LlamaServer) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 600}], "max_tokens": 4}

    status, reply = ask(llama_server, "/v1/chat/completions", body)

    assert status == 400
    assert "context" in json.dumps(reply)


def test_started_again_it_has_the_same_port(tmp_path: Path) -> None:
    server = LlamaServer(tmp_path, slots=1)
    server.start()
    try:
        port = server.port
        server.stop()

        server.start()

        assert server.port == port
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("slots", "context_tokens", "threads"), [(0, 512, 1), (8, -1, 1), (8, 512, 0)]
)
def test_numbers_that_cannot_work_are_refused_at_once(
    slots: int, context_tokens: int, threads: int, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match="at least 1, not"):
        LlamaServer(tmp_path, slots=slots, context_tokens=context_tokens, threads=threads)


def test_a_port_that_somebody_took_meanwhile_is_reported(tmp_path: Path) -> None:
    server = LlamaServer(tmp_path, slots=1)
    server.start()
    server.stop()

    with (
        socket.create_server(("127.0.0.1", server.port)),
        pytest.raises(Misconfigured, match=r"llama\.cpp did not start"),
    ):
        server.start()


def test_on_the_demos_tasks_it_is_right_in_some_and_wrong_in_others(
    llama_server: LlamaServer,
) -> None:
    student = HttpStudent(
        llama_server.base_url,
        llama_server.model,
        llama_server.api_key,
        timeout_ms=50_000,
        max_tokens=MAX_TOKENS,
        temperature=TEMPERATURE,
        system_prompt=SYSTEM_PROMPT,
    )
    tasks = [task for task in demo_tasks() if task.category in {"facts", "words"}]

    def ask(task: DemoTask) -> bool:
        return is_right(task, student.answer(task.query, seed=0, run_id=task.task_id))

    with ThreadPoolExecutor(8) as threads:
        right = sum(threads.map(ask, tasks))
    student.close()

    assert len(tasks) == 10
    assert 1 <= right <= 9
