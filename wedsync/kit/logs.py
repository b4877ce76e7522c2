"""Write structured logs to stderr: one JSON object a line, with the ids of its subjects and no guest's data.

structlog's and the standard library's loggers (Temporal's, uvicorn's) share one output.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import structlog
from opentelemetry import trace
from structlog.contextvars import bound_contextvars
from structlog.stdlib import ExtraAdder, ProcessorFormatter

from wedsync.kit.settings import Settings

REDACTED = "[redacted]"
#: A key with one of these words anywhere holds a secret, or a document full of what guests said.
_SECRET_WORDS = re.compile(
    r"authorization|cookies?|credentials?|dsn|headers|inputs|passwd|password|payload|pepper|secrets?|signature|token"
)
#: A key that ends with one of these words describes a person.
_PERSONAL_WORDS = re.compile(
    r"address|birthday|body|caption|contacts?|couple|e?mails?|guests?|html|names?|notes?|phones?|recipients?|subject|text"
)
#: These name programs and things, not people.
_ALLOWED_KEYS = re.compile(r"(activity|logger|program|task_queue|queue|vendor|workflow)_name|temporal_address")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
#: Patterns that give a secret away inside a sentence.
_PATTERNS = (
    re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"),
    re.compile(r"(?i)\b(?:bearer|basic)\s+[\w.~+/=-]{8,}"),
    re.compile(r"\b(?:wsk_|sk_|rk_|pk_|whsec_|re_|SG\.|xox[a-z]-)[\w./+=-]{8,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?<![\w.:-])\+\d[\d ()-]{6,16}\d\b"),
)
#: A text without any of these has nothing that the patterns find.
_TELLTALE = re.compile(r"[@+]|(?i:bearer|basic)|wsk_|[srp]k_|whsec_|re_|SG\.|xox")
_QUIET = ("httpx", "httpcore", "uvicorn.access", "asyncio", "alembic.runtime.plugins")
_DEEPEST = 6


def setup(settings: Settings, program: str) -> None:
    """Send every log of this process to stderr, by `settings.log_level` and `settings.log_format`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _add_trace_ids,
        _ProgramAdder(program),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*shared, ExtraAdder(allow=("temporal_workflow", "temporal_activity"))],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _renderer(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger; `log.info("step_done", attempt=2)`: an event in snake case, facts as keywords."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bound(**ids: str | None) -> AbstractContextManager[None]:
    """Have every log within it carry these ids (`wedding_id`, `transaction_id`, `step_id`, `request_id`, ...)."""
    return bound_contextvars(**{name: value for name, value in ids.items() if value is not None})


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Withhold secrets and guests' data: whole values by their key, telltale patterns within texts."""
    for key in list(event):
        event[key] = _clean(key, event[key], 0)
    return event


def _clean(key: str, value: Any, depth: int) -> Any:
    if _is_withheld(key) and value not in (None, "", b"", {}, [], ()):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes) or depth >= _DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {str(name): _clean(str(name), inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", inner, depth + 1) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


@lru_cache(maxsize=4096)
def _is_withheld(key: str) -> bool:
    if _ALLOWED_KEYS.fullmatch(key):
        return False
    words = _CAMEL.sub("_", key).lower().replace("-", "_").split("_")
    if _PERSONAL_WORDS.fullmatch(words[-1]) or words[-2:] in (["api", "key"], ["private", "key"]):
        return True
    return any(_SECRET_WORDS.fullmatch(word) for word in words)


def redact_text(text: str) -> str:
    """Return `text` without mail addresses, international phone numbers, bearer tokens, keys and URLs' passwords."""
    if _TELLTALE.search(text) is None:
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(REDACTED, text)
    return text


def _add_trace_ids(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


class _ProgramAdder:
    def __init__(self, program: str) -> None:
        self._program = program

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["program"] = self._program
        return event


def _renderer(settings: Settings) -> structlog.typing.Processor:
    if settings.log_format == "console":
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer(ensure_ascii=False)
