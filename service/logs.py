"""Log records as one JSON object a line; what belongs to a request carries its id and trace."""

import logging
import os
import select
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any, Final

import orjson

from service.setting_groups import LogSettings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
_STDERR: Final = 2
_CLOSE_S: Final = 1.0
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger, message, request and trace id, whatever was given as `extra`."""

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
        "time": _utc(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    current = request_id.get()
    if current is not None:
        fields["request_id"] = current
    trace = trace_id.get()
    if trace is not None:
        fields["trace_id"] = trace
    fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    return fields


def _utc(seconds: float) -> str:
    """ISO 8601 with milliseconds, UTC."""
    whole = int(seconds)
    return f"{_utc_second(whole)}.{int((seconds - whole) * 1000):03d}+00:00"


@lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class BackgroundHandler(logging.Handler):
    """Writes lines from a thread of its own, so that a blocked reader never stops the service.

    Lines wait in a bounded queue. When it is full they are dropped and counted; the number is
    logged as soon as the reader goes on.

    Args:
        descriptor: of the open file; written to without Python's buffers, whose locks a blocked
            thread would keep until the end of the process.
        capacity: lines that may wait.
    """

    def __init__(self, descriptor: int, capacity: int = 10_000) -> None:
        super().__init__()
        self.num_dropped = 0
        self._descriptor = descriptor
        self._capacity = capacity
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="smserve-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= self._capacity:
            self.num_dropped += 1
            return
        try:
            # formatted here: the request id belongs to the context of the caller
            self._lines.put(self.format(record))
        except Exception:  # noqa: BLE001 - as all handlers do: logging must not end the work
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        self._lines.put(None)
        self._thread.join(_CLOSE_S)
        super().close()

    def _write_all(self) -> None:
        num_reported = 0
        is_open = True
        while is_open:
            lines, is_open = self._next_lines()
            try:
                self._write(b"".join(lines))
                # emit counts under the handler's lock, this thread only reads
                if (num_dropped := self.num_dropped) > num_reported:
                    report = _dropped_record(num_dropped - num_reported)
                    self._write(_encoded(self.format(report)))
                    num_reported = num_dropped
            except OSError:
                # nobody reads any more
                self.num_dropped += len(lines)

    def _next_lines(self) -> tuple[list[bytes], bool]:
        """What waits, as far as one write takes it, and whether more may come; waits for one."""
        lines: list[bytes] = []
        line = self._lines.get()
        try:
            while line is not None:
                lines.append(_encoded(line))
                # other processes may write to the same pipe: up to this size nothing is mixed
                if sum(map(len, lines)) > select.PIPE_BUF // 2:
                    return lines, True
                line = self._lines.get_nowait()
        except Empty:
            return lines, True
        return lines, False

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def _encoded(line: str) -> bytes:
    return (line + "\n").encode(errors="backslashreplace")


def _dropped_record(number: int) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": __name__, "levelno": logging.WARNING})
    record.levelname, record.msg = "WARNING", "log records dropped"
    record.records = number
    return record


def configure_logging(settings: LogSettings) -> None:
    """Send all records of this process to standard error in the chosen form."""
    handler = BackgroundHandler(_STDERR)
    is_text = settings.format == "text" or (settings.format == "auto" and os.isatty(_STDERR))
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, BackgroundHandler):
            old.close()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("service").setLevel(settings.level.upper())
    # the server's own chatter repeats what the service logs about itself
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
