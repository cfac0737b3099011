"""Whatever comes from outside is wrong: errors are clear, every session ends, no worker dies.

Rule: one fleet of real processes takes the whole corpus (`tests/corpus`). Sessions of a case run side
by side; a fixture plays them all and its tests look at what came of each. The last test counts the
workers: they are the ones that were started.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from tests.corpus.bad_bundles import BadBundle, bad_bundles
from tests.corpus.bad_messages import raw_items
from tests.corpus.bad_replies import (
    END,
    BadReply,
    Fault,
    arguments_of_every_tool,
    bad_endings,
    bad_replies,
    calls,
    faults,
    text,
)
from tests.corpus.bad_requests import bad_requests
from tests.fleets import Harness
from tests.unit.bundle.homes import make_home
from tests.waiting import until
from worker import bootstrap
from worker.cli.enqueue import upload_home
from worker.client import Client
from worker.core import keys
from worker.embedded.fleet import Fleet, WorkerPlan
from worker.embedded.process import free_ports, log_shows
from worker.embedded.stack import EmbeddedStack
from worker.errors import RequestInvalid
from worker.messages import DIAGNOSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("240")]

#: Simulated teachers that follow scripts: sessions of one follow each other.
SCRIPTED = ("one", "two", "three")
#: The teacher of the one session that has the student run; it takes as long as the student's faults.
PATIENT = "patient"
WORKERS = (
    WorkerPlan(name="main", queues="control,tools,teacher,artifacts", concurrency=16),
    WorkerPlan(name="second", queues="control,tools,teacher,artifacts,student", concurrency=24),
)
#: A budget of the fleet that no test comes near.
RICH = {"fleet": 1000.0, "tenant:default": 1000.0, "campaign:default": 1000.0}
TIMEOUT_MS = 700

#: task -> what is recorded for it; the reference is always "42".
OUTPUTS = {
    "right": "42",
    "wrong": "41",
    "null": "42",
    "cut": "42",
    "limited": "42",
    "down": "42",
    "broken": "42",
    "slow": "42",
    "huge": "42",
    "dropped": "42",
    "gone": "42",
}
#: What the student's server does to requests for a task; see `playback.Fault`.
STUDENT_FAULTS: list[dict[str, Any]] = [
    {"task_id": "null", "null_content": True},
    {"task_id": "cut", "cut": True},
    {"task_id": "limited", "times": 1, "status": 429, "retry_after": "1"},
    {"task_id": "down", "status": 503},
    {"task_id": "broken", "body": '{"choices": ['},
    {"task_id": "slow", "delay_ms": 2 * TIMEOUT_MS},
    {"task_id": "huge", "body": "x" * 9_000_000},
    {"task_id": "dropped", "drop": True},
    {"task_id": "gone", "status": 404},
]


class _Untold:
    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell nobody: the workers sweep."""


