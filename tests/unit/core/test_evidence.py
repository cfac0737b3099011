"""Claims are checked against runs, and every session ends in one way, with a reason.

Rule: numbers are compared with a count made another way: by hand, from recorded truth, or by the
textbook's formula.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.strategies import histories
from tests.unit.core.told import Told, cluster, ending
from worker.core.events import (
    CancelRequested,
    DeadlinePassed,
    PreparationFailed,
    RunRecorded,
    TeacherStopped,
)
from worker.core.evidence import (
    CheckedCluster,
    Evidence,
    Share,
    Tally,
    check,
    conclude_outcome,
    fisher_two_sided,
    run_tasks,
    tally,
    task_table,
)
from worker.core.machine import Run, Session, fold
from worker.core.values import (
    Ending,
    Outcome,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    Stop,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

TASKS = ("date-01", "date-02", "date-03", "sum-01", "sum-02", "sum-03")
TRACES = {"tr-1": "date-01", "tr-2": "date-01", "tr-3": "date-02", "tr-9": None, "tr-x": "gone-01"}
TAU = Path(__file__).parents[3].parent / "shared" / "data" / "tau-airline-home"

OUTCOMES = st.sampled_from(RunOutcome)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Draw a run at any stage."""
    runner, outcome = draw(st.sampled_from(Runner)), draw(OUTCOMES)
    spec = RunSpec(task_id=draw(st.sampled_from(TASKS)), attempt=draw(st.integers(0, 3)))
    if draw(st.integers(0, 5)) == 0:
        return Run(spec=spec, runner=runner)
    passed = None if outcome is RunOutcome.FAULT else draw(st.none() | st.booleans())
    record = RunRecorded(
        turn=1,
        index=0,
        ordinal=draw(st.integers(0, 99)),
        runner=runner,
        spec=spec,
        outcome=outcome,
        passed=passed,
        needs_judge=draw(st.booleans()) if passed is None else False,
    )
    return Run(spec=spec, runner=runner, record=record)


def checked(told: Told) -> tuple[CheckedCluster, ...]:
    session = told.session
    return check(session.ending, session.runs, TASKS, TRACES)


def only(told: Told) -> CheckedCluster:
    (found,) = checked(told)
    return found


def concluded(told: Told) -> tuple[Outcome, str]:
    return conclude_outcome(told.session, checked(told))


# ------------------------------------------------------------------------------------------ counts


@given(st.lists(runs(), max_size=30))
def test_every_run_is_counted_in_one_place(made: list[Run]) -> None:
    student, teacher = tally(made, Runner.STUDENT), tally(made, Runner.TEACHER)

    assert student.asked + teacher.asked == len(made)
    assert student.counted == sum(run.counts for run in made if run.runner is Runner.STUDENT)
    assert student.failed == sum(
        run.counts and not run.passed for run in made if run.runner is Runner.STUDENT
    )
    assert student.tasks <= min(student.counted, len(TASKS))


@given(st.lists(runs(), max_size=30))
def test_the_table_of_tasks_adds_up_to_all_runs(made: list[Run]) -> None:
    table = task_table(made)

    assert [row.task_id for row in table] == sorted({run.spec.task_id for run in made})
    for runner in Runner:
        rows = [getattr(row, runner.value) for row in table]
        whole = tally(made, runner)
        for name in ("passed", "failed", "faults", "unjudged", "unfinished", "tasks"):
            assert sum(getattr(row, name) for row in rows) == getattr(whole, name)


