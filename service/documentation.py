"""The OpenAPI page: made from the error classes, so that it cannot drift from the mapping."""

import base64
import hashlib
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html

from service.errors import (
    PROBLEM_MEDIA_TYPE,
    InternalError,
    ServiceError,
    UnauthorizedError,
    error_classes,
)
from service.schemas import Problem

_ASSETS: Final = "/static/vendor/swagger-ui"
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def problem_responses(
    classes: Iterable[type[ServiceError]] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for these error classes; None: all of them."""
    chosen = error_classes() if classes is None else sorted(classes, key=lambda cls: cls.status)
    return {
        status: {
            "model": Problem,
            "description": "; ".join(f"{cls.title} (`{cls.code}`)" for cls in group),
        }
        for status, group in groupby(chosen, key=lambda cls: cls.status)
    }


COMMON_ERRORS: Final = (InternalError,)
KEY_ERRORS: Final = (InternalError, UnauthorizedError)


def install_openapi(app: FastAPI) -> None:
    """Give problem answers their own media type in `/openapi.json`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            for operation in _operations(schema):
                _mark_problems(operation)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(schema: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for path in schema["paths"].values():
        yield from path.values()


def _mark_problems(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if int(status) >= 400 and "application/json" in content:
            content[PROBLEM_MEDIA_TYPE] = content.pop("application/json")


def docs_page(title: str) -> tuple[str, str]:
    """The HTML of `/docs`, from assets of our own, and a content security policy for it."""
    response = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url="/static/favicon.svg",
    )
    html = bytes(response.body).decode()
    hashes = " ".join(_source_hash(script) for script in _SCRIPT.findall(html))
    # the page's library writes style attributes and shows pictures as data
    policy = (
        f"default-src 'self'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _source_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
