"""`make mutations`: breaks each law in a copy of the project, and sees its tests turn red.

Rule: a mutation is one text for another, found exactly once; the copy is green without any. Red
means that a test of that law failed, not that nothing could be run. Exits 1 where one stays green.
Arguments name the laws that are wanted; none means all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MUTATIONS", "ROOT", "Mutation", "mutated"]

ROOT = Path(__file__).parents[2]
_COPIED = ("worker", "tasks", "tests", "pyproject.toml")
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")
#: pytest's exit codes: all passed; some failed.
_GREEN, _RED = 0, 1
_FAILED = re.compile(r"^FAILED \S+?::(.+?)(?: - .*)?$", re.MULTILINE)
#: A test that hangs was told from a slow one by pytest-timeout before that.
_LONGEST_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A change that breaks a law."""

    law: int
    path: str
    old: str
    new: str
    #: What the broken code does.
    says: str
    #: Whether the test that sees it needs a Valkey.
    server: bool = False


MUTATIONS = (
    Mutation(
        law=1,
        path="worker/runner.py",
        old="since=known.length if known else 0,",
        new="since=known.length + 1 if known else 0,",
        says="a worker that knows a session skips the next event",
    ),
    Mutation(
        law=1,
        path="worker/runner.py",
        old="after = _Known.of(apply(now.session, event), now.length + 1, now.life, now.server)",
        new="after = _Known.of(now.session, now.length + 1, now.life, now.server)",
        says="a worker remembers a session otherwise than its journal has it",
    ),
    Mutation(
        law=2,
        path="worker/journal/lua/prelude.lua",
        old="  if done(sid, key) then return false end\n  local head",
        new="  local head",
        says="a second write under a key is appended (Redis)",
        server=True,
    ),
    Mutation(
        law=2,
        path="worker/journal/memory.py",
        old="        if record.key not in self.index:",
        new="        if record:",
        says="a second write under a key is appended (memory)",
    ),
    Mutation(
        law=3,
        path="worker/runner.py",
        old="        self._hints.tell(overdue)\n",
        new="",
        says="a lost hint is not told again",
    ),
    Mutation(
        law=3,
        path="worker/runner.py",
        old="follow=_announcements(after.session, follow),",
        new="follow=(),",
        says="what follows from a commit is not in it",
    ),
    Mutation(
        law=4,
        path="tasks/diagnose.py",
        old='    """Have the judge score a run. Harmless twice: claimed by one, committed once."""\n',
        new='    """Have the judge score a run. Harmless twice: claimed by one, committed once."""\n'
        "    app.AsyncResult(session_id).get()\n",
        says="a task waits for another's result",
    ),
    Mutation(
        law=4,
        path="tasks/base.py",
        old='    "ignore_result": True,\n',
        new='    "ignore_result": True,\n    "acks_late": True,\n',
        says="a message is kept until its work is done, and then delivered again",
    ),
    Mutation(
        law=5,
        path="worker/steps/conclude.py",
        old='        reason=session["reason"],\n',
        new='        reason="",\n',
        says="a session ends without a reason",
    ),
    Mutation(
        law=5,
        path="worker/runner.py",
        old="ends=isinstance(event, SessionEnded),",
        new="ends=False,",
        says="a concluded session stays open",
    ),
    Mutation(
        law=6,
        path="worker/ledger/lua/reserve.lua",
        old="if amt > least then return {'cap', tightest, int(least)} end\n",
        new="",
        says="the cap is not looked at (Redis)",
        server=True,
    ),
    Mutation(
        law=6,
        path="worker/paid.py",
        old="    def bound_nusd(self) -> int:\n",
        new="    def bound_nusd(self) -> int:\n        return 1_000_000\n",
        says="less is held than a call can cost",
    ),
    Mutation(
        law=7,
        path="worker/core/evidence.py",
        old="        return self.passed + self.failed\n",
        new="        return self.passed + self.failed + self.faults\n",
        says="a fault stands in the denominator",
    ),
    Mutation(
        law=7,
        path="worker/core/evidence.py",
        old="        return self.student.failures.rate\n",
        new="        return self.student.failures.rate or self.claimed_student_failure_rate\n",
        says="a claim stands in for a rate",
    ),
    Mutation(
        law=8,
        path="worker/bundle/redaction.py",
        old="        for _ in range(_ROUNDS_MAX):\n",
        new="        for _ in range(0):\n",
        says="credentials are not masked",
    ),
    Mutation(
        law=8,
        path="worker/core/keys.py",
        old='    if _NAME.fullmatch(value) is None or ".." in value:\n',
        new="    if _NAME.match(value) is None:\n",
        says="a name is a key's part by its beginning",
    ),
    Mutation(
        law=9,
        path="tasks/base.py",
        old="    if type(version) is not int or version != MESSAGE_VERSION:\n",
        new="    if not isinstance(version, int) or version > MESSAGE_VERSION:\n",
        says="an unknown version of a hint is taken for the known one",
    ),
    Mutation(
        law=9,
        path="worker/runner.py",
        old="        except (UnknownVersion, IllegalEvent) as exc:\n",
        new="        except UnknownVersion as exc:\n"
        "            self._journal.release(lease)\n"
        "            raise\n"
        "        except IllegalEvent as exc:\n",
        says="a step of a newer version's journal is thrown away",
    ),
    Mutation(
        law=10,
        path="worker/steps/conclude.py",
        old='            "worker": importlib.metadata.version("diagnosis-worker"),\n',
        new='            "worker": importlib.metadata.version("diagnosis-worker"),\n'
        '            "at": str(step.ports.clock.now_ms()),\n',
        says="the artifacts say when they were written",
    ),
    Mutation(
        law=10,
        path="worker/steps/conclude.py",
        old='    if not artifacts.put_new(key, body, content_type=_TYPES["json"]):\n',
        new='    artifacts.put(key, body, content_type=_TYPES["json"])\n    if not body:\n',
        says="the manifest is overwritten",
    ),
    Mutation(
        law=11,
        path="worker/core/machine.py",
        old="            return _wanted_exploring(session)\n",
        new="            return tuple(set(_wanted_exploring(session)))\n",
        says="the order of commands depends on the process",
    ),
    Mutation(
        law=11,
        path="worker/core/policy.py",
        old="from dataclasses import dataclass\n",
        new="import random\nfrom dataclasses import dataclass\n",
        says="the core can draw lots",
    ),
)


