"""The deployment files, held against the code they start.

`make check` holds them against their own specifications (hadolint, the compose schema, the
Kubernetes schemas); here stands what no schema knows: our queues, settings, secrets and locks.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.core.commands import Queue
from worker.core.teaching import TeacherRequest
from worker.settings import Settings, StudentSettings, load_settings

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"

#: `name:1.2.3` or `name:4.48-variant`: a tag that names a release, not a moving target.
PINNED = re.compile(r"^[a-z0-9./-]+:\d+\.\d+(\.\d+)?(-[a-z0-9]+)*$")
#: Names of variables whose values are secret, or hold one as a URL does.
SECRET = re.compile(r"(PASSWORD|SECRET|_KEY|BASIC_AUTH|REDIS_URL|BROKER_URL|RESULT_URL)")

TEACHERS_KEY = "DIAGNOSIS_TEACHERS__DEFAULT__API_KEY"

Manifest = dict[str, Any]


def compose() -> Manifest:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def manifests(kind: str) -> list[Manifest]:
    files = sorted(KUBERNETES.glob("*.yaml"))
    found = [doc for file in files for doc in yaml.safe_load_all(file.read_text())]
    return [doc for doc in found if doc["kind"] == kind]


def dockerfile() -> list[list[str]]:
    """Return the Dockerfile's instructions as words, continued lines joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line.split() for line in lines if line and not line.startswith("#")]


def pod(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    spec = spec.get("jobTemplate", {"spec": spec})["spec"]
    return spec["template"]["spec"]


def pods() -> list[Manifest]:
    return [pod(manifest) for kind in ("Deployment", "CronJob") for manifest in manifests(kind)]


def workers_of_compose() -> dict[str, list[str]]:
    """Return service -> argv of each service that runs `diagnosis worker`."""
    services = compose()["services"]
    return {
        name: service["command"]
        for name, service in services.items()
        if service["command"][0] == "worker"
    }


def workers_of_kubernetes() -> dict[str, list[str]]:
    containers = {m["metadata"]["name"]: pod(m)["containers"][0] for m in manifests("Deployment")}
    return {
        name.removeprefix("diagnosis-"): container["args"]
        for name, container in containers.items()
        if container["args"][0] == "worker"
    }


def queues(argv: list[str]) -> list[str]:
    return argv[argv.index("--queues") + 1].split(",")


# --- what runs where


@pytest.mark.parametrize("workers", [workers_of_compose(), workers_of_kubernetes()])
def test_each_queue_is_worked_by_exactly_one_role(workers: dict[str, list[str]]) -> None:
    worked = [queue for argv in workers.values() for queue in queues(argv)]

    assert sorted(worked) == sorted(Queue)


def test_compose_and_kubernetes_start_the_same_roles_in_the_same_way() -> None:
    assert workers_of_compose() == workers_of_kubernetes()


def test_each_role_scales_on_the_lists_of_the_queues_it_works_and_on_no_other() -> None:
    scaled = {
        m["spec"]["scaleTargetRef"]["name"].removeprefix("diagnosis-"): [
            trigger["metadata"]["listName"].rsplit(":", 1)[-1] for trigger in m["spec"]["triggers"]
        ]
        for m in manifests("ScaledObject")
    }

    assert scaled == {name: queues(argv) for name, argv in workers_of_kubernetes().items()}


def test_the_scalers_look_where_celery_keeps_its_lists() -> None:
    settings = Settings.model_validate({})
    triggers = [t["metadata"] for m in manifests("ScaledObject") for t in m["spec"]["triggers"]]

    assert {t["listName"].rsplit(":", 1)[0] for t in triggers} == {settings.key_prefix}
    assert {t["databaseIndex"] for t in triggers} == {settings.broker.rsplit("/", 1)[-1]}


def test_a_pod_is_asked_for_per_worker_slot_that_is_missing() -> None:
    for scaler in manifests("ScaledObject"):
        role = scaler["spec"]["scaleTargetRef"]["name"].removeprefix("diagnosis-")
        argv = workers_of_kubernetes()[role]
        concurrency = argv[argv.index("--concurrency") + 1]

        assert {t["metadata"]["listLength"] for t in scaler["spec"]["triggers"]} == {concurrency}


# --- pins


def test_every_image_names_a_release() -> None:
    images = [service["image"] for service in compose()["services"].values()]
    images += [container["image"] for each in pods() for container in each["containers"]]
    images += [words[1] for words in dockerfile() if words[0] == "FROM"]

    assert [image for image in images if not PINNED.match(image)] == []


def test_the_image_of_ours_carries_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container["image"] for each in pods() for container in each["containers"]}
    images |= {compose()["services"][name]["image"] for name in workers_of_compose()}

    assert images == {f"diagnosis-worker:{version}"}


