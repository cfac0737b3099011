"""`diagnosis enqueue`: pack a home, upload it once, send the request."""

from __future__ import annotations

import re
import tempfile
from contextlib import closing, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.bootstrap import build_artifacts
from worker.bundle.pack import pack
from worker.cli.output import console
from worker.client import Client
from worker.clock import SystemClock
from worker.core import keys
from worker.errors import RequestInvalid
from worker.settings import load_settings
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Generator

    from worker.artifacts.s3 import S3Artifacts
    from worker.bundle.pack import PackedBundle
    from worker.settings import Settings

__all__ = ["enqueue", "upload_home"]

#: Stands in for a bundle that has no hash before it is packed.
_NOT_YET = f"s3://not-packed-yet/bundles/{'0' * 64}.tar.gz"


@click.command()
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Folder with traces.db, benchmark.json, config.toml, agents/, tools/: packed, uploaded.",
)
@click.option("--bundle", help="URI of a bundle that was uploaded before, instead of --home.")
@click.option(
    "--benchmark", type=click.Path(path_type=Path), help="Takes the home's own if absent."
)
@click.option("--session-id", help="Default: made from home, student and date; the same each time.")
@click.option("--date", help="The night, YYYY-MM-DD; default: today (UTC).")
@click.option(
    "--student", default="default", show_default=True, help="Name in the workers' settings."
)
@click.option(
    "--teacher", default="default", show_default=True, help="Name in the workers' settings."
)
@click.option(
    "--judge", default="default", show_default=True, help="Name in the workers' settings."
)
@click.option("--tenant", default="default", show_default=True, help="Account that pays.")
@click.option("--campaign", default="default", show_default=True, help="Account of the night.")
@click.option("--trigger", default="manual", show_default=True, help="What asks for the session.")
@click.option("--flag", "flags", multiple=True, help="Trace to look at first; may be repeated.")
@click.option("--max-cost-usd", type=Decimal, help="Hard cap of the session.")
@click.option("--max-turns", type=int, help="Turns of the teacher.")
@click.option("--max-tool-calls", type=int, help="Tool calls of the teacher.")
@click.option("--max-student-runs", type=int, help="Student runs.")
@click.option("--max-duration-s", type=int, help="Seconds until the exploration ends.")
@click.option("--max-parallel-calls", type=int, help="Tool calls of a turn at once.")
@click.option("--max-parallel-runs", type=int, help="Student runs at once.")
@click.option("--max-pause-s", type=int, help="Seconds for which it may stand still at a stretch.")
@click.option(
    "--when-money-lacks",
    type=click.Choice(["conclude", "pause"]),
    help="What a paid call without room leads to; default: the workers' setting.",
)
@click.option(
    "--when-funds-lack",
    type=click.Choice(["start", "wait", "refuse"]),
    help="Where its expected cost has no room; default: the workers' setting.",
)
@click.option(
    "--taken-within-s",
    type=click.FloatRange(min=0),
    default=0,
    help="Wait for a worker to take it, sending it again; exit 4 where none does. 0 only sends.",
)
@click.option("--reveal-references", is_flag=True, help="Show reference answers to the teacher.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def enqueue(
    home: Path | None,
    bundle: str | None,
    benchmark: Path | None,
    taken_within_s: float,
    as_json: bool,  # noqa: FBT001 - click's way
    **options: object,
) -> None:
    """Enqueue a diagnose session. Doing it twice for the same home and date makes one session."""
    settings = load_settings()
    # All else is looked at first: packing and uploading take seconds.
    request = parse_request(_request(home, bundle, options))
    if home is not None:
        with nullcontext() if as_json else console.status("packing and uploading the home …"):
            uri = _uploaded(home, benchmark, settings)
        request = request.model_copy(update={"bundle": uri})
    client = Client(settings.broker, settings.results, key_prefix=settings.key_prefix)
    try:
        client.enqueue(request, taken_within_s=taken_within_s)
    finally:
        client.close()
    if as_json:
        click.echo(request.model_dump_json(exclude_none=True))
    else:
        click.echo(f"enqueued {request.session_id}  (diagnosis watch {request.session_id})")


def upload_home(home: Path, artifacts: S3Artifacts, benchmark: Path | None = None) -> str:
    """Pack a home and upload it, unless the same content is there already; return its URI.

    Raises:
        BundleInvalid: The home cannot be used; the message says why.
        Unavailable: The object store did not answer.
    """
    with _packed(home, benchmark) as packed:
        return _stored(packed, artifacts)


@contextmanager
def _packed(home: Path, benchmark: Path | None) -> Generator[PackedBundle]:
    with tempfile.TemporaryDirectory(prefix="diagnosis-pack-") as directory:
        yield pack(home, Path(directory), benchmark=benchmark)


def _stored(packed: PackedBundle, artifacts: S3Artifacts) -> str:
    key = keys.bundle(packed.sha256)
    artifacts.put_file(key, packed.path, content_type="application/gzip")
    return artifacts.uri(key)


def _uploaded(home: Path, benchmark: Path | None, settings: Settings) -> str:
    """Return the URI of a home's bundle; the home is looked at before any server is."""
    with _packed(home, benchmark) as packed, closing(build_artifacts(settings)) as artifacts:
        return _stored(packed, artifacts)


def _request(
    home: Path | None, bundle: str | None, options: dict[str, object]
) -> dict[str, object]:
    """Return the request's fields; what was not given is left to the defaults.

    Raises:
        UsageError: It is not one of home and bundle.
    """
    if (home is None) == (bundle is None):
        raise click.UsageError("give either --home DIR or --bundle URI")
    date = options.pop("date") or SystemClock().today()
    given = {name: value for name, value in options.items() if value is not None}
    limits = {name: given.pop(name) for name in list(given) if name.startswith("max_")}
    flags = given.pop("flags")
    name = home.resolve().name if home else str(bundle).rpartition("/")[2][:12]
    given.setdefault("session_id", _slug(f"{name}-{given['student']}-{date}"))
    return {
        **given,
        "bundle": _NOT_YET if bundle is None else bundle,
        "date": date,
        "flagged_trace_ids": flags,
        "limits": limits,
    }


def _slug(name: str) -> str:
    """Return a name as a session id may be written."""
    slug = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if not slug:
        raise RequestInvalid(f"no session id can be made from {name!r}: give --session-id")
    return slug[:100]