def mutated(text: str, mutation: Mutation) -> str:
    """Return a file's text with the mutation in it.

    Raises:
        ValueError: What it replaces does not stand there exactly once.
    """
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(
            f"{mutation.path} holds {mutation.old!r} {found} times and not once: correct the "
            f"mutation of law {mutation.law} ({mutation.says})"
        )
    return text.replace(mutation.old, mutation.new)


def _main(wanted: Sequence[str]) -> int:
    laws = {int(law) for law in wanted} or {mutation.law for mutation in MUTATIONS}
    chosen = [mutation for mutation in MUTATIONS if mutation.law in laws]
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        copy = Path(name)
        _copy(copy)
        code, output = _run(copy, sorted(laws), server=any(m.server for m in chosen))
        if code != _GREEN:
            print(f"the copy is not green without any mutation:\n{output[-4_000:]}")
            return 1
        green = [mutation for mutation in chosen if not _turns_red(copy, mutation)]
    print(f"stayed green: {len(green)}" if green else f"all {len(chosen)} mutations turned red")
    return 1 if green else 0


def _copy(copy: Path) -> None:
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=_IGNORED)
        else:
            shutil.copy2(ROOT / name, copy / name)


def _turns_red(copy: Path, mutation: Mutation) -> bool:
    path = copy / mutation.path
    text = path.read_text(encoding="utf-8")
    path.write_text(mutated(text, mutation), encoding="utf-8")
    try:
        code, output = _run(copy, [mutation.law], server=mutation.server)
    finally:
        path.write_text(text, encoding="utf-8")
    failed = _FAILED.findall(output)
    red = code == _RED and bool(failed)
    mark = "red  " if red else "GREEN"
    print(f"{mark} law {mutation.law:2}  {mutation.says}  [{mutation.path}]", flush=True)
    print(f"        {', '.join(failed) if red else output[-2_000:]}", flush=True)
    return red


def _run(copy: Path, laws: Iterable[int], *, server: bool) -> tuple[int, str]:
    """Run the tests of some laws in the copy, each to its first failure; return code and output."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/laws/test_laws.py", "-q", "--maxfail=2"),
            *("-p", "no:cacheprovider", "--timeout=120"),
            *("-k", " or ".join(f"law_{law:02}" for law in laws)),
            *(() if server else ("-m", "not integration")),
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LONGEST_S,
        check=False,
    )
    return ran.returncode, ran.stdout


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
