"""How much of the provider's SDK a worker loads."""

from __future__ import annotations

import subprocess
import sys

_SETUP = """
import sys
from worker.teacher.anthropic import AnthropicTeacher
teacher = AnthropicTeacher(base_url="http://127.0.0.1:1", api_key="k")
teacher.close()
"""


def _in_a_new_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", _SETUP + code], check=True, timeout=60)


def test_the_calls_that_nobody_makes_are_not_loaded() -> None:
    _in_a_new_process(
        "loaded = [name for name in sys.modules if name.startswith('anthropic.resources')]\n"
        "assert not loaded, loaded[:5]"
    )


def test_whoever_imports_the_sdk_afterwards_gets_the_whole_of_it_and_the_same_client() -> None:
    _in_a_new_process(
        "import anthropic\n"
        "assert anthropic.Anthropic is type(teacher._client)\n"
        "assert anthropic.APIStatusError is teacher._sdk.APIStatusError\n"
        "assert anthropic.Anthropic(api_key='k').messages.create is not None\n"
        "import anthropic.types.beta"
    )


def test_an_sdk_that_is_loaded_is_used_as_it_is() -> None:
    subprocess.run(
        [sys.executable, "-c", f"import anthropic\n{_SETUP}\nassert teacher._sdk is anthropic"],
        check=True,
        timeout=60,
    )


def test_the_names_that_are_used_are_there() -> None:
    names = ("AnthropicError", "APIStatusError", "APITimeoutError", "Stream", "Anthropic")
    _in_a_new_process(f"assert all(isinstance(getattr(teacher._sdk, n), type) for n in {names})")
