"""What may stand in a Celery queue and is no message of ours, down to bytes that are no JSON.

Rule: `raw_items` are pushed into the broker's list as they are; `bad_hints` are the arguments of a
well-formed message.
"""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from typing import Any

__all__ = ["bad_hints", "message", "raw_items"]

Hint = tuple[Any, ...]


def bad_hints() -> tuple[dict[str, Hint], dict[str, Hint]]:
    """Return hints at no step, and hints of versions or kinds that only another worker knows."""
    no_step: dict[str, Hint] = {
        "a number as session": (5, "turn/1", 1),
        "null": (None, None, 1),
        "objects": ({"a": 1}, ["turn/1"], 1),
        "a path as session": ("../../etc/passwd", "turn/1", 1),
        "a path inside": ("a/../b", "turn/1", 1),
        "two dots": ("a..b", "turn/1", 1),
        "nothing": ("", "", 1),
        "a control": ("s\0-1", "turn/1", 1),
        "half a pair": ("\ud800", "turn/1", 1),
        "half a pair as step": ("s-1", "turn/\ud800", 1),
        "a path as step": ("s-1", "turn/../../x", 1),
        "a glob as step": ("s-1", "*", 1),
        "a line end as step": ("s-1", "turn/1\n", 1),
        "a long session": ("s" * 100_000, "turn/1", 1),
        "a long step": ("s-1", "turn/" + "1/" * 50_000, 1),
    }
    other_version: dict[str, Hint] = {
        "a newer version": ("s-1", "turn/1", 2),
        "an older version": ("s-1", "turn/1", 0),
        "a version in words": ("s-1", "turn/1", "1"),
        "no version": ("s-1", "turn/1", None),
        "a list as version": ("s-1", "turn/1", [1]),
        "a long version": ("s-1", "turn/1", "9" * 10_000),
        "an unknown step": ("s-1", "dance/1", 1),
    }
    return no_step, other_version


def message(task: str, args: Any, **changes: Any) -> dict[str, Any]:
    """Return a message of Celery's protocol 2 as it stands in a Redis list.

    Args:
        task: Its name.
        args: Positional arguments, or whatever stands in their place.
        changes: Fields that replace the usual ones; `body` is bytes or text, before base64.
    """
    message_id = str(uuid.uuid4())
    body = changes.pop("body", json.dumps([args, {}, {}]))
    raw = body if isinstance(body, bytes) else body.encode()
    usual = {
        "body": base64.b64encode(raw).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": message_id,
            "root_id": message_id,
            "argsrepr": "",
            "kwargsrepr": "",
            **changes.pop("headers", {}),
        },
        "properties": {
            "correlation_id": message_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "control"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return {**usual, **changes}


def raw_items() -> dict[str, bytes]:
    """Return what is pushed into the list, by name."""
    return {**_no_json(), **_no_messages(), **_odd_messages()}


def _no_json() -> dict[str, bytes]:
    return {
        "words": b"garbage",
        "bytes": b"\xff\xfe\x00",
        "nothing": b"",
        "half an object": b'{"body": "',
        "nesting without end": b"[" * 100_000,
        "a number without end": b"1" * 5_000,
    }


def _no_messages() -> dict[str, bytes]:
    return {
        "null": b"null",
        "a number": b"5",
        "a list": b"[1, 2]",
        "another object": b'{"a": 1}',
        "an empty object": b"{}",
        "properties of the wrong kind": _json({**message("diagnosis.drive", []), "properties": []}),
        "no properties": _json(_without(message("diagnosis.drive", []), "properties")),
        "no body": _json(_without(message("diagnosis.drive", []), "body")),
    }


def _odd_messages() -> dict[str, bytes]:
    drive = "diagnosis.drive"
    odd: dict[str, dict[str, Any]] = {
        "an unknown task": message("diagnosis.nope", []),
        "a list as task": message(drive, [], headers={"task": ["x"]}),
        "null as task": message(drive, [], headers={"task": None}),
        "no headers": message(drive, []) | {"headers": None},
        "a list as headers": message(drive, []) | {"headers": []},
        "an old protocol": message(drive, []) | {"headers": {}},
        "pickle": message(drive, [], body=pickle.dumps(([], {}, {})))
        | {"content-type": "application/x-python-serialize"},
        "yaml": message(drive, []) | {"content-type": "application/x-yaml"},
        "an unknown kind": message(drive, []) | {"content-type": 5},
        "a body that is no JSON": message(drive, [], body="{not json"),
        "a body that is no base64": message(drive, []) | {"body": "%%%"},
        "a number as body": message(drive, []) | {"body": 5},
        "null in the body": message(drive, [], body="null"),
        "a text as arguments": message(drive, "abc"),
        "no arguments": message(drive, []),
        "too many arguments": message(drive, [1, 2, 3, 4, 5]),
        "other names": message(drive, [], body=json.dumps([[], {"session": "s-1"}, {}])),
        "an id of the wrong kind": message(drive, ["s-1", "drive", 1], headers={"id": {"a": 1}}),
        "an end in words": message(drive, ["s-1", "drive", 1], headers={"expires": "soon"}),
        "limits in words": message(drive, ["s-1", "drive", 1], headers={"timelimit": "long"}),
        "tries in words": message(drive, ["s-1", "drive", 1], headers={"retries": "many"}),
        "a number without end inside": message(drive, [], body=f"[[{'1' * 5_000}], {{}}, {{}}]"),
    }
    hints = {name: hint for group in bad_hints() for name, hint in group.items()}
    told = {
        f"a hint: {name}": message("diagnosis.teacher_turn", hint) for name, hint in hints.items()
    }
    return {name: _json(item) for name, item in {**odd, **told}.items()}


def _json(item: object) -> bytes:
    return json.dumps(item).encode()


def _without(item: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != key}
