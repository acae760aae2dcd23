"""Which paths ask for work, of which task, and which of them ask for a key."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from model.config import TaskName
from service.engine.base import ServedModel

# a model has one version at a time: what a reload brings takes the place of what was there
MODEL_VERSION: Final = "1"
TASK_PATHS: Final[Mapping[str, TaskName]] = MappingProxyType(
    {f"/{task}": task for task in TaskName} | {f"/hf/{task}": task for task in TaskName}
)
_MODEL: Final = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
_INFER: Final = re.compile(f"{_MODEL}/infer")
_READY: Final = re.compile(f"{_MODEL}/ready")
_KEY_PREFIXES: Final = ("/v2/models/", "/v2/repository/")


def is_work(path: str) -> bool:
    """Whether this path leads to the engine."""
    return path in TASK_PATHS or _INFER.fullmatch(path) is not None


def needs_key(path: str) -> bool:
    """Whether this path is closed to strangers; probes are open."""
    if path in TASK_PATHS or path == "/models":
        return True
    return path.startswith(_KEY_PREFIXES) and _READY.fullmatch(path) is None


def task_of(path: str, models: Callable[[], Sequence[ServedModel]]) -> TaskName | None:
    """The task of the work that this path asks for; None: no work, or a model nobody serves."""
    task = TASK_PATHS.get(path)
    if task is not None or not path.startswith("/v2/"):
        return task
    found = _INFER.fullmatch(path)
    if found is None or found["version"] not in (None, MODEL_VERSION):
        return None
    return next((one.spec.task for one in models() if one.spec.name == found["model"]), None)
