"""What the documents tell people to do can be done, and what they name is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from typing import TYPE_CHECKING, Any, get_args

import click
import pytest
import yaml

from tests.unit.docs.documents import DOCUMENTS, ROOT, commands
from worker.cli import cli
from worker.core.commands import Queue
from worker.core.values import Outcome
from worker.docs import PAGES
from worker.local import DiagnosisResult
from worker.settings import Settings
from worker.steps.conclude import bodies
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.docs.documents import Document

README = DOCUMENTS["README.md"]
ARCHITECTURE = DOCUMENTS["ARCHITECTURE.md"]
RUNBOOK = DOCUMENTS["deploy/RUNBOOK.md"]
CELERY = DOCUMENTS["docs/celery.md"]

#: Every command of a shell block, by its document and words.
SHELL = {
    f"{name}: {shlex.join(argv)}": argv
    for name, document in DOCUMENTS.items()
    for fence in document.fences("sh")
    for argv in commands(fence)
}
SNIPPETS = README.fences("python")


# -------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_link_leads_somewhere(document: Document) -> None:
    dead = [link for link in document.links if not leads_somewhere(document, link)]

    assert dead == []


def leads_somewhere(document: Document, link: str) -> bool:
    if link.startswith("https://"):
        return True
    name, _, anchor = link.partition("#")
    target = (document.path.parent / name).resolve() if name else document.path
    if not anchor:
        return target.exists()
    return anchor in DOCUMENTS[str(target.relative_to(ROOT))].anchors


def test_the_readme_leads_to_every_document() -> None:
    linked = {link.partition("#")[0] for link in README.links}

    assert set(DOCUMENTS) - linked == {"README.md"}


# ----------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("argv", SHELL.values(), ids=SHELL)
def test_every_command_can_be_given(argv: list[str]) -> None:
    PROGRAMS[argv[0]](argv[1:])


def check_diagnosis(argv: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        if command.invoke_without_command and not argv:
            break
        name, *argv = argv
        command = command.commands[name]
    # With the group's settings: click keeps a command's first help option for good.
    command.make_context("diagnosis", argv, parent=click.Context(cli, **cli.context_settings))


def check_make(argv: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    goals = [word for word in argv if "=" not in word]

    assert goals
    assert set(goals) <= set(targets)


def check_docker(argv: list[str]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    match argv:
        case ["compose", "exec", service, *inside]:
            assert service in services
            PROGRAMS[inside[0]](inside[1:])
        case ["compose", "up", *options]:
            assert set(options) <= {"--build", "--wait", "--detach", "--scale", "student=4"}
            assert "student" in services
        case _:
            pytest.fail(f"nobody has checked `docker {' '.join(argv)}`")


def check_kubectl(argv: list[str]) -> None:
    match argv[2:] if argv[0] == "-n" else argv:
        case ["create", "namespace", "diagnosis"]:
            pass
        case ["create", "secret", "generic", name, "--from-env-file=secrets.env"]:
            assert name in (ROOT / "deploy/kubernetes/workers.yaml").read_text()
        case ["apply", "-k", folder]:
            assert (ROOT / folder / "kustomization.yaml").is_file()
        case ["scale", deployment, "--replicas=4"]:
            name = deployment.removeprefix("deployment/")
            assert f"  name: {name}\n" in (ROOT / "deploy/kubernetes/workers.yaml").read_text()
        case _:
            pytest.fail(f"nobody has checked `kubectl {' '.join(argv)}`")


def check_cp(argv: list[str]) -> None:
    assert (ROOT / argv[0]).is_file()


def check_redis_cli(argv: list[str]) -> None:
    assert argv[0] in {"CONFIG", "DEL", "ZREM"}
    prefix = f"{{{Settings.model_fields['key_prefix'].default}}}:"
    assert all(word.startswith(prefix) for word in argv if ":" in word)


def check_python(argv: list[str]) -> None:
    option, script = argv
    assert option == "-c"
    tree = ast.parse(script)
    ledger = importlib.import_module("worker.ledger.redis").RedisLedger
    imported = import_all(tree)
    called = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and is_on_ledger(n)]

    assert "connected" in imported
    for call in called:
        assert isinstance(call.func, ast.Attribute)
        bind(getattr(ledger, call.func.attr), call, bound=True)
    assert called


def is_on_ledger(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "system.ledger"


#: Whoever writes a command of another program into a document says here how it is checked.
PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "cp": check_cp,
    "diagnosis": check_diagnosis,
    "docker": check_docker,
    "kubectl": check_kubectl,
    "make": check_make,
    "python": check_python,
    "redis-cli": check_redis_cli,
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_command_that_is_named_in_a_sentence_exists(document: Document) -> None:
    for span in document.code_spans:
        words = re.sub(r"^(\.venv/bin/|docker .* |kubectl .* )(?=diagnosis )", "", span).split()
        if words[0] == "make":
            check_make(words[1:2])
        elif words[0] == "diagnosis" and words[1:] and re.fullmatch(r"[a-z]+", words[1]):
            command = cli.commands[words[1]]
            options = {option for each in command.params for option in each.opts}
            assert {word for word in words[2:] if word.startswith("--")} <= options, span


def test_the_workers_of_the_readme_serve_every_queue() -> None:
    queues = [
        queue
        for name, argv in SHELL.items()
        if name.startswith("README.md") and argv[:2] == ["diagnosis", "worker"]
        for queue in argv[argv.index("--queues") + 1].split(",")
    ]

    assert sorted(queues) == sorted(queue.value for queue in Queue)


# ------------------------------------------------------------------------------------------- python


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_calls_what_exists_as_it_wants_to_be_called(snippet: str) -> None:
    tree = ast.parse(snippet)
    names = import_all(tree)
    # `client = Client(…)`: what is called on `client` is the class's.
    for assigned, call in assignments(tree):
        if isinstance(call.func, ast.Name) and call.func.id in names:
            names[assigned] = names[call.func.id]

    bound = [bind_call(call, names) for call in ast.walk(tree) if isinstance(call, ast.Call)]

    assert any(bound)


def test_the_requests_of_the_snippets_are_taken() -> None:
    plain = next(s for s in SNIPPETS if "import celery" in s)
    literal = next(n for n in ast.walk(ast.parse(plain)) if isinstance(n, ast.Dict) and n.keys[3:])
    typed = next(s for s in SNIPPETS if "DiagnoseRequest(" in s)
    call = next(
        n
        for n in ast.walk(ast.parse(typed))
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "DiagnoseRequest"
    )

    for fields in (
        ast.literal_eval(literal),
        {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords},
    ):
        fields["bundle"] = fields["bundle"].replace("<sha256>", "0" * 64)
        assert parse_request(fields).session_id == "airline-2026-11-22"


def test_a_plain_celery_client_is_told_the_workers_prefix_queue_and_task() -> None:
    plain = next(s for s in SNIPPETS if "import celery" in s)
    task = importlib.import_module("worker.messages").DIAGNOSE

    assert f'"{task}"' in plain
    assert f'queue="{Queue.CONTROL.value}"' in plain
    prefix = Settings.model_fields["key_prefix"].default
    assert plain.count(f'{{"global_keyprefix": "{prefix}:"}}') == 2


def test_the_result_of_the_local_runner_has_what_the_snippet_reads() -> None:
    local = next(s for s in SNIPPETS if "DiagnosisRunner" in s)
    read = set(re.findall(r"\bresult\.(\w+)", local))

    assert read
    assert read <= set(inspect.signature(DiagnosisResult).parameters)


def import_all(tree: ast.AST) -> dict[str, Any]:
    """Return what the import statements of a snippet bring in."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name: importlib.import_module(alias.name) for alias in node.names}
    return names


