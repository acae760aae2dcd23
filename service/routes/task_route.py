"""Routes whose query is read by its model alone: what FastAPI would find out about each request."""

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from service.context import context_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class TaskRoute(APIRoute):
    """A route of an endpoint `(request, query, context)`, described like any other.

    The body is the endpoint's own business and the dependencies are always the same: solving them
    anew for each request, a seventh of a front end's time, would buy nothing.
    """

    def get_route_handler(self) -> Handler:
        endpoint = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["query"]

        async def handle(request: Request) -> Response:
            query = read_query(request, model)
            response: Response = await endpoint(request, query, await context_of(request))
            return response

        return handle


def read_query(request: Request, model: type[BaseModel]) -> BaseModel:
    """The query parameters; of a name that is given twice the last one counts.

    Raises:
        RequestValidationError: unknown names or values that do not fit.
    """
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as exc:
        errors = [
            {**error, "loc": ("query", *error["loc"])} for error in exc.errors(include_url=False)
        ]
        raise RequestValidationError(errors) from exc
