"""The reference pages are those that the code gives, and nothing is left without a description."""

from collections.abc import Callable

import pytest

from docs.reference import FOLDER, attributes_of, metrics_page, settings_page
from service.setting_groups import Section, TimeoutSettings
from service.settings import Settings
from tests.service.running import running_service

CLASSES = [
    Settings,
    *(field.annotation for field in Settings.model_fields.values()),
]


@pytest.mark.parametrize(
    ("name", "page"), [("settings.md", settings_page), ("metrics.md", metrics_page)]
)
def test_the_page_is_up_to_date(name: str, page: Callable[[], str]) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize(
    "cls", [one for one in CLASSES if isinstance(one, type) and issubclass(one, Section | Settings)]
)
def test_every_setting_is_described_once(cls: type[Section] | type[Settings]) -> None:
    described = attributes_of(cls)
    groups = {
        name
        for name, field in cls.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    assert described.keys() == cls.model_fields.keys() - groups


def test_a_description_may_go_on_in_further_lines() -> None:
    text = attributes_of(TimeoutSettings)["heartbeat_s"]
    assert text.startswith("a device thread silent for longer")
    assert text.endswith("is then replaced.")


@pytest.mark.anyio
async def test_metrics_of_a_running_service_are_on_the_page() -> None:
    page = metrics_page()
    async with running_service(Settings(backend="stub")) as running:
        text = (await running.client.get("/metrics")).text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert len(names) > 25
    # `_created` comes with the one that it belongs to
    shown = {name for name in names if not name.endswith("_created")}
    assert {name for name in shown if f"| `{name}` |" not in page} == set()
