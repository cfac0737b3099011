"""The command line, `diagnosis`: one group, a file for each kind of user.

Rule: people get sentences, scripts get `--json` and exit codes; an error never shows a traceback.

Exit codes: 0 done; 1 a bug; 2 wrong usage; 3 refused input; 4 a server is away; 5 no such thing;
6 the session ended otherwise than `concluded`; 7 misconfigured.
"""

from __future__ import annotations

import os

import click

from worker.cli.costs import costs
from worker.cli.demo import demo
from worker.cli.enqueue import enqueue
from worker.cli.fork import fork
from worker.cli.history import explain, replay_session
from worker.cli.keeping import dead_letters, prune_sessions
from worker.cli.limits import limits
from worker.cli.operate import budget, doctor, worker
from worker.cli.output import exit_code_of, fail
from worker.cli.reconcile import reconcile
from worker.cli.recover import recover
from worker.cli.session import cancel, pause, result, resume, status, watch
from worker.errors import DiagnosisError
from worker.telemetry.logs import configure_logs

__all__ = ["cli", "main"]


class _Sentences(click.Group):
    """Turns whatever a command raises into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):
            fail("stopped", code=130)
        except DiagnosisError as exc:
            fail(str(exc), code=exit_code_of(exc))
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as exc:
            if os.environ.get("DIAGNOSIS_LOG_LEVEL") == "DEBUG":
                raise
            what = f"{type(exc).__name__}: {exc}"
            fail(f"a bug: {what}. DIAGNOSIS_LOG_LEVEL=DEBUG shows where; please report it", code=1)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
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
    pause,
    resume,
    fork,
    explain,
    replay_session,
    dead_letters,
    prune_sessions,
    recover,
    doctor,
    budget,
    limits,
    costs,
    reconcile,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line and leave with its exit code."""
    # To stderr: what a command prints may be read by a script. A worker says for itself how it logs.
    configure_logs(level="WARNING", form="console")
    cli()
