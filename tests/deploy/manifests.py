"""The objects of deploy/k8s, as files and as `kubectl kustomize` renders them."""

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.service.processes import ROOT

K8S: Final = ROOT / "deploy/k8s"
RENDERED: Final = ("overlays/gpu", "overlays/cpu", "kserve")
_PATCHES: Final = frozenset({K8S / "overlays/cpu/deployment.yaml"})

_POD_FIELDS: Final = frozenset(
    {
        "containers",
        "volumes",
        "tolerations",
        "securityContext",
        "terminationGracePeriodSeconds",
        "enableServiceLinks",
    }
)

Manifest = Mapping[str, Any]


def object_files() -> list[Path]:
    """Whole objects; neither kustomizations nor patches."""
    found = (path for path in sorted(K8S.rglob("*.yaml")) if path.name != "kustomization.yaml")
    return [path for path in found if path not in _PATCHES]


@cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """All objects of a kustomization; skips the test where kubectl is not installed."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("rendering needs kubectl, which is not installed")
    done = subprocess.run(  # noqa: S603 - our own folder
        [kubectl, "kustomize", str(K8S / folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(objects: tuple[Manifest, ...], kind: str) -> Manifest:
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def pod_of(folder: str) -> Manifest:
    """The pod of a rendering, whoever makes it."""
    objects = rendered(folder)
    if folder == "kserve":
        parts = of_kind(objects, "ServingRuntime")["spec"] | _predictor(objects)
        metadata, spec = {}, {name: parts[name] for name in _POD_FIELDS if name in parts}
    else:
        template = of_kind(objects, "Deployment")["spec"]["template"]
        metadata, spec = template["metadata"], template["spec"]
    metadata = {"name": "smserve", **metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _predictor(objects: tuple[Manifest, ...]) -> Any:
    return of_kind(objects, "InferenceService")["spec"]["predictor"]


def container_of(folder: str) -> Manifest:
    (container,) = pod_of(folder)["spec"]["containers"]
    found: Manifest = container
    return found


def environment_of(folder: str) -> dict[str, str]:
    """Plain variables of the container, with those of its ConfigMap; secrets are left out."""
    container = container_of(folder)
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        config = of_kind(rendered(folder), "ConfigMap")
        assert config["metadata"]["name"] == source["configMapRef"]["name"]
        variables |= config["data"]
    return variables | {one["name"]: one["value"] for one in container["env"] if "value" in one}
