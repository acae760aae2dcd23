"""Which bodies are one picture as they are."""

import pytest

from service.bodies import is_bare_picture, parse_body
from service.errors import MalformedBodyError
from service.setting_groups import LimitSettings

BODY = b"anything"


@pytest.mark.parametrize(
    "content_type",
    ["", "image/jpeg", "application/octet-stream", "text/plain; charset=utf-8", "nonsense;;;"],
)
def test_a_bare_picture_needs_no_parsing(content_type: str) -> None:
    assert is_bare_picture(content_type)
    assert parse_body(BODY, content_type, LimitSettings()).images == (BODY,)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "multipart/form-data; boundary=x",
        "MULTIPART/form-data",
    ],
)
def test_others_are_parsed(content_type: str) -> None:
    assert not is_bare_picture(content_type)
    with pytest.raises(MalformedBodyError):
        parse_body(BODY, content_type, LimitSettings())
