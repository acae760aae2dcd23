"""The OpenAPI description: complete, and what schemathesis finds with it."""

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
from tests.service.processes import ServiceProcess, service_process

EXAMPLES = 25
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
    assert {operation.path for operation in operations} >= {"/classify", "/detect", "/segment"}
    for operation in operations:
        _check_operation(operation)


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


@pytest.mark.parametrize("path", ["/classify", "/detect", "/segment"])
def test_every_error_class_is_documented(path: str) -> None:
    responses = description()["paths"][path]["post"]["responses"]
    for cls in error_classes():
        assert f"`{cls.code}`" in responses[str(cls.status)]["description"]
        assert "application/problem+json" in responses[str(cls.status)]["content"]


@pytest.mark.parametrize("path", ["/classify", "/detect", "/segment"])
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
