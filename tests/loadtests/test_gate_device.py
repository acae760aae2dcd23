"""A gate's result names what computed."""

import httpx
import pytest

from benchmarks.report import cpu_name
from loadtests.gates.gate import device_of, gpu_names
from loadtests.own_server import ServerProcess

METRIC = "smserve_gpu_info"


def answers(device: str, *gpus: str) -> httpx.MockTransport:
    lines = [f"# TYPE {METRIC} gauge"]
    lines += [f'{METRIC}{{gpu="{n}",name="{name}",uuid="{n}"}} 1.0' for n, name in enumerate(gpus)]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/models":
            return httpx.Response(200, json={"models": [{"device": device}] * 3})
        return httpx.Response(200, text="\n".join(lines) + "\n")

    return httpx.MockTransport(answer)


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"),
    [
        ("cpu", (), cpu_name()),
        ("cuda:0", ("NVIDIA X",), "NVIDIA X"),
        ("cuda:0", ("NVIDIA X", "NVIDIA X"), "2 x NVIDIA X"),
        ("cuda:0", (), "cuda:0"),
    ],
)
def test_the_device_is_the_servers(
    device: str, gpus: tuple[str, ...], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = httpx.Client(transport=answers(device, *gpus))
    monkeypatch.setattr(httpx, "get", client.get)
    server = ServerProcess([], port=1, environment={})
    try:
        assert device_of(server) == wanted
    finally:
        server.close()


def test_different_gpus_are_all_named() -> None:
    assert gpu_names(["A", "B", "A"]) == "2 x A, B"
