"""What can go wrong, and the one place that turns it into HTTP (RFC 9457 problem details)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model.images import ImageDecodeError, ImageTooLargeError, UnsupportedImageError

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
_MAX_DETAIL: Final = 1000


class ServiceError(Exception):
    """An error with an answer. `str(error)` is shown to the client.

    Attributes:
        status: of the HTTP answer.
        code: stable, for programs.
        title: stable, for people.
        retry_after_s: when trying again makes sense; None: not by waiting.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(self.retry_after_s)}


class InternalError(ServiceError):
    """A bug; the client learns no more than the request id."""


class MalformedBodyError(ServiceError):
    """JSON or multipart that cannot be read, or that has fields nobody asked for."""

    status = 400
    code = "malformed_body"
    title = "Malformed body"


class InvalidInferenceRequestError(ServiceError):
    """Open Inference Protocol: tensors, outputs or parameters that do not fit the model."""

    status = 400
    code = "invalid_inference_request"
    title = "Invalid inference request"


class UnauthorizedError(ServiceError):
    status = 401
    code = "unauthorized"
    title = "API key missing or wrong"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class RouteNotFoundError(ServiceError):
    status = 404
    code = "not_found"
    title = "Not found"


class ModelNotFoundError(ServiceError):
    status = 404
    code = "model_not_found"
    title = "Model not found"


class MethodNotAllowedError(ServiceError):
    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class NotAcceptableError(ServiceError):
    """The wanted form of the answer does not exist for this request."""

    status = 406
    code = "not_acceptable"
    title = "Not acceptable"


class BodyTimeoutError(ServiceError):
    status = 408
    code = "body_timeout"
    title = "Body not received in time"

    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class BodyTooLargeError(ServiceError):
    status = 413
    code = "body_too_large"
    title = "Body too large"

    def headers(self) -> dict[str, str]:
        # the rest of the body is not read, so the connection cannot be used again
        return {"Connection": "close"}


class TooManyImagesError(ServiceError):
    status = 413
    code = "too_many_images"
    title = "Too many images"


class ImageOverLimitError(ServiceError):
    status = 413
    code = "image_too_large"
    title = "Image too large"


class UnsupportedFormatError(ServiceError):
    status = 415
    code = "unsupported_format"
    title = "Unsupported image format"


class InvalidImageError(ServiceError):
    status = 422
    code = "invalid_image"
    title = "Image not readable"


class InvalidParameterError(ServiceError):
    status = 422
    code = "invalid_parameter"
    title = "Invalid parameter"


class QueueFullError(ServiceError):
    """No room; `retry_after_s` is the time the present queue needs."""

    status = 429
    code = "queue_full"
    title = "Queue full"


class ClientLimitError(ServiceError):
    """One client holds as much work as it may."""

    status = 429
    code = "client_limit"
    title = "Too much work of one client"


class DeadlineUnreachableError(ServiceError):
    """The work ahead takes longer than the client is willing to wait."""

    status = 429
    code = "deadline_unreachable"
    title = "Deadline cannot be met"


class ClientGoneError(ServiceError):
    """Nobody is left to answer; for logs and metrics only."""

    status = 499
    code = "client_gone"
    title = "Client closed the connection"


class InferenceFailedError(ServiceError):
    """The model failed on this image, alone in its batch."""

    status = 500
    code = "inference_failed"
    title = "Inference failed"


class NotReadyError(ServiceError):
    status = 503
    code = "not_ready"
    title = "Starting"


class ShuttingDownError(ServiceError):
    status = 503
    code = "shutting_down"
    title = "Shutting down"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "Connection": "close"}


class EngineUnavailableError(ServiceError):
    """The thread or process that owns the device is gone."""

    status = 503
    code = "engine_unavailable"
    title = "Engine unavailable"


class DeadlineExceededError(ServiceError):
    status = 504
    code = "deadline_exceeded"
    title = "Deadline exceeded"


class AdminError(ServiceError):
    """Known on the endpoint for operators only."""


class ForeignRequestError(AdminError):
    """A request that a web page could have sent."""

    status = 403
    code = "foreign_request"
    title = "Not from this machine"


class ReloadRefusedError(AdminError):
    """Not now: the service is starting, stopping, or reloading already."""

    status = 409
    code = "reload_refused"
    title = "Reload refused"


class ReloadFailedError(AdminError):
    """What was served before is served on."""

    status = 500
    code = "reload_failed"
    title = "Reload failed"


_BY_STATUS: Final[Mapping[int, type[ServiceError]]] = {
    400: MalformedBodyError,
    404: RouteNotFoundError,
    405: MethodNotAllowedError,
    413: BodyTooLargeError,
    422: InvalidParameterError,
}


def service_error(exc: Exception) -> ServiceError:
    """The one mapping of exceptions to answers; what it does not know is a bug."""
    match exc:
        case ServiceError():
            return exc
        case ImageTooLargeError():
            return ImageOverLimitError(str(exc))
        case UnsupportedImageError():
            return UnsupportedFormatError(str(exc))
        case ImageDecodeError():
            return InvalidImageError(str(exc))
        case RequestValidationError():
            return InvalidParameterError("; ".join(_validation_lines(exc)))
        case HTTPException() if exc.status_code in _BY_STATUS:
            return _BY_STATUS[exc.status_code](str(exc.detail))
    return InternalError("an unexpected error; quote the request id when reporting it")


def _validation_lines(exc: RequestValidationError) -> Iterator[str]:
    for error in exc.errors():
        where, *names = error["loc"] or ("request",)
        name = ".".join(str(part) for part in names)[:100]
        if error["type"] == "extra_forbidden":
            yield f"unknown {where} parameter {name!r}"
        else:
            found = repr(error.get("input"))[:60]
            yield f"{where} parameter {name!r}: {error['msg']}, got {found}"


def problem(exc: Exception, *, instance: str, request_id: str) -> dict[str, Any]:
    """The problem object of an exception: RFC 9457 members, `code`, and `error` for V2 clients."""
    error = service_error(exc)
    detail = error.detail[:_MAX_DETAIL]
    body: dict[str, Any] = {
        "type": f"urn:smserve:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": detail,
        "instance": instance,
        "code": error.code,
        "error": detail,
        "request_id": request_id,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    return body


def problem_response(exc: Exception, *, instance: str, request_id: str) -> Response:
    """The HTTP answer of an exception."""
    error = service_error(exc)
    headers = error.headers()
    if isinstance(exc, HTTPException) and exc.headers:
        headers = {**exc.headers, **headers}
    return Response(
        orjson.dumps(problem(exc, instance=instance, request_id=request_id)),
        status_code=error.status,
        headers=headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def error_classes() -> list[type[ServiceError]]:
    """Every class a client can meet, by status; the OpenAPI page is made from them."""
    unseen = (ClientGoneError, AdminError)
    classes = (cls for cls in ServiceError.__subclasses__() if cls not in unseen)
    return sorted(classes, key=lambda cls: (cls.status, cls.code))
