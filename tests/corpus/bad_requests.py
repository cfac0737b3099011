"""Diagnose requests that must be refused, each with what the refusal has to say.

Rule: a case is a request as it is after its JSON was read. `at` says who can refuse it: `parse`
without any settings, `door` only with a fleet's settings and accounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["BadRequest", "bad_requests", "nested"]

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRequest:
    """One request."""

    name: str
    #: What stands in the message; a session id is the task's where it names none.
    body: Any
    #: Found in the refusal: the field, and mostly the cure.
    says: str
    error: Literal["RequestInvalid", "UnknownModel", "UnknownVersion"] = "RequestInvalid"
    at: Literal["parse", "door"] = "parse"


def nested(depth: int) -> list[Any]:
    """Return lists in a list, so deep."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def bad_requests(bundle: str) -> tuple[BadRequest, ...]:
    """Return all of them; `bundle` is one that can be used."""
    return (
        *_no_objects(),
        *_versions(bundle),
        *_fields(bundle),
        *_limits(bundle),
        *_names(bundle),
        *_words(bundle),
        *_sizes(bundle),
        *_unknown_to_the_fleet(bundle),
    )


def _no_objects() -> tuple[BadRequest, ...]:
    says = "a diagnose request is a JSON object, not"
    bodies: dict[str, Any] = {
        "null": None,
        "a list": [],
        "a text": "{}",
        "a number": 1,
        "true": True,
        "NaN": NAN,
    }
    return tuple(BadRequest(name=name, body=body, says=says) for name, body in bodies.items())


def _versions(bundle: str) -> tuple[BadRequest, ...]:
    versions: tuple[Any, ...] = (0, 2, 99, -1, "1", 1.0, True, None, [1], {}, "9" * 9_999)
    return tuple(
        BadRequest(
            name=f"version {version!r:.12}",
            body={"version": version, "bundle": bundle},
            says="version: .* is not known to this worker .*: upgrade the worker",
            error="UnknownVersion",
        )
        for version in versions
    )


def _fields(bundle: str) -> tuple[BadRequest, ...]:
    good = {"bundle": bundle}
    return (
        BadRequest(name="nothing", body={}, says="bundle: is missing"),
        BadRequest(name="no bundle", body={"student": "default"}, says="bundle: is missing"),
        BadRequest(
            name="a URL", body={**good, "base_url": "http://x"}, says="base_url: is no field"
        ),
        BadRequest(name="a key", body={**good, "api_key": "sk-1"}, says="api_key: is no field"),
        BadRequest(name="a half pair as field", body={**good, "\ud800": 1}, says="request: Input"),
        BadRequest(
            name="escapes as field", body={**good, "\x1b[2J": 1}, says=r"'\\x1b\[2J': is no"
        ),
        BadRequest(name="a long field", body={**good, "f" * 5_000: 1}, says="f…: is no field"),
        BadRequest(
            name="many fields",
            body={**good, **dict.fromkeys("abcdefghijklmno", 1)},
            says="and 5 more",
        ),
        BadRequest(name="two wrong", body={"tenant": "A"}, says="tenant: .*; .*|bundle: .*; .*"),
    )


def _limits(bundle: str) -> tuple[BadRequest, ...]:
    wrong: dict[str, tuple[Any, ...]] = {
        "max_turns": (0, -1, 201, 10**30, "3", 3.0, True, None, NAN, INF, [3]),
        "max_tool_calls": (0, 2_001, "many"),
        "max_student_runs": (-1, 10_001, 1.5),
        "max_duration_s": (0, 9, 86_401, "1 h"),
        "max_parallel_calls": (0, -1, 1_001, True),
        "max_parallel_runs": (0, 10_001, "64", None),
        "max_cost_usd": (0, -1, 1_000.01, 1e30, 10**30, "1" * 31, "five", "", True, None, NAN, INF),
        "max_money": (5,),
    }
    objects: tuple[Any, ...] = (None, [], 5, "all", nested(100), nested(900))
    return (
        *(
            BadRequest(
                name=f"{field} {value!r:.12}",
                body={"bundle": bundle, "limits": {field: value}},
                says=rf"limits\.{field}: ",
            )
            for field, values in wrong.items()
            for value in values
        ),
        *(
            BadRequest(
                name=f"limits {value!r:.12} {len(repr(value))}",
                body={"bundle": bundle, "limits": value},
                says="limits: .* is no JSON object",
            )
            for value in objects
        ),
        BadRequest(
            name="less than a nano-dollar",
            body={"bundle": bundle, "limits": {"max_cost_usd": "0.0000000001"}},
            says=r"limits\.max_cost_usd: .* 9 decimal places",
        ),
        BadRequest(
            name="less than a closing call",
            body={"bundle": bundle, "limits": {"max_cost_usd": "0.01"}},
            says=r"limits\.max_cost_usd: \$0\.01 does not carry one closing call .* raise the cap",
            at="door",
        ),
    )


