"""Every command explains itself, and whatever is wrong becomes a sentence and an exit code."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from tests.corpus.bad_homes import BadHome, bad_homes
from tests.unit.bundle.homes import make_home
from worker.cli import cli
from worker.errors import (
    BudgetDenied,
    BundleInvalid,
    IllegalEvent,
    Misconfigured,
    RequestInvalid,
    Unavailable,
    UnknownModel,
    UnknownVersion,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


def _commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command, groups included."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        else:
            yield (*path, name)


COMMANDS = list(_commands(cli))


def run(*arguments: str) -> Result:
    """Run a command in this process, without a server anywhere."""
    return CliRunner().invoke(cli, arguments, prog_name="diagnosis")


@pytest.mark.parametrize("path", COMMANDS, ids=[" ".join(path) or "diagnosis" for path in COMMANDS])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_explains_itself_without_settings_or_servers(
    path: tuple[str, ...], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIAGNOSIS_LOG_FORMAT", "wrong")

    said = run(*path, option)

    assert said.exit_code == 0
    assert said.stdout.startswith("Usage: diagnosis")
    command = _found(path)
    assert command.help
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not silent, "options without a word"


def _found(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def test_help_loads_no_driver_and_no_sdk() -> None:
    code = (
        "import sys\n"
        "from worker.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('anthropic', 'xllamacpp', 'flower', 'tornado') if m in sys.modules])\n"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.endswith("[]\n")


# ------------------------------------------------------------------------------------- exit codes

CODES: dict[str, tuple[BaseException, int]] = {
    "a request": (RequestInvalid("student: no"), 3),
    "a home": (BundleInvalid("no traces.db"), 3),
    "a model": (UnknownModel("no price"), 3),
    "a version": (UnknownVersion("upgrade"), 3),
    "a server": (Unavailable("Redis is away"), 4),
    "settings": (Misconfigured("correct it"), 7),
    "a bug of ours": (IllegalEvent("never"), 1),
    "money": (BudgetDenied("no room", scope="fleet", free_nusd=0, why="cap"), 1),
    "any bug": (ZeroDivisionError("division by zero"), 1),
    "wrong usage": (click.UsageError("say one"), 2),
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "a prompt that was left": (click.Abort(), 130),
}


@pytest.mark.parametrize(("error", "code"), CODES.values(), ids=list(CODES))
def test_an_error_is_a_sentence_and_an_exit_code(error: BaseException, code: int) -> None:
    said = _raising(error)

    assert said.exit_code == code
    assert said.stdout == ""
    assert "Traceback" not in said.stderr
    assert str(error) in said.stderr


def test_a_bug_shows_where_it_is_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DIAGNOSIS_LOG_LEVEL=DEBUG shows where" in _raising(ZeroDivisionError("x")).stderr

    monkeypatch.setenv("DIAGNOSIS_LOG_LEVEL", "DEBUG")

    assert isinstance(_raising(ZeroDivisionError("x")).exception, ZeroDivisionError)


def test_an_error_moves_no_cursor() -> None:
    said = _raising(RequestInvalid("student: '\x1b[2J\r\n\u202e' is not known"))

    assert said.stderr.rstrip("\n").isprintable()


def _raising(error: BaseException) -> Result:
    """Run a command that fails so."""

    @click.command()
    def fails() -> None:
        raise error

    group = type(cli)("diagnosis", commands={"fails": fails})
    return CliRunner().invoke(group, ["fails"])


# ------------------------------------------------------------------------------------ wrong usage

USAGE: dict[str, tuple[list[str], int, str]] = {
    "no such command": (["nosuch"], 2, "No such command 'nosuch'"),
    "no such option": (["status", "--nosuch"], 2, "No such option"),
    "neither home nor bundle": (["enqueue"], 2, "give either --home DIR or --bundle URI"),
    "both": (["enqueue", "--home", ".", "--bundle", "x"], 2, "give either --home"),
    "a queue": (["worker", "--queues", "nosuch"], 2, "is not among control,teacher"),
    "no queue": (["worker", "--queues", ", ,"], 2, "is not among control,teacher"),
    "no slot": (["worker", "--concurrency", "0"], 2, "0 is not in the range x>=1"),
    "a pool": (["worker", "--pool", "fibers"], 2, "'fibers' is not one of"),
    "an account": (["budget", "set", "nosuch", "5"], 2, "accounts are fleet, tenant:NAME"),
    "a path as a session's account": (["budget", "set", "session:../x", "5"], 2, "cannot be used"),
    "a path as account": (["budget", "set", "tenant:../x", "5"], 2, "accounts are fleet"),
    "NaN dollars": (["budget", "set", "fleet", "nan"], 2, "'nan' is not a finite number"),
    "all dollars": (["budget", "set", "fleet", "inf"], 2, "is not in the range"),
    "too many dollars": (["budget", "set", "fleet", "1e30"], 2, "is not in the range"),
    "less than none": (["budget", "set", "fleet", "--", "-1"], 2, "is not in the range"),
    "no dollars": (["budget", "set", "fleet", "five"], 2, "'five' is not a valid float"),
    "a wait without end": (["result", "s-1", "--timeout-s", "nan"], 2, "is not a finite number"),
    "a wait for ever": (["watch", "s-1", "--wait-s", "inf"], 2, "is not a finite number"),
    "a negative wait": (["result", "s-1", "--timeout-s", "-1"], 2, "is not in the range"),
    "a path as session": (["status", "../../etc"], 5, "there is no session '../../etc'"),
    "a control as session": (["watch", "\x1b[2J"], 5, "there is no session"),
    "half a pair as session": (["result", "\udcff"], 5, "there is no session"),
    "nothing as session": (["cancel", ""], 5, "there is no session ''"),
    "a long session": (["explain", "s" * 500], 5, "there is no session"),
}


@pytest.mark.parametrize(("arguments", "code", "says"), USAGE.values(), ids=list(USAGE))
def test_wrong_usage_is_said_before_anything_is_connected(
    arguments: list[str], code: int, says: str
) -> None:
    said = run(*arguments)

    assert said.exit_code == code, said.output
    assert says in said.stderr
    assert said.stdout == ""


REQUESTS: dict[str, tuple[list[str], str]] = {
    "a cap of NaN": (["--max-cost-usd", "NaN"], "limits.max_cost_usd: "),
    "a cap beyond all": (["--max-cost-usd", "1e30"], "limits.max_cost_usd: "),
    "no turns": (["--max-turns", "0"], "limits.max_turns: "),
    "too many runs": (["--max-student-runs", "99999"], "limits.max_student_runs: "),
    "an hour in words": (["--date", "tomorrow"], "date: "),
    "a path as session": (["--session-id", "../x"], "session_id: '../x' cannot be used"),
    "a path as tenant": (["--tenant", "../x"], "tenant: '../x' cannot be used"),
    "a URL as student": (["--student", "http://x"], "student: 'http://x' cannot be used"),
    "a line end in a flag": (["--flag", "a\nb"], "flagged_trace_ids.0: "),
    "half a pair as trigger": (["--trigger", "\udcff"], "trigger: "),
}


@pytest.mark.parametrize(("options", "says"), REQUESTS.values(), ids=list(REQUESTS))
def test_a_request_is_looked_at_before_its_home_is_packed(
    options: list[str], says: str, tmp_path: Path
) -> None:
    said = run("enqueue", "--home", str(tmp_path / "none"), *options)

    assert said.exit_code == 3, said.output
    assert said.stderr.startswith(f"diagnosis: {says}")


@pytest.mark.parametrize("uri", ["", "http://x", "s3://b/bundles/x.tar.gz", "/etc/passwd"])
def test_a_bundle_that_is_none_is_refused(uri: str) -> None:
    said = run("enqueue", "--bundle", uri)

    assert said.exit_code == 3, said.output
    assert "bundle: " in said.stderr


BAD_HOMES = bad_homes()


@pytest.mark.parametrize("case", BAD_HOMES, ids=[case.name for case in BAD_HOMES])
def test_a_home_that_cannot_be_used_is_refused_with_a_sentence(
    case: BadHome, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    make_home(home)
    case.spoil(home)

    said = run("enqueue", "--home", str(home))

    assert said.exit_code == 3, said.output
    assert said.stderr.startswith("diagnosis: ")
    assert case.says in said.stderr, said.stderr
    assert "Traceback" not in said.output


def test_a_wrong_setting_ends_any_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAGNOSIS_REDIS_URL", "not-a-url")

    for arguments in (["status"], ["worker"], ["doctor", "--json"], ["budget", "list"]):
        said = run(*arguments)

        assert said.exit_code == 7
        assert said.stderr.startswith("diagnosis: settings are wrong: DIAGNOSIS_REDIS_URL")


def test_the_version_is_one_line() -> None:
    said = run("--version")

    assert said.exit_code == 0
    assert said.stdout.startswith("diagnosis, version ")


def test_the_module_is_the_command() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "worker.cli", "status", "--nosuch"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.returncode == 2
    assert "No such option" in said.stderr
    assert said.stdout == ""