@given(st.lists(runs(), max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_runs_does_not_matter(made: list[Run], chance: random.Random) -> None:
    given_ending = ending(cluster("a", "date-01", "tr-3"), cluster("b", "sum-01"))
    before = check(given_ending, made, TASKS, TRACES)

    chance.shuffle(made)

    assert check(given_ending, iter(made), TASKS, TRACES) == before


@given(st.lists(runs(), max_size=20), st.integers(0, 5))
def test_a_fault_changes_no_rate(made: list[Run], place: int) -> None:
    given_ending = ending(cluster("a", *TASKS[:3]))
    spec = RunSpec(task_id="date-01", attempt=9)
    record = RunRecorded(
        turn=1, index=0, ordinal=0, runner=Runner.STUDENT, spec=spec, outcome=RunOutcome.FAULT
    )
    fault = Run(spec=spec, runner=Runner.STUDENT, record=record)

    (before,) = check(given_ending, made, TASKS, TRACES)
    (after,) = check(given_ending, [*made[:place], fault, *made[place:]], TASKS, TRACES)

    assert after == replace(
        before, student=replace(before.student, faults=before.student.faults + 1)
    )


# ------------------------------------------------------------------------------------------- rates


def test_rates_are_measured_and_claims_stand_beside_them() -> None:
    told = (
        Told.prepared()
        .students(date_01="fffp", date_02="ffx", date_03="fju", sum_01="ppp", sum_02="pf")
        .teacher(date_01="p", date_02="pf", date_03="p")
        .submits(
            ending(
                cluster(
                    "dates",
                    "date-01",
                    "tr-3",
                    "date-03",
                    student_failure_rate=0.2,
                    teacher_success_rate=1.0,
                )
            )
        )
    )

    found = only(told)

    assert found.task_ids == ("date-01", "date-02", "date-03")
    # 3 of 4, 2 of 2 and a fault, 1 and a judge's 1 of 2 and one without a verdict.
    assert found.student == Tally(passed=1, failed=7, faults=1, unjudged=1, tasks=3)
    assert found.student_failure_rate == 7 / 8
    assert found.teacher == Tally(passed=3, failed=1, tasks=3)
    assert found.teacher_success_rate == 3 / 4
    assert found.claimed_student_failure_rate == 0.2
    assert found.claimed_teacher_success_rate == 1.0
    assert found.student_elsewhere == Share(hits=1, total=5)
    assert found.evidence is Evidence.MEASURED


def test_a_claim_without_runs_has_no_rates() -> None:
    told = (
        Told.prepared()
        .students(sum_01="fff")
        .submits(ending(cluster("dates", "date-01", student_failure_rate=0.9)))
    )

    found = only(told)

    assert found.student_failure_rate is None
    assert found.teacher_success_rate is None
    assert found.student.failures.interval_95 is None
    assert found.p_value_vs_rest is None
    assert found.evidence is Evidence.CLAIMED
    assert found.claimed_student_failure_rate == 0.9


def test_made_up_ids_are_dropped_by_name() -> None:
    told = (
        Told.prepared()
        .students(date_01="f")
        .submits(ending(cluster("dates", "made-up", "tr-1", "tr-9", "date-01", "tr-x", "x9")))
    )

    found = only(told)

    assert found.unknown_ids == ("made-up", "x9")
    assert found.sample_ids == ("tr-1", "tr-9", "date-01", "tr-x")
    # `tr-9` is of no known task, `tr-x` of one that the benchmark does not have.
    assert found.task_ids == ("date-01",)
    assert found.student_failure_rate == 1.0


def test_a_run_may_be_named_as_a_sample() -> None:
    told = Told.prepared().students(date_01="f", sum_01="p").teacher(sum_02="p")

    names = run_tasks(told.session.runs)

    assert names == {"run-1.0.0": "date-01", "run-1.0.1": "sum-01"}
    found = only(told.submits(ending(cluster("dates", "run-1.0.0", "run-9.0.0"))))
    assert found.task_ids == ("date-01",)
    assert found.unknown_ids == ("run-9.0.0",)


@pytest.mark.parametrize(
    ("student", "teacher", "evidence"),
    [
        ("f f f", "p p p", Evidence.MEASURED),
        ("p p p", "f f f", Evidence.MEASURED),
        ("f f f", "p p -", Evidence.PARTIAL),
        ("f f -", "p p p", Evidence.PARTIAL),
        ("fff ff x", "p p p", Evidence.PARTIAL),
        ("f f u", "p p p", Evidence.PARTIAL),
        ("f - -", "- - -", Evidence.PARTIAL),
        ("- - -", "p p p", Evidence.PARTIAL),
        ("x x u", "x - -", Evidence.CLAIMED),
        ("- - -", "- - -", Evidence.CLAIMED),
    ],
)
def test_evidence_says_how_far_both_were_measured(
    student: str, teacher: str, evidence: Evidence
) -> None:
    names = ("date_01", "date_02", "date_03")
    of_student, of_teacher = (
        {name: runs for name, runs in zip(names, one.split(), strict=True) if runs != "-"}
        for one in (student, teacher)
    )
    told = Told.prepared()
    if of_student:
        told.students(**of_student)
    if of_teacher:
        told.teacher(**of_teacher)

    found = only(told.submits(ending(cluster("dates", "date-01", "date-02", "date-03"))))

    assert found.evidence is evidence


def test_clusters_keep_the_teacher_s_order() -> None:
    told = Told.prepared().submits(ending(cluster("z"), cluster("a"), cluster("m")))

    assert [found.cluster_id for found in checked(told)] == ["z", "a", "m"]


def test_recorded_truth_comes_out_exactly() -> None:
    if not TAU.exists():
        pytest.skip(f"the recorded runs are not here: {TAU} is missing")
    truth: dict[str, Any] = json.loads((TAU / "truth.json").read_text())
    lines = (TAU / "student_runs.jsonl").read_text().splitlines()
    made = [_recorded(json.loads(line)) for line in lines]
    claims = ending(*(cluster(task, task, student_failure_rate=0.0) for task in truth))

    found = check(claims, made, truth, {})

    assert len(found) == 50
    for one, (task_id, of_task) in zip(found, truth.items(), strict=True):
        assert one.task_ids == (task_id,)
        assert one.student_failure_rate == 1 - of_task["student_success_rate"]


def _recorded(line: dict[str, Any]) -> Run:
    spec = RunSpec(task_id=line["task_id"], attempt=line["attempt"])
    record = RunRecorded(
        turn=1,
        index=0,
        ordinal=0,
        runner=Runner.STUDENT,
        spec=spec,
        outcome=RunOutcome.ANSWERED,
        passed=line["reward"] == 1.0,
    )
    return Run(spec=spec, runner=Runner.STUDENT, record=record)


# -------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # By hand: z² = 3.84146; 8 of 10: (0.8 + 0.19207 ± 0.27436) / 1.38415.
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (1, 2, 0.0945, 0.9055),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_intervals_are_wilson_s(hits: int, total: int, low: float, high: float) -> None:
    interval = Share(hits=hits, total=total).interval_95

    assert interval is not None
    assert interval == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_rate_and_mirrors(counts: tuple[int, int]) -> None:
    hits, total = counts
    share, mirrored = Share(hits=hits, total=total), Share(hits=total - hits, total=total)
    assert share.interval_95 is not None
    assert share.rate is not None
    assert mirrored.interval_95 is not None

    low, high = share.interval_95

    assert 0 <= low <= share.rate <= high <= 1
    assert low < high
    assert mirrored.interval_95 == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("inside", "outside", "p_value"),
    [
        # Fisher's tea: 3 of 4 against 1 of 4; (1 + 16 + 16 + 1) / 70.
        ((3, 4), (1, 4), 34 / 70),
        # 1 of 10 against 11 of 14: comb(24, 12) = 2,704,156 tables.
        ((1, 10), (11, 14), 0.0027594561852200836),
        ((9, 10), (1, 9), 0.0010933339106713723),
        ((0, 3), (0, 3), 1.0),
        ((3, 3), (3, 3), 1.0),
        ((0, 0), (1, 3), None),
        ((1, 3), (0, 0), None),
    ],
)
def test_p_values_are_fisher_s(
    inside: tuple[int, int], outside: tuple[int, int], p_value: float | None
) -> None:
    p = fisher_two_sided(
        Share(hits=inside[0], total=inside[1]), Share(hits=outside[0], total=outside[1])
    )

    assert p == (p_value if p_value is None else pytest.approx(p_value, rel=1e-12))


SHARES = st.integers(1, 12).flatmap(
    lambda n: st.integers(0, n).map(lambda hits: Share(hits=hits, total=n))
)


@given(SHARES, SHARES)
def test_a_p_value_is_the_sum_over_unlikelier_tables(inside: Share, outside: Share) -> None:
    hits = inside.hits + outside.hits
    ways = [
        math.comb(inside.total, k) * math.comb(outside.total, hits - k)
        for k in range(hits + 1)
        if k <= inside.total and hits - k <= outside.total
    ]
    seen = math.comb(inside.total, inside.hits) * math.comb(outside.total, outside.hits)

    p = fisher_two_sided(inside, outside)

    assert p == pytest.approx(sum(way for way in ways if way <= seen) / sum(ways))
    assert p == fisher_two_sided(outside, inside)


def test_a_p_value_of_many_runs_is_near_the_normal_one() -> None:
    p = fisher_two_sided(Share(hits=600, total=3_000), Share(hits=500, total=3_000))

    # z = (0.2 - 0.1667) / sqrt(0.1833 * 0.8167 * 2 / 3000) = 3.336, two-sided.
    assert p == pytest.approx(math.erfc(3.336 / math.sqrt(2)), rel=0.2)


# ----------------------------------------------------------------------------------------- outcome

NOTHING: dict[str, dict[str, str]] = {}
FAILURES = {"students": {"date_01": "ffp", "date_02": "f", "date_03": "f"}}
PASSES = {"students": {"sum_01": "pp", "sum_02": "p", "sum_03": "p"}}
ONE_PASS = {"students": {"sum_01": "p"}}
FAULTS = {"students": {"date_01": "xx", "date_02": "u"}}
CLUSTERS = ending(cluster("dates", "date-01", "date-02"), cluster("tone", "sum-03"))
NO_CLUSTERS = ending()
NOTHING_WRONG = ending(nothing_found=True)


def told_with(
    evidence: dict[str, dict[str, str]], given_ending: Ending | None, stop: Stop | None
) -> Session:
    """Return a session as it may stand at its end; the fields are set, however odd together."""
    told = Told.prepared()
    for who, outcomes in evidence.items():
        getattr(told, who)(**outcomes)
    return replace(told.session, ending=given_ending, stop=stop)


C, N, X, F = Outcome.CONCLUDED, Outcome.INCONCLUSIVE, Outcome.CANCELLED, Outcome.FAILED
LIMIT_STOPS = (
    Stop.SUBMITTED,
    Stop.TURNS,
    Stop.TOOL_CALLS,
    Stop.BUDGET,
    Stop.TIME,
    Stop.CONTEXT,
    Stop.PAUSED,
    Stop.FUNDS,
)
FAULT_STOPS = (Stop.REFUSED, Stop.EMPTY, Stop.FAULT)
#: (evidence, ending) -> outcome after a limit or a submission, and after a fault of the teacher.
TABLE: list[tuple[dict[str, dict[str, str]], Ending | None, Outcome, Outcome]] = [
    (NOTHING, None, N, F),
    (NOTHING, NO_CLUSTERS, N, N),
    (NOTHING, NOTHING_WRONG, N, N),
    (NOTHING, CLUSTERS, N, N),
    (FAULTS, None, N, F),
    (FAULTS, NO_CLUSTERS, N, N),
    (FAULTS, NOTHING_WRONG, N, N),
    (FAULTS, CLUSTERS, N, N),
    (ONE_PASS, None, N, N),
    (ONE_PASS, NO_CLUSTERS, N, N),
    (ONE_PASS, NOTHING_WRONG, N, N),
    (ONE_PASS, CLUSTERS, N, N),
    (PASSES, None, N, N),
    (PASSES, NO_CLUSTERS, N, N),
    (PASSES, NOTHING_WRONG, C, C),
    (PASSES, CLUSTERS, N, N),
    (FAILURES, None, N, N),
    (FAILURES, NO_CLUSTERS, N, N),
    (FAILURES, NOTHING_WRONG, N, N),
    (FAILURES, CLUSTERS, C, C),
]
CASES = [
    (evidence, given_ending, stop, outcome)
    for evidence, given_ending, of_limits, of_faults in TABLE
    for stops, outcome in (
        (LIMIT_STOPS, of_limits),
        (FAULT_STOPS, of_faults),
        ((Stop.CANCELLED,), X),
        ((Stop.NOT_PREPARED, None), F),
    )
    for stop in stops
]


def test_the_table_of_outcomes_is_whole() -> None:
    evidences, given_endings = 5, 4

    assert len(CASES) == evidences * given_endings * (len(Stop) + 1)


@pytest.mark.parametrize(
    ("evidence", "given_ending", "stop", "outcome"), CASES, ids=map(str, range(len(CASES)))
)
def test_every_end_has_one_outcome_and_a_reason(
    evidence: dict[str, dict[str, str]],
    given_ending: Ending | None,
    stop: Stop | None,
    outcome: Outcome,
) -> None:
    session = told_with(evidence, given_ending, stop)

    ended, reason = conclude_outcome(session, check(session.ending, session.runs, TASKS, TRACES))

    assert ended is outcome
    assert reason.endswith(".")
    assert reason[0] == reason[0].upper()
    assert len(reason) > 20


@given(histories())
def test_every_session_that_can_happen_has_an_outcome(journal: Iterable[Any]) -> None:
    session = fold(journal)

    outcome, reason = conclude_outcome(session, check(session.ending, session.runs, ["t1"], {}))

    assert reason.endswith(".")
    if outcome is Outcome.CONCLUDED:
        assert any(run.counts for run in session.runs)


SUBMITTED = "the teacher ended the exploration with its diagnosis"
REASONS = [
    (
        Told.prepared().students(date_01="f").submits(ending(cluster("a", "date-01"))),
        C,
        f"1 of 1 cluster rests on measured student failures; {SUBMITTED}.",
    ),
    (
        Told.prepared()
        .students(date_01="f", sum_01="f")
        .submits(ending(cluster("a", "date-01"), cluster("b", "sum-01"), cluster("c"))),
        C,
        f"2 of 3 clusters rest on measured student failures; {SUBMITTED}.",
    ),
    (
        Told.prepared().students(**PASSES["students"]).submits(NOTHING_WRONG),
        C,
        (
            "The teacher found nothing wrong, and the student failed none of 4 measured runs on 3 tasks; "
            f"{SUBMITTED}."
        ),
    ),
    (
        Told.prepared(tasks=1).students(sum_01="p").submits(NOTHING_WRONG),
        C,
        (
            "The teacher found nothing wrong, and the student failed none of 1 measured run on 1 task; "
            f"{SUBMITTED}."
        ),
    ),
    (
        Told.prepared().students(sum_01="p").submits(NOTHING_WRONG),
        N,
        (
            "The teacher found nothing wrong, but the student was measured in 1 run on 1 task; "
            f"{SUBMITTED}."
        ),
    ),
    (
        Told.prepared().students(sum_01="ppf").submits(NOTHING_WRONG),
        N,
        f"The teacher found nothing wrong, but 1 of 3 measured student runs failed; {SUBMITTED}.",
    ),
    (
        Told.prepared().submits(NOTHING_WRONG),
        N,
        f"The teacher found nothing wrong, but no student run was made; {SUBMITTED}.",
    ),
    (
        Told.prepared().students(date_01="xu").submits(ending(cluster("a", "date-01"))),
        N,
        (
            "1 cluster claimed, but none of 2 student runs could be measured "
            f"(faults of the infrastructure: 1, not judged: 1); {SUBMITTED}."
        ),
    ),
    (
        Told.prepared().students(date_01="pp").submits(ending(cluster("a", "date-01"))),
        N,
        f"The student failed no measured run of the one cluster; {SUBMITTED}.",
    ),
    (
        Told.prepared().students(date_01="f").submits(ending(cluster("a"), cluster("b"))),
        N,
        f"No student run was measured on the tasks of the 2 clusters; {SUBMITTED}.",
    ),
    (
        Told.prepared()
        .students(date_01="f")
        .then(
            TeacherStopped(
                turn=2, purpose=Purpose.EXPLORE, stop=Stop.BUDGET, detail="session:s has $0.01."
            ),
            TeacherStopped(turn=0, purpose=Purpose.CLOSE, stop=Stop.FAULT, detail="HTTP 529"),
        ),
        N,
        (
            "No diagnosis was written (HTTP 529); the student was measured in 1 run on 1 task; "
            "the budget left no room for another call (session:s has $0.01)."
        ),
    ),
    (
        Told.prepared().then(
            TeacherStopped(turn=1, purpose=Purpose.EXPLORE, stop=Stop.FAULT, detail="401\nbad key"),
            TeacherStopped(turn=0, purpose=Purpose.CLOSE, stop=Stop.FAULT, detail="401\nbad key"),
        ),
        F,
        (
            "No diagnosis was written; no student run was made; "
            "the teacher's API failed for good (401 bad key)."
        ),
    ),
    (
        Told.prepared()
        .students(date_01="f")
        .then(DeadlinePassed())
        .writes(ending(text="It fails."), Purpose.CLOSE)
        .writes(ending(text=""), Purpose.EXTRACT),
        N,
        (
            "The diagnosis names no clusters that could be read; the student was measured in 1 run on "
            "1 task; the time limit of 60 minutes was reached."
        ),
    ),
    (
        Told.prepared()
        .students(date_01="fx ")
        .then(CancelRequested(reason="asked by the operator")),
        X,
        (
            "The student was measured in 1 run on 1 task; "
            "the session was cancelled (asked by the operator)."
        ),
    ),
    (
        Told([Told.prepared().events[0], PreparationFailed(reason="no such bundle")]),
        F,
        "The bundle could not be used (no such bundle).",
    ),
    (
        Told([Told.prepared().events[0], DeadlinePassed()]),
        F,
        "The time was up before the bundle was ready.",
    ),
]


@pytest.mark.parametrize(
    ("told", "outcome", "reason"), REASONS, ids=[reason for _, _, reason in REASONS]
)
def test_a_reason_names_what_was_missing(told: Told, outcome: Outcome, reason: str) -> None:
    assert concluded(told) == (outcome, reason)
