"""Starts the peers of the HTTP benchmark."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from loadtests.generator.payloads import Payload
from loadtests.own_server import ServerProcess, free_port
from loadtests.workloads import Workload

PLAIN: Final = "plain"
# name -> workers on one device
LITSERVE: Final = {"litserve": 1, "litserve-4-workers": 4}
PEERS: Final = (*LITSERVE, PLAIN)
_START_S: Final = 400.0


def peer_payloads(peer: str, workload: Workload) -> list[Payload]:
    """The form in which the peer takes a picture."""
    path = "/predict"
    if peer == PLAIN:
        return [Payload(path, one.content_type, one.body, 1) for one in workload.payloads()]
    return workload.form_payloads(path)


@contextmanager
def peer_process(peer: str, workload: Workload, batch: int) -> Iterator[ServerProcess]:
    """A peer with the workload's model, ready.

    Raises:
        ServerStartError: it cannot serve, e.g. because it is not installed.
        KeyError: no such peer.
    """
    port = free_port()
    with TemporaryDirectory(prefix="smserve-peer-") as folder:
        picture = Path(folder) / "picture.jpg"
        picture.write_bytes(workload.pictures[0])
        options = ["--model", str(workload.model_file), "--picture", str(picture)]
        options += ["--port", str(port)]
        if "threshold=0" in workload.query:
            options.append("--random-weights")
        if peer == PLAIN:
            program = "loadtests.peers.plain_server"
        else:
            program = "loadtests.peers.litserve_server"
            api_servers = max(1, len(os.sched_getaffinity(0)) // 4)
            options += ["--batch", str(batch), "--workers", str(LITSERVE[peer])]
            options += ["--api-servers", str(api_servers)]
        command = [sys.executable, "-m", program, *options]
        with ServerProcess(
            command,
            port=port,
            environment=os.environ,  # noqa: TID251 - handed on to the server, not read
            ready_path="/health",
            start_s=_START_S,
        ) as server:
            yield server
