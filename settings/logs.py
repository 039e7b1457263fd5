"""The log: one event a line on stderr, as JSON for machines or in columns for people.

Records that libraries log through ``logging`` pass through the same processors as our structlog events, so nothing
reaches the log unredacted. stdout is left to the program's output.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sendq.redaction import redact_all
from settings.model import Settings
from settings.trace import trace

# Celery's loggers that write a line at INFO for each message received and for each done: one message is a bundle of
# turns, and the calls of these have lines of their own. With the level DEBUG they are written.
PER_MESSAGE = ("celery.worker.strategy", "celery.app.trace")


def start_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (default: stderr). A second call replaces the configuration of the first."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(lambda exc_info: trace(exc_info[1])),  # without texts and variables
        _redacted,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(settings, handler.stream),
            ],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in PER_MESSAGE:
        logging.getLogger(name).setLevel(
            logging.NOTSET if root.level < logging.INFO else max(root.level, logging.WARNING)
        )


def _renderer(settings: Settings, stream: TextIO) -> Processor:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())


def _redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value if key.startswith("_") else redact_all(value) for key, value in event.items()}
