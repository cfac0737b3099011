"""Logs: constant messages with fields, as JSON lines on stderr.

Rule: ids, counts and times; never a prompt, an answer, a key or a URL with credentials.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

__all__ = ["configure_logs"]

#: Libraries that say too much at INFO: one line a request, one a message.
_QUIET = (
    *("httpx2", "httpcore2", "anthropic", "botocore", "boto3", "urllib3", "s3transfer", "amqp"),
    # "received" and "succeeded" with an id of Celery's; our own line has session, step and time.
    *("celery.worker.strategy", "celery.app.trace"),
)


def configure_logs(*, level: str, form: Literal["json", "console"] | str) -> None:  # noqa: PYI051
    """Send our logs and those of libraries to stderr, in one form.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        form: `json` for machines, `console` for people.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
