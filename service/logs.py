"""Log records as one JSON object a line; what belongs to a request carries its id."""

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from service.settings import LogSettings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger, message, request id, and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(
            _fields(self, record), default=str, option=orjson.OPT_NON_STR_KEYS
        ).decode()


class TextFormatter(logging.Formatter):
    """The same fields for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(self, record)
        head = [fields.pop(name) for name in ("time", "level", "message")]
        fields.pop("logger")
        trace = fields.pop("exception", None)
        tail = [f"{name}={value}" for name, value in fields.items()]
        return " ".join([*map(str, head), *tail]) + (f"\n{trace}" if trace else "")


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    current = request_id.get()
    if current is not None:
        fields["request_id"] = current
    fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    return fields


def configure_logging(settings: LogSettings) -> None:
    """Send all records of this process to standard error in the chosen form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("service").setLevel(settings.level.upper())
    # the server's own chatter repeats what the service logs about itself
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