def locked(path: Path) -> dict[str, frozenset[str]]:
    """Return pin -> hashes of a lock file."""
    blocks = re.split(r"^(?=[a-z0-9])", path.read_text(), flags=re.MULTILINE)
    pin = re.compile(r"([a-z0-9._-]+==\S+)")
    return {
        found.group(1): frozenset(re.findall(r"sha256:[0-9a-f]{64}", block))
        for block in blocks
        if (found := pin.match(block))
    }


def test_the_image_installs_what_was_tested() -> None:
    tested = locked(ROOT / "requirements.lock")
    shipped = locked(ROOT / "deploy" / "requirements.lock")

    assert shipped.items() <= tested.items()
    assert all(shipped.values())


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/requirements.lock"])
def test_no_host_stands_in_a_lock(lock: str) -> None:
    text = (ROOT / lock).read_text()

    assert re.findall(r"https?://|--(extra-)?index-url|--find-links", text) == []


# --- secrets


def test_compose_starts_nothing_with_an_empty_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    uses = re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", text)

    assert uses
    assert [name for name, guard in uses if not guard.startswith(":?set ")] == []


def test_the_example_names_every_value_that_compose_asks_for_and_fills_in_none() -> None:
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text()))
    lines = (ROOT / "deploy" / "env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    assert set(example) == asked
    assert [name for name, value in example.items() if SECRET.search(name) and value] == []


def test_kubernetes_takes_secrets_by_reference_only() -> None:
    variables = [v for each in pods() for c in each["containers"] for v in c.get("env", [])]
    plain = [name for m in manifests("ConfigMap") for name in m["data"]]
    plain += [v["name"] for v in variables if "secretKeyRef" not in v.get("valueFrom", {})]

    assert manifests("Secret") == []
    assert [name for name in plain if SECRET.search(name)] == []


def test_only_the_teacher_role_gets_the_teachers_key() -> None:
    services = compose()["services"]
    deployments = {m["metadata"]["name"]: pod(m)["containers"][0] for m in manifests("Deployment")}
    in_compose = [n for n, s in services.items() if TEACHERS_KEY in s["environment"]]
    in_kubernetes = [
        name
        for name, container in deployments.items()
        if TEACHERS_KEY in {variable["name"] for variable in container["env"]}
    ]

    assert in_compose == ["teacher"]
    assert in_kubernetes == ["diagnosis-teacher"]


# --- settings


def variables_of_kubernetes() -> set[str]:
    containers = [container for each in pods() for container in each["containers"]]
    named = {variable["name"] for each in containers for variable in each.get("env", [])}
    config = next(m for m in manifests("ConfigMap") if m["metadata"]["name"] == "diagnosis-config")
    return named | set(config["data"])


def variables_of_compose() -> set[str]:
    return {name for service in compose()["services"].values() for name in service["environment"]}


def test_every_variable_of_ours_is_a_setting() -> None:
    known = {f"DIAGNOSIS_{name.upper()}" for name in Settings.model_fields} | {"DIAGNOSIS_CONFIG"}
    image = set(re.findall(r"DIAGNOSIS_\w+", (ROOT / "deploy" / "Dockerfile").read_text()))
    used = variables_of_compose() | variables_of_kubernetes() | image
    ours = {name.split("__")[0] for name in used if name.startswith("DIAGNOSIS_")}

    assert ours >= {"DIAGNOSIS_REDIS_URL", "DIAGNOSIS_S3_BUCKET", "DIAGNOSIS_CACHE_DIR"}
    assert ours <= known


@pytest.mark.parametrize("service", [*workers_of_compose(), "flower"])
def test_the_settings_of_each_compose_service_load(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in compose()["services"][service]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{(\w+)[^}]*\}", r"\1", value))
    monkeypatch.setenv("DIAGNOSIS_CONFIG", str(ROOT / "deploy" / "diagnosis.toml"))

    settings = load_settings()

    assert settings.s3_endpoint == "http://s3:8333"
    assert settings.redis_url.get_secret_value() == "redis://:REDIS_PASSWORD@redis:6379/0"
    assert settings.students["default"].base_url.endswith("/v1")
    key = settings.teachers["default"].api_key.get_secret_value()
    assert key == ("ANTHROPIC_API_KEY" if service == "teacher" else "")


def test_the_settings_of_kubernetes_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = {m["metadata"]["name"]: m["data"] for m in manifests("ConfigMap")}
    (tmp_path / "config.toml").write_text(maps["diagnosis-settings"]["config.toml"])
    for name, value in maps["diagnosis-config"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DIAGNOSIS_CONFIG", str(tmp_path / "config.toml"))

    settings = load_settings()

    assert set(settings.teachers) == {"default"}
    assert set(settings.students) == {"default"}
    assert settings.cache_max_bytes == 3_000_000_000


def test_a_paid_reply_outlives_the_worker_that_was_killed_with_it() -> None:
    images = [words[1:] for words in dockerfile() if words[0] == "ENV"]
    (cache,) = re.findall(r"DIAGNOSIS_CACHE_DIR=(\S+)", str(images).replace("'", " "))
    assert Settings.model_validate({"cache_dir": cache}).spool_path.is_relative_to(cache)
    described = compose()

    for name in workers_of_compose():
        # One volume for all of them: whoever takes over finds what another has heard.
        assert described["services"][name]["volumes"] == [f"bundles:{cache}"]
    assert "bundles" in described["volumes"]
    (teacher,) = [pod(m) for m in manifests("Deployment") if "teacher" in m["metadata"]["name"]]
    mounts = {mount["mountPath"]: mount for mount in teacher["containers"][0]["volumeMounts"]}
    (volume,) = [v for v in teacher["volumes"] if v["name"] == mounts[cache]["name"]]
    assert "readOnly" not in mounts[cache]
    assert volume["emptyDir"].get("medium") != "Memory"
    assert {"DIAGNOSIS_CACHE_DIR", "DIAGNOSIS_SPOOL_DIR"}.isdisjoint(
        variables_of_kubernetes() | variables_of_compose()
    )


# --- what a container may do


def test_the_image_runs_as_a_numbered_user_without_root() -> None:
    last_stage = dockerfile()[max(i for i, w in enumerate(dockerfile()) if w[0] == "FROM") :]
    users = [words[1] for words in last_stage if words[0] == "USER"]

    assert users == ["10001:10001"]
    assert ["STOPSIGNAL", "SIGTERM"] in last_stage
    assert ["ENTRYPOINT", '["diagnosis"]'] in last_stage


def test_every_pod_is_without_root_writable_files_privileges_or_open_ends() -> None:
    for each in pods():
        assert each["securityContext"]["runAsNonRoot"] is True
        assert each["automountServiceAccountToken"] is False
        for container in each["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_every_service_restarts_stops_in_time_and_has_limits() -> None:
    for name, service in compose()["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert re.fullmatch(r"\d+[sm]", service["stop_grace_period"]), name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name


def test_a_role_that_is_told_to_stop_has_time_for_its_longest_call() -> None:
    student = StudentSettings.model_validate({"base_url": "", "model": ""})
    longest_s = {
        "teacher": TeacherRequest.__dataclass_fields__["timeout_ms"].default / 1_000,
        "student": student.timeout_ms / 1_000,
    }
    deployments = {m["metadata"]["name"]: pod(m) for m in manifests("Deployment")}
    for role, call_s in longest_s.items():
        in_compose = compose()["services"][role]["stop_grace_period"]
        in_kubernetes = deployments[f"diagnosis-{role}"]["terminationGracePeriodSeconds"]

        assert in_kubernetes >= call_s + 15
        assert in_compose == f"{in_kubernetes // 60}m"


def test_redis_forgets_nothing() -> None:
    argv = compose()["services"]["redis"]["command"]
    settings = dict(zip(argv[1::2], argv[2::2], strict=True))

    assert settings["--appendonly"] == "yes"
    assert settings["--appendfsync"] == "always"
    assert settings["--maxmemory-policy"] == "noeviction"