def _names(bundle: str) -> tuple[BadRequest, ...]:
    paths = (
        "../../etc/passwd",
        "a..b",
        "..",
        ".",
        "a/b",
        "",
        "a b",
        "a\n",
        "A",
        "ä",
        "a\0",
        "*",
        5,
    )
    uris: dict[str, Any] = {
        **{repr(uri): uri for uri in ("", "http://x/y", "s3://b", "file:///etc/passwd", 5, None)},
        "a path": "s3://diagnosis/bundles/../x",
        "a path before": f"s3://diagnosis/../bundles/{'0' * 64}.tar.gz",
        "a line end": f"s3://diagnosis/bundles/{'0' * 64}.tar.gz\n",
        "a short hash": f"s3://diagnosis/bundles/{'0' * 63}.tar.gz",
        "no hash": f"s3://diagnosis/bundles/{'G' * 64}.tar.gz",
    }
    return (
        *(
            BadRequest(
                name=f"{field} {path!r}",
                body={"bundle": bundle, field: path},
                says=rf"{field}: .*(cannot be used: it takes|valid string)",
            )
            for field in ("session_id", "tenant", "campaign")
            for path in paths
        ),
        *(
            BadRequest(
                name=f"{field} {path!r}",
                body={"bundle": bundle, field: path},
                says=rf"{field}: .*(cannot be used: it takes|valid string)",
            )
            for field in ("student", "teacher", "judge")
            for path in ("../x", "http://x", "", "a\n", "모델", 5, None)
        ),
        *(
            BadRequest(
                name=f"bundle {name}",
                body={"bundle": uri},
                says="bundle: .*(cannot be used: it reads 's3://|valid string)",
            )
            for name, uri in uris.items()
        ),
        BadRequest(
            name="a long name",
            body={"bundle": bundle, "tenant": "t" * 101},
            says="tenant: .* at most 100",
        ),
    )


def _words(bundle: str) -> tuple[BadRequest, ...]:
    wrong: dict[str, tuple[Any, ...]] = {
        "trigger": ("\ud800", "x" * 101, "a\0b", "two\nlines", "\x1b[2J", 5, None),
        "flagged_trace_ids": ("abc", [5], ["\udfff"], ["x" * 201], ["x"] * 201, ["a\nb"], {"a": 1}),
        "reveal_references": ("yes", 1, None, "true"),
        "date": ("tomorrow", "2026-13-01", 5, 1e99, NAN, True, "", []),
    }
    return tuple(
        BadRequest(
            name=f"{field} {value!r:.20}",
            body={"bundle": bundle, field: value},
            says=rf"{field}(\.\d)?: ",
        )
        for field, values in wrong.items()
        for value in values
    )


def _sizes(bundle: str) -> tuple[BadRequest, ...]:
    says = "messages carry ids; put data into the bundle"
    return (
        BadRequest(name="a megabyte", body={"bundle": bundle, "trigger": "x" * 10**6}, says=says),
        BadRequest(name="64 KB of ids", body={"flagged_trace_ids": ["x" * 150] * 500}, says=says),
    )


def _unknown_to_the_fleet(bundle: str) -> tuple[BadRequest, ...]:
    other = bundle.replace("s3://", "s3://other-")
    known = (
        r"is not in this worker's settings \(it knows \[.*\]\): correct the request, or add it to"
    )
    money = "does not exist: make it with `diagnosis budget set"
    wrong: tuple[tuple[str, Any, str], ...] = (
        ("student", "nobody", f"student: 'nobody' {known} DIAGNOSIS_STUDENTS"),
        ("teacher", "nobody", f"teacher: 'nobody' {known} DIAGNOSIS_TEACHERS"),
        ("judge", "nobody", f"judge: 'nobody' {known} DIAGNOSIS_JUDGES"),
        ("tenant", "nobody", f"tenant: the account 'tenant:nobody' {money} tenant:nobody USD`"),
        ("campaign", "none", f"campaign: the account 'campaign:none' {money} campaign:none USD`"),
        ("bundle", other, "bundle: .* is not in this fleet's bucket .*: pack and upload it"),
        (
            "session_id",
            "another",
            "session_id: 'another' is not the task id .*: send the task with",
        ),
    )
    return tuple(
        BadRequest(
            name=f"{field} of nobody", body={"bundle": bundle, field: value}, says=says, at="door"
        )
        for field, value, says in wrong
    )