def assignments(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            (target,) = node.targets
            if isinstance(target, ast.Name):
                yield target.id, node.value


def bind_call(call: ast.Call, names: dict[str, Any]) -> bool:
    """Check a call of something that was imported; return whether it is one."""
    match call.func:
        case ast.Name(id=name) if name in names:
            bind(names[name], call)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in names:
            method = getattr(names[name], attribute)
            bind(method, call, bound=inspect.isclass(names[name]) and inspect.isfunction(method))
        case _:
            return False
    return True


def bind(function: Callable[..., Any], call: ast.Call, *, bound: bool = False) -> None:
    """Check that a function takes these arguments.

    Raises:
        TypeError: It does not.
    """
    keywords = {str(keyword.arg): None for keyword in call.keywords}
    inspect.signature(function).bind(*([None] * (len(call.args) + bound)), **keywords)


# ------------------------------------------------------------------------------------- what is named


def test_the_readme_lists_every_command() -> None:
    listed = [row[0].strip("`") for row in README.table("command")]

    assert listed == [f"diagnosis {name}" for name in cli.commands]


def test_the_readme_lists_every_artifact_and_outcome() -> None:
    source = inspect.getsource(bodies)
    written = [*re.findall(r'"([\w/]+\.(?:md|jsonl?))"', source), "manifest.json"]

    assert sorted(row[0].strip("`") for row in README.table("artifact")) == sorted(written)
    assert {row[0].strip("`") for row in README.table("outcome")} == set(Outcome)


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_setting_that_is_named_exists(document: Document) -> None:
    known = {f"DIAGNOSIS_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bDIAGNOSIS_[A-Z0-9_]*[A-Z0-9]", document.text))

    unknown = {name for name in named if name.split("__")[0] not in known}
    assert unknown <= {"DIAGNOSIS_CONFIG"}


