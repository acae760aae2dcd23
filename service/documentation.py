"""The OpenAPI page: made from the error classes, so that it cannot drift from the mapping."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

from fastapi import FastAPI

from service.errors import (
    PROBLEM_MEDIA_TYPE,
    InternalError,
    ServiceError,
    UnauthorizedError,
    error_classes,
)
from service.schemas import Problem


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
