"""What a browser opens: the playground, the documentation, the sample pictures."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from model.images import read_header
from service.documentation import COMMON_ERRORS, problem_responses
from service.errors import RouteNotFoundError
from service.schemas import Sample
from service.shipped import sample_images, sample_title

STATIC_FOLDER: Final = Path(__file__).resolve().parent.parent / "static"
PAGE_POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'"
)
# the library of this page writes style attributes
_DOCS_POLICY: Final = f"{PAGE_POLICY}; style-src 'self' 'unsafe-inline'"
_MEDIA_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
router = APIRouter(tags=["pages"])


class PageFiles(StaticFiles):
    """Scripts and styles, which the browser asks about before it uses its copy.

    Otherwise a page could mix modules from before and after an upgrade.
    """

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _page_headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


@router.get("/", include_in_schema=False)
async def playground() -> Response:
    return FileResponse(STATIC_FOLDER / "index.html", headers=_page_headers(PAGE_POLICY))


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    return FileResponse(STATIC_FOLDER / "docs.html", headers=_page_headers(_DOCS_POLICY))


@router.get("/samples", responses=problem_responses(COMMON_ERRORS))
def samples() -> list[Sample]:
    """The pictures that ship with the project."""
    return [sample for sample, _ in _samples().values()]


@router.get("/samples/{name}", response_model=None, include_in_schema=False)
def sample(name: str) -> Response:
    if name not in _samples():
        raise RouteNotFoundError(f"no sample {name[:60]!r}, see /samples")
    _, path = _samples()[name]
    media_type = _MEDIA_TYPES.get(read_header(path.read_bytes()).format)
    return FileResponse(
        path, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"}
    )


@cache
def _samples() -> dict[str, tuple[Sample, Path]]:
    """Name of the file -> its description and path."""
    found = {}
    for path in sample_images():
        header = read_header(path.read_bytes())
        found[path.name] = (
            Sample(
                name=path.name,
                url=f"/samples/{path.name}",
                width=header.width,
                height=header.height,
                title=sample_title(path),
            ),
            path,
        )
    return found
