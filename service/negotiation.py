"""JSON or a picture: what the client wants to have back."""

from typing import Final, Literal

from service.errors import NotAcceptableError

Output = Literal["json", "overlay", "labels"]
_JSON: Final = ("application/json", "application/*", "*/*")
_PNG: Final = ("image/png", "image/*", "*/*")


def choose_output(output: Output | None, accept: str | None, *, num_images: int) -> Output:
    """The form of the answer; `output` in the query wins over the `Accept` header.

    Raises:
        NotAcceptableError: a picture of several images.
    """
    chosen = output or ("overlay" if _prefers_png(accept or "") else "json")
    if chosen != "json" and num_images > 1:
        raise NotAcceptableError(
            f"{num_images} images cannot be answered by one picture; send one image or ask for JSON"
        )
    return chosen


def _prefers_png(accept: str) -> bool:
    weights = quality_weights(accept)
    return _weight(weights, _PNG) > _weight(weights, _JSON)


def _weight(weights: dict[str, float], ranges: tuple[str, ...]) -> float:
    """Of the most specific range that is listed; 0 when none is."""
    return next((weights[one] for one in ranges if one in weights), 0.0)


def quality_weights(accept: str) -> dict[str, float]:
    """What a header of the `Accept` family lists, lower case, and how much each is wanted."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        media_range, *options = (piece.strip().lower() for piece in part.split(";"))
        quality = next((one[2:] for one in options if one.startswith("q=")), "1")
        try:
            weights[media_range] = float(quality)
        except ValueError:
            weights[media_range] = 0.0
    return weights
