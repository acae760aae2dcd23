"""The mapping of exceptions to problem objects."""

import re

import pytest

from model.images import ImageDecodeError, ImageTooLargeError, UnsupportedImageError
from service.errors import (
    ClientLimitError,
    QueueFullError,
    ServiceError,
    error_classes,
    problem,
    service_error,
)


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (ImageDecodeError("x"), 422, "invalid_image"),
        (UnsupportedImageError("x"), 415, "unsupported_format"),
        (ImageTooLargeError("x"), 413, "image_too_large"),
        (QueueFullError("x", retry_after_s=2), 429, "queue_full"),
        (ClientLimitError("x", retry_after_s=2), 429, "client_limit"),
        (ValueError("x"), 500, "internal"),
    ],
)
def test_mapping(exc: Exception, status: int, code: str) -> None:
    error = service_error(exc)
    assert (error.status, error.code) == (status, code)


def test_members_of_a_problem() -> None:
    body = problem(QueueFullError("128 waiting", retry_after_s=4), instance="/a", request_id="7")
    assert body == {
        "type": "urn:smserve:error:queue_full",
        "title": "Queue full",
        "status": 429,
        "detail": "128 waiting",
        "instance": "/a",
        "code": "queue_full",
        "error": "128 waiting",
        "request_id": "7",
        "retry_after_s": 4,
    }


def test_bugs_do_not_leak() -> None:
    body = problem(RuntimeError("password is 123"), instance="/", request_id="7")
    assert "123" not in str(body.values())


def test_long_details_are_cut() -> None:
    assert len(problem(ServiceError("x" * 10_000), instance="/", request_id="7")["detail"]) == 1000


def test_codes_are_unique_words() -> None:
    codes = [cls.code for cls in error_classes()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
