"""Every manifest is valid by the published schemas, strictly: unknown fields are errors."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import K8S, RENDERED, Manifest, object_files, pod_of, rendered
from tests.service.processes import ROOT

CRDS = ROOT / "tests/data/crds"
# of Kubernetes: the oldest one that all fields exist in, and the newest one there are schemas of
VERSIONS = ("1.31", "1.37")


def validate(manifest: Manifest) -> None:
    """Raise for an object that its schema does not allow."""
    schema = CRDS / f"{manifest['kind']}.json"
    if schema.exists():
        jsonschema.validate(manifest, json.loads(schema.read_text(encoding="utf-8")))
        return
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("path", object_files(), ids=lambda path: str(path.relative_to(K8S)))
def test_every_file_is_valid(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        validate(manifest)


@pytest.mark.parametrize("folder", RENDERED)
def test_every_rendered_object_is_valid(folder: str) -> None:
    for manifest in rendered(folder):
        validate(manifest)
    # the parts that KServe takes over from Kubernetes are checked as the pod that they make
    validate(pod_of(folder))


def changed(path: str, keys: list[Any], value: Any) -> Manifest:
    """A manifest of ours with one thing wrong."""
    manifest = copy.deepcopy(yaml.safe_load((K8S / path).read_text(encoding="utf-8")))
    place = manifest
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return manifest


@pytest.mark.parametrize(
    ("path", "keys", "value"),
    [
        ("base/deployment.yaml", ["spec", "template", "spec", "enableServiceLink"], False),
        ("base/service.yaml", ["spec", "ports", 0, "port"], "http"),
        ("components/keda/scaled-object.yaml", ["spec", "pollingIntervall"], 15),
        ("components/keda/scaled-object.yaml", ["spec", "triggers", 0, "metadata", "t"], 128),
        ("components/keda/scaled-object.yaml", ["spec", "minReplicaCount"], -1),
        ("components/pod-monitor/pod-monitor.yaml", ["spec", "podMetricsEndpoints", 0, "prt"], ""),
        ("kserve/serving-runtime.yaml", ["spec", "protocolVersions"], "v2"),
        ("kserve/serving-runtime.yaml", ["spec", "supportedModelFormats", 0, "nam"], "x"),
        ("kserve/inference-service.yaml", ["spec", "predictor", "model", "storageURI"], "pvc://"),
    ],
)
def test_a_mistake_is_found(path: str, keys: list[Any], value: Any) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(changed(path, keys, value))