def test_every_celery_setting_is_explained_and_none_that_is_not_set() -> None:
    tree = ast.parse((ROOT / "worker" / "celeryconfig.py").read_text())
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    }
    rows = {name for row in CELERY.table("setting") for name in re.findall(r"`(\w+)`", row[0])}

    assert names - set(CELERY.code_spans) == set()
    assert rows <= names


def test_every_test_that_the_architecture_names_exists() -> None:
    named = [span for span in ARCHITECTURE.code_spans if span.startswith("tests/")]

    assert len(named) > len(ARCHITECTURE.table("law"))
    for span in named:
        path, _, name = span.partition("::")
        assert f"\ndef {name}(" in (ROOT / path).read_text(), span


def test_the_architecture_has_all_laws() -> None:
    numbers = [row[0].partition(".")[0] for row in ARCHITECTURE.table("law")]

    assert numbers == [str(number) for number in range(1, 12)]


def test_the_architecture_names_every_module_and_script() -> None:
    spans = {span.rstrip("/").rpartition("/")[2] for span in ARCHITECTURE.code_spans}
    core = {path.name for path in (ROOT / "worker" / "core").glob("[a-z]*")}
    top = {path.name for path in (ROOT / "worker").glob("[a-z]*")}
    scripts = {path.name for path in (ROOT / "worker").rglob("*.lua")}

    assert core - spans == set()
    assert scripts - spans == set()
    assert top - spans == UNTOLD, "a new module needs a line in ARCHITECTURE.md"


#: Modules whose names say all that there is to say.
UNTOLD = {
    *("clock.py", "errors.py", "lazy.py", "ports"),
    *("redis_connection.py", "settings.py", "telemetry"),
}


def test_every_file_that_is_named_with_its_folder_exists() -> None:
    for name, document in DOCUMENTS.items():
        if name in {f"docs/{page}" for page in PAGES}:
            continue
        for span in document.code_spans:
            if re.fullmatch(r"(worker|tasks|deploy|docs)/[\w./]+", span):
                assert (ROOT / span).exists(), f"{name}: {span}"


def test_every_kind_of_event_is_in_the_pages_and_every_phase_in_the_architecture() -> None:
    phases = importlib.import_module("worker.core.values").Phase
    kinds = get_args(importlib.import_module("worker.core.events").Event)

    assert [phase for phase in phases if f"`{phase.value}`" not in ARCHITECTURE.text] == []
    assert len(kinds) == DOCUMENTS["docs/events.md"].text.count("\n### ")
