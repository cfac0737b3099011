"""The command line, `diagnosis`: one group, a file for each kind of user.

Rule: people get sentences, scripts get `--json` and exit codes; an error never shows a traceback.

Exit codes: 0 done; 1 a bug; 2 wrong usage; 3 refused input; 4 a server is away; 5 no such thing;
6 the session ended otherwise than `concluded`; 7 misconfigured.
"""

from __future__ import annotations

import sys

import click

from worker.cli.demo import demo
from worker.cli.enqueue import enqueue
from worker.cli.history import explain, replay_session
from worker.cli.keeping import dead_letters, prune_sessions
from worker.cli.operate import budget, doctor, worker
from worker.cli.output import exit_code_of, fail
from worker.cli.recover import recover
from worker.cli.session import cancel, result, status, watch
from worker.errors import DiagnosisError

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diagnosis-worker", prog_name="diagnosis")
def cli() -> None:
    """Diagnose where a student model fails, on a fleet of workers.

    Settings come from DIAGNOSIS_* variables or the TOML file that DIAGNOSIS_CONFIG names.
    """


for command in (
    demo,
    worker,
    enqueue,
    status,
    watch,
    result,
    cancel,
    explain,
    replay_session,
    dead_letters,
    prune_sessions,
    recover,
    doctor,
    budget,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every error of ours becomes a sentence and an exit code."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        fail("stopped", code=130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except DiagnosisError as exc:
        fail(str(exc), code=exit_code_of(exc))
