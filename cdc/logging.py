"""Structured logs on stderr: readable on a console, one JSON object a line for machines.

Messages are lowercase events; facts go into keys (slot, table, lsn, topic, offset, epoch). Values of
rows and passwords are never logged.
"""

from __future__ import annotations

import logging
import sys

import structlog

LOG_FORMATS = ("console", "json")


def configure_logging(log_format: str, level: str = "info") -> None:
    """Set up the process's logs; `log_format` is one of LOG_FORMATS, `level` a standard level name."""
    # What matters of it reaches us as exceptions; its own lines name hosts and users.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    last: list[structlog.typing.Processor]
    if log_format == "json":
        last = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        last = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
