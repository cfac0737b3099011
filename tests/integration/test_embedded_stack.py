from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from worker.embedded.process import log_shows
from worker.embedded.stack import EmbeddedStack
from worker.errors import Misconfigured
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

#: Says which order it was stopped in.
POLITE = (
    "import os, signal, sys\n"
    "def end(*_):\n"
    "    open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "print('ready', os.environ.get('TOKEN'), os.environ.get('ANTHROPIC_API_KEY'), flush=True)\n"
    "while True: signal.pause()"
)
#: A whole stack; says the process ids and waits.
DEMO = (
    "import pathlib, sys\n"
    "from worker.embedded.stack import EmbeddedStack\n"
    "with EmbeddedStack(pathlib.Path(sys.argv[1])) as stack:\n"
    "    print(*(process.pid for process in stack.processes()), flush=True)\n"
    "    sys.stdin.read()\n"
)


def all_gone(pids: list[int]) -> bool:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(processes, timeout=10)[1]


def test_everything_is_up_inside_the_with_and_gone_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedStack(tmp_path / "stack") as stack:
        processes = stack.processes()
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
            assert client.ping()

    assert [process.name for process in processes] == ["valkey", "seaweed", "llama"]
    assert all(process.running and process.rss_bytes > 0 for process in processes)
    assert settings.s3_endpoint == stack.seaweed.endpoint_url
    assert settings.students["default"].base_url == stack.llama.base_url
    assert all_gone([process.pid for process in processes if process.pid])
    assert not [process for process in stack.processes() if process.running]


def test_what_was_added_last_is_stopped_first_also_when_something_fails(tmp_path: Path) -> None:
    order, pids = tmp_path / "order", list[int]()

    def work() -> None:
        with EmbeddedStack(tmp_path / "stack", bucket=None, llama=False) as stack:
            for name in ("first", "second", "third"):
                argv = [sys.executable, "-c", POLITE, str(order), name]
                stack.begin_process(name, argv, ready=log_shows("^ready"))
            stack.wait_ready()
            pids.extend(process.pid for process in stack.processes() if process.pid)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        work()

    assert order.read_text().split() == ["third", "second", "first"]
    assert len(pids) == 4
    assert all_gone(pids)


def test_an_added_process_gets_its_own_environment_and_none_of_our_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    argv = [sys.executable, "-c", POLITE, str(tmp_path / "order"), "only"]

    with EmbeddedStack(tmp_path, valkey=False, bucket=None, llama=False) as stack:
        program = stack.add_process("only", argv, {"TOKEN": "t-1"}, ready=log_shows("^ready"))

        assert program.output() == "ready t-1 None\n"
        with pytest.raises(Misconfigured, match="called 'only' already"):
            stack.add_process("only", argv, ready=log_shows("^ready"))


def test_a_process_that_does_not_come_up_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path, bucket=None, llama=False) as stack:
        argv = [sys.executable, "-c", "raise SystemExit('no such queue')"]
        with pytest.raises(Misconfigured, match="no such queue"):
            stack.add_process("worker", argv, ready=log_shows("^ready"))

        assert stack.valkey.running


def test_a_directory_in_use_is_refused_with_who_uses_it(tmp_path: Path) -> None:
    with (
        EmbeddedStack(tmp_path, valkey=False, bucket=None, llama=False),
        pytest.raises(Misconfigured, match=rf"Process {os.getpid()} runs a stack"),
        EmbeddedStack(tmp_path, valkey=False, bucket=None, llama=False),
    ):
        pass

    with EmbeddedStack(tmp_path, valkey=False, bucket=None, llama=False) as again:
        assert again.processes() == ()


def test_a_part_that_was_not_asked_for_is_named(tmp_path: Path) -> None:
    stack = EmbeddedStack(tmp_path, valkey=False, bucket=None, llama=False)

    with pytest.raises(Misconfigured, match="valkey=True"):
        _ = stack.valkey


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_whoever_started_the_stack(how: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as demo:
        assert demo.stdout is not None
        pids = [int(pid) for pid in demo.stdout.readline().split()]
        assert len(pids) == 3

        demo.send_signal(how)

        assert all_gone(pids)