def _never(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError("the tests' own process concludes nothing")


@dataclass
class Yard:
    """The fleet, and the addresses of its scripted teachers."""

    harness: Harness
    teachers: dict[str, str]
    #: Process ids of the workers as they were started.
    workers: dict[str, int]
    #: The session that has the student run, which goes on beside all the tests before its own.
    student_runs: Future[Played] = field(default_factory=Future["Played"])

    def session(self, teacher: str, prefix: str, **fields: Any) -> str:
        """Enqueue a session of a teacher."""
        session_id = _new(prefix)
        self.harness.client.enqueue(self.harness.request(session_id, teacher=teacher, **fields))
        return session_id

    def ask(self, teacher: str, path: str, body: object) -> None:
        """Tell a scripted teacher what to do."""
        self.harness.asked(path, body, of=self.teachers[teacher])


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a session."""

    session_id: str
    result: DiagnoseResult
    seconds: float
    teacher: str


def _new(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A fleet for this module alone: nobody else shall meet what it is fed."""
    directory = tmp_path_factory.mktemp("yard")
    home = _home(directory / "home")
    with EmbeddedStack(directory / "stack", llama=False) as stack:
        fleet = Fleet(stack)
        default = fleet.add_simulated_teacher()
        teachers = {name: fleet.add_simulated_teacher(name=name) for name in (*SCRIPTED, PATIENT)}
        fleet.set(BUDGETS=json.dumps(RICH), STUDENTS__DEFAULT__TIMEOUT_MS=str(TIMEOUT_MS))
        fleet.add_student("default", base_url=_student(stack, home, directory), model="recorded")
        programs = fleet.start_workers(WORKERS)
        settings = fleet.settings()
        system = bootstrap.build(settings, hints=_Untold(), publish=_never)
        client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
        uri = upload_home(home, system.artifacts)
        harness = Harness(fleet, system, client, uri, default, default)
        yard = Yard(harness, teachers, {p.info.name: p.info.pid or 0 for p in programs})
        with ThreadPoolExecutor(1) as pool:
            yard.student_runs = pool.submit(_play_student, yard)
            yield yard
        client.close()
        system.close()


def _home(directory: Path) -> Path:
    """Make a home with a task for every way in which a student's server can fail."""
    return make_home(
        directory,
        traces=[
            {"trace_id": f"tr-{n}", "query": f"q {n}", "agent": "a", "outcome": "failure"}
            for n in range(8)
        ],
        samples=[
            {
                "trace_id": task_id,
                "query": f"What is the answer ({task_id})?",
                "reference_answer": "42",
                "metadata": {"scorer": "exact"},
            }
            for task_id in OUTPUTS
        ],
        prompts={"a": "Answer."},
        tools='[get_user]\ndescription = "Looks a user up."\n',
    )


def _student(stack: EmbeddedStack, home: Path, directory: Path) -> str:
    """Start the student's server, with its plan of faults; return its address."""
    runs = [
        {"task_id": task_id, "attempt": 0, "trace_id": f"run-{task_id}", "output": output}
        for task_id, output in OUTPUTS.items()
    ]
    (directory / "runs.jsonl").write_text("\n".join(map(json.dumps, runs)), encoding="utf-8")
    (directory / "faults.json").write_text(json.dumps(STUDENT_FAULTS), encoding="utf-8")
    (port,) = free_ports(1)
    stack.add_process(
        "student",
        [
            *(sys.executable, "-m", "worker.student.playback", "--port", str(port)),
            *("--runs", str(directory / "runs.jsonl")),
            *("--benchmark", str(home / "benchmark.json")),
            *("--faults", str(directory / "faults.json")),
        ],
        ready=log_shows("ready http"),
    )
    return f"http://127.0.0.1:{port}/v1"


def _play(yard: Yard, jobs: Iterable[Callable[[str], Played]]) -> list[Played]:
    """Play jobs on the scripted teachers, one at a time on each; keep their order."""
    waiting = list(enumerate(jobs))
    played: dict[int, Played] = {}
    lock = threading.Lock()

    def work(teacher: str) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                place, job = waiting.pop(0)
            played[place] = job(teacher)

    with ThreadPoolExecutor(len(SCRIPTED)) as pool:
        for done in [pool.submit(work, teacher) for teacher in SCRIPTED]:
            done.result()
    return [played[place] for place in sorted(played)]


def _scripted(yard: Yard, replies: Sequence[dict[str, Any]], teacher: str, **fields: Any) -> Played:
    """Play a session whose explorer follows a script."""
    yard.ask(teacher, "/_sim/reset", {"only": ["script", "faults"]})
    yard.ask(teacher, "/_sim/script", {"replies": list(replies), "kind": "explorer"})
    fields.setdefault("limits", {"max_turns": len(replies)})
    return _ended(yard, teacher, "reply", **fields)


def _faulty(yard: Yard, case: Fault, teacher: str) -> Played:
    """Play a session while the teacher's API has faults."""
    yard.ask(teacher, "/_sim/reset", {"only": ["script", "faults"]})
    yard.ask(teacher, "/_sim/faults", {"faults": list(case.faults)})
    # The one before may have stopped the account for everybody, or asked for a day.
    yard.harness.system.limiter.lift(yard.harness.system.settings.teachers[teacher].account)
    return _ended(yard, teacher, "fault", limits=case.limits)


def _ended(yard: Yard, teacher: str, prefix: str, **fields: Any) -> Played:
    began_s = time.monotonic()
    session_id = yard.session(teacher, prefix, **fields)
    result = yard.harness.wait(session_id)
    return Played(
        session_id=session_id,
        result=result,
        seconds=time.monotonic() - began_s,
        teacher=teacher,
    )


def _check_ended(yard: Yard, played: Played, *, unknown: bool = False) -> None:
    """Check what holds for every session: a reason, all artifacts, and a bill that is covered."""
    assert played.result.outcome in {"concluded", "inconclusive", "failed"}
    assert played.result.reason.strip()
    files = yard.harness.artifacts(played.session_id)
    assert set(files) >= {"diagnosis.md", "clusters.json", "costs.jsonl", "session.json"}
    assert files["diagnosis.md"].strip()
    account = yard.harness.system.ledger.account(f"session:{played.session_id}")
    assert account is not None
    costs = [json.loads(line) for line in files["costs.jsonl"].splitlines()]
    billed = _billed(
        yard, played.teacher, {row["request_id"] for row in costs if row["request_id"]}
    )
    assert account.held_nusd == 0
    assert sum(row["actual_nusd"] for row in costs) == account.posted_nusd <= account.cap_nusd
    if unknown:
        assert billed <= account.posted_nusd
        assert account.unknown_nusd > 0
    else:
        assert billed == account.posted_nusd
        assert account.unknown_nusd == 0


def _billed(yard: Yard, teacher: str, request_ids: set[str]) -> int:
    lines = yard.harness.asked("/_sim/bill", of=yard.teachers[teacher])["entries"]
    return sum(line["amount_nano_usd"] for line in lines if line["request_id"] in request_ids)


# --------------------------------------------------------------------------------------- requests


@pytest.fixture(scope="module")
def producer(yard: Yard) -> Iterator[Celery]:
    """A Celery application that knows nothing of ours but the broker."""
    settings = yard.harness.fleet.settings()
    app = Celery("somebody", broker=settings.broker, backend=settings.results, set_as_current=False)
    options = {"global_keyprefix": f"{settings.key_prefix}:"}
    app.conf.update(broker_transport_options=options, result_backend_transport_options=options)
    yield app
    app.close()


def _send(producer: Celery, body: object, session_id: str) -> str:
    producer.send_task(
        DIAGNOSE, args=(body,), task_id=session_id, queue="control", ignore_result=True
    )
    return session_id


def _refusal(producer: Celery, session_id: str) -> BaseException:
    """Return what a request was refused with, as any client reads it."""
    meta = until(
        f"an answer to {session_id}",
        lambda: _ready(producer.backend.get_task_meta(session_id, cache=False)),
    )
    assert meta["status"] == "FAILURE"
    return meta["result"]


def _ready(meta: dict[str, Any]) -> dict[str, Any] | None:
    return meta if meta["status"] in {"FAILURE", "SUCCESS"} else None


def test_every_bad_request_is_refused_by_its_field_and_leaves_nothing(
    yard: Yard, producer: Celery
) -> None:
    settings = yard.harness.fleet.settings()
    run = _new("bad")

    sent = [
        (case, _send(producer, case.body, f"{run}-{place}"))
        for place, case in enumerate(bad_requests(yard.harness.bundle_uri))
    ]
    refusals = [(case, _refusal(producer, session_id)) for case, session_id in sent]

    wrong = [
        (case.name, refusal)
        for case, refusal in refusals
        if type(refusal).__name__ != case.error or not re.search(case.says, str(refusal))
    ]
    assert not wrong
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        left = [key for words in (run, "nobody", "another") for key in client.keys(f"*{words}*")]
    assert not left, "no session, no account and no held money stays of a refused request"


def test_a_refusal_can_be_read_without_our_package(yard: Yard, producer: Celery) -> None:
    settings = yard.harness.fleet.settings()
    session_id = _send(producer, {"bundle": "s3://nowhere"}, _new("foreign"))
    _refusal(producer, session_id)
    code = (
        "import sys, celery\n"
        "from celery.result import AsyncResult\n"
        "broker, results, prefix, session_id = sys.argv[1:]\n"
        "app = celery.Celery('x', broker=broker, backend=results)\n"
        "app.conf.result_backend_transport_options = {'global_keyprefix': prefix}\n"
        "try: AsyncResult(session_id, app=app).get(timeout=10)\n"
        "except Exception as exc: print(type(exc).__name__, '|', exc)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('worker', 'tasks')]\n"
    )

    said = subprocess.run(
        [
            *(sys.executable, "-c", code),
            *(settings.broker, settings.results, f"{settings.key_prefix}:", session_id),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert said.stdout.startswith("RequestInvalid | bundle: 's3://nowhere' cannot be used")


def test_a_request_that_is_corrected_runs_under_the_same_id(yard: Yard) -> None:
    session_id = _new("mended")
    bad = yard.harness.request(session_id, tenant="nobody", limits={"max_turns": 1})
    yard.harness.client.enqueue(bad)
    with pytest.raises(RequestInvalid, match="tenant: the account 'tenant:nobody' does not exist"):
        yard.harness.wait(session_id)

    result = yard.harness.run(session_id, limits={"max_turns": 1})

    assert result.outcome in {"concluded", "inconclusive"}


def test_a_bad_request_under_the_id_of_a_session_changes_nothing(
    yard: Yard, producer: Celery
) -> None:
    session_id = yard.session("default", "twice", limits={"max_turns": 1})
    until("the session", lambda: yard.harness.system.journal.labels(session_id))

    _send(producer, {"bundle": "nonsense"}, session_id)
    first = yard.harness.wait(session_id)
    _send(producer, None, session_id)
    marker = _send(producer, None, _new("marker"))
    _refusal(producer, marker)

    assert first.session_id == session_id
    assert producer.backend.get_task_meta(session_id, cache=False)["status"] == "SUCCESS"


# --------------------------------------------------------------------------------------- messages


def test_what_is_no_message_costs_a_line_in_the_log(yard: Yard) -> None:
    settings = yard.harness.fleet.settings()
    queues = [f"{settings.key_prefix}:{name}" for name in ("control", "teacher")]

    with redis.Redis.from_url(settings.broker) as broker:
        for queue in queues:
            broker.lpush(queue, *raw_items().values())
        until("empty queues", lambda: not any(broker.llen(queue) for queue in queues))
        unacknowledged = f"{settings.key_prefix}:unacked"
        until("nothing that comes back", lambda: not broker.hlen(unacknowledged))

    result = yard.harness.run(_new("after"), limits={"max_turns": 1})
    assert result.outcome in {"concluded", "inconclusive"}
    said = yard.harness.logs()
    for words in (
        "no message dropped",
        "message dropped",
        "Refusing to deserialize",
        "hint refused",
    ):
        assert words in said
    assert "Unrecoverable error" not in said


# ---------------------------------------------------------------------------------------- bundles

BUNDLES = bad_bundles()


@pytest.fixture(scope="module")
def with_bundles(yard: Yard) -> dict[str, DiagnoseResult]:
    """What came of a session of each bad bundle; they all ran side by side."""
    sent = {
        case.name: yard.session(
            "default", "bundle", bundle=_stored(yard, case), limits={"max_turns": 2}
        )
        for case in BUNDLES
    }
    return {name: yard.harness.wait(session_id) for name, session_id in sent.items()}


def _stored(yard: Yard, case: BadBundle) -> str:
    artifacts = yard.harness.system.artifacts
    key = keys.bundle(case.sha256 or hashlib.sha256(case.body).hexdigest())
    artifacts.put(key, case.body, content_type="application/gzip")
    return artifacts.uri(key)


@pytest.mark.parametrize("case", BUNDLES, ids=[case.name for case in BUNDLES])
def test_a_bad_bundle_ends_its_session_with_the_reason(
    yard: Yard, with_bundles: dict[str, DiagnoseResult], case: BadBundle
) -> None:
    result = with_bundles[case.name]

    if case.says:
        assert result.outcome == "failed"
        assert case.says in result.reason
        assert result.cost_nusd == 0, "nobody was asked"
    else:
        assert result.outcome in {"concluded", "inconclusive"}
    assert yard.harness.artifacts(result.session_id)["diagnosis.md"].strip()


# ---------------------------------------------------------------------------------------- replies

REPLIES = bad_replies()
ENDINGS = bad_endings()
FAULTS = faults()


@pytest.fixture(scope="module")
def after_replies(yard: Yard) -> dict[str, Played]:
    """What came of a session of each bad reply."""
    jobs = [
        functools.partial(
            _scripted,
            yard,
            case.replies,
            limits={"max_turns": case.max_turns or max(len(case.replies), 2)},
        )
        for case in REPLIES
    ]
    return dict(zip([case.name for case in REPLIES], _play(yard, jobs), strict=True))


@pytest.mark.parametrize("case", REPLIES, ids=[case.name for case in REPLIES])
def test_a_bad_reply_ends_or_is_answered(
    yard: Yard, after_replies: dict[str, Played], case: BadReply
) -> None:
    played = after_replies[case.name]

    assert re.search(case.says, played.result.reason), played.result.reason
    _check_ended(yard, played)


@pytest.fixture(scope="module")
def after_endings(yard: Yard) -> dict[str, Played]:
    """What came of a session of each broken ending."""
    jobs = [functools.partial(_scripted, yard, [text(words)]) for words in ENDINGS.values()]
    return dict(zip(ENDINGS, _play(yard, jobs), strict=True))


@pytest.mark.parametrize("name", ENDINGS)
def test_a_broken_list_of_clusters_is_read_or_asked_for_again(
    yard: Yard, after_endings: dict[str, Played], name: str
) -> None:
    played = after_endings[name]

    diagnosis = yard.harness.artifacts(played.session_id)["diagnosis.md"]
    assert "The student fails." in diagnosis, "the teacher's words are kept"
    for cluster in played.result.clusters:
        assert cluster.evidence == "claimed", "nothing was run"
    _check_ended(yard, played)


def test_every_wrong_argument_of_every_tool_is_answered(yard: Yard) -> None:
    made = arguments_of_every_tool()
    jobs = [
        functools.partial(
            _scripted,
            yard,
            [*(calls(*given[at : at + 60]) for at in range(0, len(given), 60)), END],
            limits={"max_turns": 30, "max_tool_calls": 2_000},
        )
        for given in made.values()
    ]

    played = dict(zip(made, _play(yard, jobs), strict=True))

    for tool, session in played.items():
        _check_ended(yard, session)
        rows = yard.harness.rows(session.session_id, "teacher_traces/diagnose.jsonl")
        assert len(rows) == len(made[tool]), f"{tool}: every call has its result"
        for row in rows:
            shown = f"{tool} {json.dumps(row['args'])[:80]}: {row['result'][:200]}"
            assert len(row["result"]) <= 20_000, shown
            assert json.loads(row["result"]) is not None, shown
            for leak in ("root:", "Traceback", "given up", "sqlite", "/work", "worker/"):
                assert leak not in row["result"], shown


@pytest.fixture(scope="module")
def after_faults(yard: Yard) -> dict[str, Played]:
    """What came of a session of each fault of the teacher's API."""
    jobs = [functools.partial(_faulty, yard, case) for case in FAULTS]
    return dict(zip([case.name for case in FAULTS], _play(yard, jobs), strict=True))


@pytest.mark.parametrize("case", FAULTS, ids=[case.name for case in FAULTS])
def test_a_fault_of_the_teachers_api_ends_or_is_waited_out(
    yard: Yard, after_faults: dict[str, Played], case: Fault
) -> None:
    played = after_faults[case.name]

    assert re.search(case.says, played.result.reason), played.result.reason
    assert played.seconds < case.seconds
    _check_ended(yard, played, unknown=case.unknown)


# --------------------------------------------------------------------------------------- students


def _play_student(yard: Yard) -> Played:
    """Have the student run twice on a task for every way in which its server can fail."""
    sample = {"description": "It miscounts.", "skill_gap": "Counting."}
    clusters = [
        {**sample, "id": "mixed", "sample_trace_ids": ["right", "wrong", "down", "slow", "gone"]},
        {**sample, "id": "faults", "sample_trace_ids": ["down", "broken", "huge", "dropped"]},
    ]
    replies = [
        calls(("run_student_on_tasks", {"task_ids": list(OUTPUTS), "repeats": 2})),
        calls(("submit_diagnosis", {"diagnosis_md": "It miscounts.", "clusters": clusters})),
    ]
    return _scripted(yard, replies, PATIENT)


def test_a_fault_of_the_students_server_is_never_an_answer(yard: Yard) -> None:
    played = yard.student_runs.result(timeout=120)

    rows = yard.harness.rows(played.session_id, "runs.jsonl")
    outcomes = {row["task_id"]: row["outcome"] for row in rows}
    assert len(rows) == 2 * len(OUTPUTS)
    answered = {"right": "answered", "wrong": "answered", "limited": "answered"}
    faulty = dict.fromkeys(("down", "broken", "slow", "huge", "dropped", "gone"), "fault")
    assert outcomes == {**answered, **faulty, "null": "empty", "cut": "cut"}
    for row in rows:
        if row["outcome"] == "fault":
            assert (row["score"], row["passed"], row["output"]) == (None, None, None)
            assert row["why"], "a fault has its reason"
    mixed, faults_only = played.result.clusters
    assert mixed.student_failure_rate == 0.5, "two of four runs that count"
    assert faults_only.student_failure_rate is None
    assert faults_only.evidence == "claimed"
    _check_ended(yard, played)


# ----------------------------------------------------------------------------------- command line


def _diagnosis(yard: Yard, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process, with the fleet's settings and these."""
    ours = {f"DIAGNOSIS_{name}": value for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        env={**os.environ, **yard.harness.fleet.environment, **ours},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


AWAY = "redis://127.0.0.1:1/0"
#: name -> arguments, settings, exit code, what is said.
COMMANDS: dict[str, tuple[list[str], dict[str, str], int, str]] = {
    "Redis is away": (["status"], {"REDIS_URL": AWAY}, 4, "Redis did not answer"),
    "no results": (["result", "s-1"], {"RESULT_URL": AWAY}, 4, "the result store did not answer"),
    "no broker": (
        ["enqueue", "--bundle", f"s3://diagnosis/bundles/{'0' * 64}.tar.gz"],
        {"BROKER_URL": AWAY},
        4,
        "the broker did not take the request",
    ),
    "no object store": (
        ["enqueue", "--home", "HOME"],
        {"S3_ENDPOINT": "http://127.0.0.1:1"},
        4,
        "Could not connect to the endpoint",
    ),
    "another key": (
        ["enqueue", "--home", "HOME"],
        {"S3_SECRET_KEY": "not-the-one"},
        7,
        "The access key, its secret or its permissions are wrong",
    ),
    "no session": (["status", "nobody"], {}, 5, "there is no session 'nobody'"),
    "nothing to watch": (["watch", "nobody", "--wait-s", "0"], {}, 5, "there is no session"),
}


@pytest.fixture(scope="module")
def commands(yard: Yard) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each command said; they run side by side, since most of their time they wait."""
    home = str(yard.harness.fleet.stack.directory.parent / "home")

    def run(name: str) -> subprocess.CompletedProcess[str]:
        arguments, variables, _, _ = COMMANDS[name]
        own = [home if argument == "HOME" else argument for argument in arguments]
        return _diagnosis(yard, *own, **variables)

    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        return dict(zip(COMMANDS, pool.map(run, COMMANDS), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_away_or_unknown_is_a_sentence_and_an_exit_code(
    commands: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    _, _, code, says = COMMANDS[name]

    said = commands[name]

    assert said.returncode == code, said.stderr
    assert says in said.stderr
    assert "Traceback" not in said.stderr
    assert said.stdout == ""


def test_doctor_finds_every_server_that_is_away(yard: Yard) -> None:
    said = _diagnosis(
        yard, "doctor", "--json", REDIS_URL=AWAY, BROKER_URL=AWAY, S3_ENDPOINT="http://127.0.0.1:1"
    )

    checks = {check["name"]: check for check in map(json.loads, said.stdout.splitlines())}
    assert said.returncode == 7
    for name in ("redis", "broker", "object store"):
        assert checks[name]["state"] == "fail"
        assert checks[name]["cure"]
    assert checks["teacher default"]["state"] == "ok"


def test_a_session_that_has_ended_is_watched_once_and_a_refused_one_is_told_at_once(
    yard: Yard, producer: Celery
) -> None:
    session_id = _new("ended")
    yard.harness.run(session_id, limits={"max_turns": 1})
    refused = _send(producer, {"bundle": yard.harness.bundle_uri, "student": "x"}, _new("no"))
    _refusal(producer, refused)

    watched = _diagnosis(yard, "watch", session_id)
    listed = _diagnosis(yard, "status", "--json")
    told = _diagnosis(yard, "watch", refused, "--wait-s", "600")

    assert watched.returncode == 6
    assert f"{session_id} · inconclusive" in watched.stdout
    assert "artifacts: s3://" in watched.stdout
    assert "\x1b" not in watched.stdout, "this is no terminal"
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert session_id in [row["session_id"] for row in rows]
    assert told.returncode == 3
    assert told.stderr.startswith("diagnosis: student: 'x' is not in this worker's settings")


# -------------------------------------------------------------------------------------- in the end


def test_every_worker_is_still_the_one_that_was_started(yard: Yard) -> None:
    for pid in yard.workers.values():
        os.kill(pid, 0)
    now = {info.name: info.pid for info in yard.harness.fleet.stack.processes()}
    assert yard.workers.items() <= now.items()
    journal, ledger = yard.harness.system.journal, yard.harness.system.ledger
    until("an empty due set", lambda: not journal.overdue())
    assert all(account.held_nusd == 0 for account in ledger.accounts())
    crashes = [yard.harness.asked("/_sim/log", of=url)["crashes"] for url in yard.teachers.values()]
    assert not any(crashes), "the simulator itself must not fail"
