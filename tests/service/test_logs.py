"""Records as lines, and a reader of standard error that stops reading."""

import logging
import os
import time
from collections.abc import Iterator
from typing import Literal

import orjson
import pytest

from service.logs import (
    BackgroundHandler,
    JsonFormatter,
    TextFormatter,
    configure_logging,
    request_id,
)
from service.setting_groups import LogSettings


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def json_logger(handler: logging.Handler) -> logging.Logger:
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("some")
    logger.addHandler(handler)
    return logger


def lines_until(reader: int, last: str) -> list[dict[str, object]]:
    """Records up to the one with this message, which must come."""
    data = b""
    while f'"{last}"'.encode() not in data or not data.endswith(b"\n"):
        data += os.read(reader, 65536)
    return [orjson.loads(line) for line in data.splitlines()]


def test_lines_carry_the_request_id_of_their_caller(pipe: tuple[int, int]) -> None:
    handler = BackgroundHandler(pipe[1])
    token = request_id.set("abc")
    try:
        json_logger(handler).warning("hello", extra={"number": 3})
    finally:
        request_id.reset(token)
    handler.close()
    (line,) = lines_until(pipe[0], "hello")
    assert (line["message"], line["number"], line["request_id"]) == ("hello", 3, "abc")


def test_a_reader_that_stops_costs_lines_but_no_time(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = BackgroundHandler(writer, capacity=50)
    logger = json_logger(handler)
    # one that waited for the reader would never come back
    for number in range(300):
        logger.warning("x" * 4000, extra={"number": number})
    assert handler.num_dropped > 100
    written, told = 0, 0
    data = b""
    # every line is either written or counted; the counts may come in several reports
    while written + told < 300:
        data += os.read(reader, 65536)
        whole, _, _ = data.rpartition(b"\n")
        records = [orjson.loads(line) for line in whole.splitlines()]
        reports = [r["records"] for r in records if r["message"] == "log records dropped"]
        written, told = len(records) - len(reports), sum(reports)
    assert (written + told, told) == (300, handler.num_dropped)
    handler.close()


def test_closing_does_not_wait_for_a_reader_that_stopped() -> None:
    reader, writer = os.pipe()
    handler = BackgroundHandler(writer, capacity=2)
    logger = json_logger(handler)
    for _ in range(10):
        logger.warning("x" * 100_000)
    started = time.monotonic()
    handler.close()
    assert time.monotonic() - started < 20
    # nobody reads any more: what waits is thrown away, the thread lives on
    os.close(reader)
    while not handler._lines.empty():
        assert time.monotonic() - started < 60
        time.sleep(0.01)
    handler.close()
    assert not handler._thread.is_alive()
    os.close(writer)


@pytest.mark.parametrize(
    ("form", "is_terminal", "expected"),
    [
        ("auto", True, TextFormatter),
        ("auto", False, JsonFormatter),
        ("json", True, JsonFormatter),
        ("text", False, TextFormatter),
    ],
)
def test_people_at_a_terminal_get_text(
    form: Literal["auto", "json", "text"],
    is_terminal: bool,
    expected: type[logging.Formatter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.logs.os.isatty", lambda _descriptor: is_terminal)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(LogSettings(format=form))
        assert type(root.handlers[0].formatter) is expected
    finally:
        root.handlers[0].close()
        root.handlers[:] = handlers
        root.setLevel(level)
