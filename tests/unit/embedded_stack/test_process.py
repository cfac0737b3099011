from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from worker.embedded import tether
from worker.embedded.process import (
    Launch,
    Program,
    base_environment,
    log_shows,
    start_all,
    stop_all,
)
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Says it is ready and waits; ends at once on SIGTERM.
OBEDIENT = "import signal; print('ready', flush=True); signal.pause()"
#: Ignores SIGTERM.
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True)\nwhile True: signal.pause()"
)
#: Starts a child of its own, which ignores SIGTERM and which nobody else knows.
MOTHER = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print('child', child.pid, flush=True)\n"
    "import signal; print('ready', flush=True); signal.pause()"
)
#: Starts OBEDIENT the way we do, in a thread that ends right away, and says its process id.
PARENT = (
    "import sys, threading, pathlib\n"
    "from worker.embedded.process import Launch, Program, log_shows\n"
    "program = Program('child', Launch(argv=(sys.executable, '-c', sys.argv[2])),\n"
    "                  ready=log_shows('^ready'), log_path=pathlib.Path(sys.argv[1]))\n"
    "starter = threading.Thread(target=program.start); starter.start(); starter.join()\n"
    "print(program.pid, flush=True)\n"
    "sys.stdin.read()"
)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    made: list[Program] = []

    def make(
        code: str, ready: str = "^ready", stop_ms: int = 5_000, name: str = "server"
    ) -> Program:
        program = Program(
            name,
            Launch(argv=(sys.executable, "-c", code)),
            ready=log_shows(ready),
            log_path=tmp_path / "logs" / f"{name}.log",
            stop_ms=stop_ms,
        )
        made.append(program)
        return program

    yield make
    for program in made:
        program.kill()


def test_it_is_running_once_started_and_gone_once_stopped(make: Callable[..., Program]) -> None:
    program = make(OBEDIENT)

    program.start()
    info = program.info

    assert info.running
    assert info.pid is not None
    assert info.rss_bytes > 1_000_000
    assert info.start_ms is not None
    program.stop()
    assert not psutil.pid_exists(info.pid)
    assert not program.info.running


def test_starting_and_stopping_twice_does_nothing_more(make: Callable[..., Program]) -> None:
    program = make(OBEDIENT)

    program.stop()
    program.start()
    first = program.pid
    program.start()
    assert program.pid == first
    program.stop()
    program.stop()
    program.kill()

    assert program.pid is None


def test_what_ignores_sigterm_is_killed_after_its_time(make: Callable[..., Program]) -> None:
    program = make(STUBBORN, stop_ms=50)
    program.start()
    pid = program.pid
    assert pid is not None

    program.stop()

    assert not psutil.pid_exists(pid)


def test_what_a_child_started_itself_ends_with_it(make: Callable[..., Program]) -> None:
    program = make(MOTHER)
    program.start()
    grandchild = psutil.Process(int(program.output().split()[1]))

    program.stop()

    _, alive = psutil.wait_procs([grandchild], timeout=5)
    assert alive == []


def test_a_child_that_ends_too_early_is_reported_with_the_end_of_its_log(
    make: Callable[..., Program],
) -> None:
    program = make("import sys; print('no licence found'); sys.exit(3)")

    with pytest.raises(Misconfigured, match=r"(?s)exit status 3 .*no licence found") as raised:
        program.start()

    assert raised.value.facts["log_path"] == str(program.log_path)
    assert program.pid is None


def test_a_child_that_a_signal_ended_is_reported_with_the_signal(
    make: Callable[..., Program],
) -> None:
    program = make("import os; os.kill(os.getpid(), 9)")

    with pytest.raises(Misconfigured, match="signal 9"):
        program.start()


def test_a_program_that_does_not_exist_is_reported_by_name(tmp_path: Path) -> None:
    launch = Launch(argv=("/no/such/program",))
    program = Program("ghost", launch, ready=log_shows("never"), log_path=tmp_path / "ghost.log")

    with pytest.raises(Misconfigured, match=r"cannot run '/no/such/program': No such file"):
        program.start()


def test_a_child_that_is_not_ready_in_time_is_reported_and_stopped(
    make: Callable[..., Program],
) -> None:
    program = make(OBEDIENT, ready="never said")

    with pytest.raises(Misconfigured, match="was given 100 ms"):
        program.start(timeout_ms=100)

    assert program.pid is None


def test_when_one_does_not_come_up_the_others_are_stopped_too(
    make: Callable[..., Program],
) -> None:
    good, bad = make(OBEDIENT, name="good"), make("raise SystemExit(1)", name="bad")

    with pytest.raises(Misconfigured, match="bad ended"):
        start_all([good, bad])

    assert not good.running


def test_stopping_many_waits_for_all_of_them_side_by_side(make: Callable[..., Program]) -> None:
    programs = [make(OBEDIENT, name=f"server-{number}") for number in range(3)]
    start_all(programs)

    stop_all(programs)

    assert [program.running for program in programs] == [False] * 3


def test_readiness_is_read_from_this_start_and_not_from_an_earlier_one(
    make: Callable[..., Program],
) -> None:
    program = make(OBEDIENT)
    program.start()
    program.stop()

    program.start()

    assert program.output().count("ready") == 1
    assert program.log_path.read_text().count("ready") == 2


def test_a_child_outlives_the_thread_that_started_it(make: Callable[..., Program]) -> None:
    program = make(OBEDIENT)
    thread = threading.Thread(target=program.start)
    thread.start()
    thread.join()

    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(program.pid).wait(timeout=0.3)


def test_ctrl_c_in_the_terminal_does_not_reach_a_child(make: Callable[..., Program]) -> None:
    program = make(OBEDIENT)
    program.start()
    assert program.pid is not None

    assert os.getpgid(program.pid) != os.getpgid(0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent_however_that_ends(
    how: signal.Signals, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "child.log"), OBEDIENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()

        parent.send_signal(how)

        _, alive = psutil.wait_procs([child], timeout=5)
    assert alive == []


def test_a_child_whose_parent_was_gone_before_it_could_be_tied_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    ended = subprocess.run(
        [sys.executable, "-I", "-S", tether.__file__, str(gone.pid), "touch", str(marker)],
        check=False,
    )

    assert ended.returncode == -signal.SIGKILL
    assert not marker.exists()


def test_no_key_of_ours_gets_into_the_environment_of_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    names = base_environment().keys()

    assert "PATH" in names
    assert not [name for name in names if name.endswith("_KEY")]
