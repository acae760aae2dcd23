"""Dockerfile and compose.yaml agree with the code, with each other and with safe practice."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from service.cli.app import app
from service.processes.supervisor import _ENGINE_STOP_S, _MORE_THAN_DRAIN_S
from service.settings import ENV_PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("smserve-gpu", "smserve-cpu")
DOCKERFILE = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
INSTRUCTIONS = [
    (line.split(None, 1)[0], line.split(None, 1)[1])
    for line in DOCKERFILE.replace("\\\n", " ").splitlines()
    if line.strip()
]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage, FROM apart."""
    starts = [i for i, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
    for start, end in zip(starts, [*starts[1:], len(INSTRUCTIONS)], strict=True):
        if INSTRUCTIONS[start][1].endswith(f" AS {name}"):
            return INSTRUCTIONS[start + 1 : end]
    raise AssertionError(f"no stage {name}")


def values(instructions: list[tuple[str, str]], word: str) -> list[str]:
    return [text for own, text in instructions if own == word]


def environment() -> dict[str, str]:
    pairs = (shlex.split(text) for text in values(stage("service"), "ENV"))
    return dict(pair.split("=", 1) for several in pairs for pair in several)


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    assert match, text
    return float(match[1]) * {"s": 1, "m": 60}[match[2]]


# ---- the image


def test_the_last_stage_is_the_service_and_the_base_can_be_chosen() -> None:
    assert INSTRUCTIONS[0][0] == "ARG"
    base = INSTRUCTIONS[0][1]
    assert re.fullmatch(r"BASE_IMAGE=nvidia/cuda:13\.0\.\d+-base-ubuntu24\.04", base)
    froms = values(INSTRUCTIONS, "FROM")
    assert froms[-1] == "${BASE_IMAGE} AS service"
    known = {"${BASE_IMAGE}"}
    for line in froms:
        parent, _, name = line.partition(" AS ")
        assert parent in known
        known.add(name)


def test_the_base_has_the_cuda_of_torch() -> None:
    torch_cuda = re.search(r"^nvidia-cuda-runtime==(\d+\.\d+)\.", constraints(), re.MULTILINE)
    assert torch_cuda
    assert f"cuda:{torch_cuda[1]}." in INSTRUCTIONS[0][1]


def test_it_builds_without_buildkit() -> None:
    assert "--mount" not in DOCKERFILE
    assert "<<" not in DOCKERFILE
    assert "COPY --chmod" not in DOCKERFILE
    assert "COPY --link" not in DOCKERFILE


def test_nothing_that_builds_is_left() -> None:
    (install,) = values(stage("service"), "RUN")
    packages = re.search(r"--no-install-recommends\s+(.*?)\s+&&", install)
    assert packages
    assert packages[1].split() == ["python3"]
    assert "rm -rf /var/lib/apt/lists/*" in install
    assert {"pip", "gcc"}.isdisjoint(re.findall(r"\w+", " ".join(values(stage("service"), "RUN"))))
    for text in values(INSTRUCTIONS, "RUN"):
        assert text.count(" install --no-cache-dir") == text.count("pip --python")
        assert text.count("apt-get install") == text.count("--no-install-recommends")


def test_every_package_is_pinned() -> None:
    for name in ("dependencies", "loadtest-dependencies"):
        (command,) = values(stage(name), "RUN")
        assert "-c constraints.txt" in command


def test_signals_and_commands_reach_the_service() -> None:
    service = stage("service")
    assert json.loads(values(service, "ENTRYPOINT")[0]) == ["smserve"]
    assert json.loads(values(service, "CMD")[0]) == ["serve"]
    assert values(service, "STOPSIGNAL") == ["SIGTERM"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    (health,) = values(service, "HEALTHCHECK")
    _, _, probe = health.partition("CMD ")
    assert json.loads(probe) == ["smserve", "health"]
    assert {"serve", "health"} <= commands.keys()


def test_nobody_is_root() -> None:
    for name in ("service", "loadtest"):
        assert values(stage(name), "USER") == ["10001:10001"]
        (install,) = values(stage(name), "RUN")
        assert "useradd --uid 10001 --gid 10001" in install


def test_its_variables_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: text for name, text in environment().items() if name.startswith(ENV_PREFIX)}
    assert ours
    for name, text in ours.items():
        monkeypatch.setenv(name, text)
    settings = load_settings()  # refuses what it does not know
    assert settings.host == "0.0.0.0"  # noqa: S104 - inside the container
    assert str(settings.port) in values(stage("service"), "EXPOSE")
    volumes = json.loads(values(stage("service"), "VOLUME")[0])
    assert str(settings.models_dir) in volumes


def test_caches_lie_on_a_volume() -> None:
    volumes = json.loads(values(stage("service"), "VOLUME")[0])
    for name in ("HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        path = Path(environment()[name])
        assert any(path.is_relative_to(volume) for volume in volumes), name


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    sources = [
        source
        for text in values(INSTRUCTIONS, "COPY")
        if not text.startswith("--from=")
        for source in text.split()[:-1]
    ]
    assert len(sources) > 10
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(path) for path in allowed), source


def test_all_of_our_packages_are_in_the_image() -> None:
    packages = {
        path.name
        for path in ROOT.iterdir()
        if (path / "__init__.py").exists() or path.name in {"service", "model", "kernels"}
    }
    copied = {text.split()[0] for text in values(stage("project"), "COPY")}
    assert {"service", "exporters", "model", "kernels", "demo"} <= copied
    assert packages - copied - {"tests"} == set()


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_image_of_locust_has_what_its_file_imports() -> None:
    copied = [
        Path(text.split()[0]) for text in values(stage("loadtest"), "COPY") if "--" not in text
    ]
    waiting, seen = ["loadtests.locustfile"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = Path(*name.split(".")).with_suffix(".py")
        if (ROOT / path).exists():
            assert any(path.is_relative_to(place) for place in copied), (
                f"{path} is not in the image"
            )
            waiting += imported(ROOT / path)
    # ours that are no files: found nowhere in the image
    assert not {name for name in seen if name.split(".")[0] in {"service", "model", "kernels"}}


def constraints() -> str:
    return (ROOT / "constraints.txt").read_text()


# ---- compose.yaml


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    if name != "loadtest":
        assert service["restart"] == "unless-stopped"
    tag = service["image"].rpartition(":")[2]
    assert tag not in {"", "latest"}
    for port in service.get("ports", []):
        assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:"), "closed to the network by default"


@pytest.mark.parametrize("name", OURS)
def test_docker_waits_for_the_longest_drain(name: str) -> None:
    shutdown = Settings().shutdown
    fronts_s = shutdown.grace_s + shutdown.drain_timeout_s + _MORE_THAN_DRAIN_S
    assert seconds(SERVICES[name]["stop_grace_period"]) >= fronts_s + _ENGINE_STOP_S
    told = re.search(r"--stop-timeout (\d+)", (ROOT / "Dockerfile").read_text())
    assert told
    assert float(told[1]) == seconds(SERVICES[name]["stop_grace_period"])


def test_one_service_for_a_gpu_and_one_without() -> None:
    gpu, cpu = (SERVICES[name] for name in OURS)
    assert (gpu["profiles"], cpu["profiles"]) == (["gpu"], ["cpu"])
    device = gpu["deploy"]["resources"]["reservations"]["devices"][0]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in cpu
    assert "COMPOSE_PROFILES=gpu" in (ROOT / ".env").read_text().splitlines()
    for service in (gpu, cpu):
        assert service["networks"]["default"]["aliases"] == ["smserve"]


def test_builds_name_stages_and_arguments_of_the_dockerfile() -> None:
    arguments = {text.split("=")[0] for text in values(INSTRUCTIONS, "ARG")}
    for service in SERVICES.values():
        if "build" in service:
            stage(service["build"]["target"])
            assert service["build"].get("args", {}).keys() <= arguments


def test_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if isinstance(volume, str) and volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists(), volume
            elif isinstance(volume, str):
                assert volume.split(":")[0] in COMPOSE["volumes"]


def test_everybody_finds_each_other() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]
    }
    address = f"smserve:{Settings().port}"
    assert targets["smserve"] == [address]
    assert SERVICES["loadtest"]["environment"]["LOCUST_HOST"] == f"http://{address}"
    source = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    mounted = {
        volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]
    }
    folder = mounted[str(Path(home).parent)]
    assert (ROOT / folder / Path(home).name).exists()
    provider = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/dashboards/smserve.yml").read_text()
    )["providers"][0]
    assert provider["options"]["path"] == str(Path(home).parent)


def test_variables_for_locust_are_its_own() -> None:
    text = (ROOT / "loadtests/locust_users/options.py").read_text()
    ours = set(re.findall(r"LOCUST_\w+", text))
    usual = ("HOST", "USERS", "SPAWN_RATE", "RUN_TIME", "HTML", "CSV")
    of_locust = {f"LOCUST_{name}" for name in usual}
    assert SERVICES["loadtest"]["environment"].keys() <= ours | of_locust
