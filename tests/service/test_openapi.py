"""The OpenAPI description: complete, and what schemathesis finds with it."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="requests are generated from the description")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from service.app import create_app
from service.errors import error_classes
from service.settings import Settings
from tests.service.pictures import jpeg
from tests.service.processes import ServiceProcess, service_process

EXAMPLES = 25
TASKS = ["/classify", "/detect", "/segment"]
OPEN_INFERENCE = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    "/v2/repository/index",
    *(
        f"/v2/models/{{name}}{version}{path}"
        for version in ("", "/versions/{version}")
        for path in ("", "/ready", "/config", "/stats", "/infer")
    ),
]
CHECK_NAMES = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def description() -> dict[str, Any]:
    return create_app(Settings(backend="stub", pool_size=1)).openapi()


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process() as running:
        yield running


def test_generated_requests_are_answered_as_described(service: ServiceProcess) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {*TASKS, *OPEN_INFERENCE}
    for operation in operations:
        _check_operation(operation)


@pytest.mark.parametrize("path", OPEN_INFERENCE)
def test_models_that_are_there_are_answered_as_described(
    service: ServiceProcess, path: str
) -> None:
    """Generated names hardly ever are those of models."""
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    method = "POST" if path.endswith(("/infer", "/index")) else "GET"
    for name in ("stub-classify", "stub-detect", "stub-segment"):
        parameters = {"name": name, "version": "1"}
        case = schema[path][method].Case(
            path_parameters={key: own for key, own in parameters.items() if f"{{{key}}}" in path}
        )
        if path.endswith("/infer"):
            data = [b64encode(jpeg(8, 8)).decode()]
            tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": data}
            case.body, case.media_type = {"inputs": [tensor]}, "application/json"
        response = case.call()
        assert response.status_code == 200, response.text
        case.validate_response(response, checks=CHECKS.get_by_names(CHECK_NAMES))


def _check_operation(operation: Any) -> None:
    checks = CHECKS.get_by_names(CHECK_NAMES)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        response = case.call()
        # a timeout of one millisecond was asked for, and is answered by design
        assert response.status_code < 500 or response.status_code in (503, 504), response.text
        case.validate_response(response, checks=checks)

    check()


@pytest.mark.parametrize("path", [*TASKS, "/v2/models/{name}/infer"])
def test_every_error_class_is_documented(path: str) -> None:
    responses = description()["paths"][path]["post"]["responses"]
    for cls in error_classes():
        assert f"`{cls.code}`" in responses[str(cls.status)]["description"]
        assert "application/problem+json" in responses[str(cls.status)]["content"]


@pytest.mark.parametrize("path", TASKS)
def test_the_three_body_forms_are_documented(path: str) -> None:
    content = description()["paths"][path]["post"]["requestBody"]["content"]
    assert set(content) == {"image/*", "multipart/form-data", "application/json"}


def test_parameters_are_documented() -> None:
    paths = description()["paths"]
    names = {one["name"] for one in paths["/detect"]["post"]["parameters"]}
    assert names == {
        "model",
        "classes",
        "timeout_ms",
        "threshold",
        "nms_iou",
        "max_detections",
        "masks",
        "format",
        "image_ids",
        "output",
        "X-Priority",
        "X-Request-Timeout-Ms",
    }
