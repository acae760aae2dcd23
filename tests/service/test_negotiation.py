"""JSON or picture."""

import pytest

from service.errors import NotAcceptableError
from service.negotiation import choose_output


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, "json"),
        ("", "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("image/png", "overlay"),
        ("IMAGE/PNG", "overlay"),
        ("image/*", "overlay"),
        ("image/png;q=0.5, application/json", "json"),
        ("application/json;q=0.5, image/png", "overlay"),
        ("image/png, */*;q=0.1", "overlay"),
        ("image/png;q=much", "json"),
        (";;,,q=1", "json"),
        ("text/html", "json"),
    ],
)
def test_accept(accept: str | None, wanted: str) -> None:
    assert choose_output(None, accept, num_images=1) == wanted


def test_the_query_wins() -> None:
    assert choose_output("json", "image/png", num_images=1) == "json"
    assert choose_output("labels", "application/json", num_images=1) == "labels"


def test_one_picture_cannot_show_several_images() -> None:
    with pytest.raises(NotAcceptableError, match="3 images"):
        choose_output(None, "image/png", num_images=3)
