"""What is done to running containers, and what must come of it."""

import os
import signal
import threading
import time
from collections import Counter
from typing import Final

import httpx

from deploy.docker.engine import docker, inspect, python_in, wait_until_healthy
from deploy.proof import Proof
from loadtests.generator.payloads import raw_payloads, sample_pictures
from loadtests.generator.plan import LoadPlan
from loadtests.generator.recorder import Record
from loadtests.generator.run import LoadRun

URL: Final = "http://127.0.0.1:8000"
_START_S: Final = 180.0
# shutdown.grace_s, and what a machine of few cores needs for the rest
_DRAIN_S: Final = 40.0
# a container of its own, as closed as those of compose.yaml, with next to no /dev/shm
_CLOSED: Final = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",  # noqa: S108 - inside the container
    "--security-opt", "no-new-privileges:true", "--shm-size", "65536",
)  # fmt: skip
_PROCESSES: Final = """
from pathlib import Path
for entry in Path("/proc").iterdir():
    if entry.name.isdigit():
        words = (entry / "cmdline").read_bytes().replace(b"\\0", b" ").decode()
        title = " ".join(words.split())  # a program given as an argument has several lines
        state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        print(entry.name, state, title or "-")
"""


def processes(container: str) -> list[tuple[int, str, str]]:
    """Number inside the container, state (`Z`: a zombie), and title of each."""
    found = []
    for line in python_in(container, _PROCESSES).splitlines():
        number, state, title = line.split(" ", 2)
        found.append((int(number), state, title))
    return found


def inspect_container(container: str, proof: Proof) -> None:
    """Who it is, and what it cannot do."""
    proof.equal("user inside", python_in(container, "import os; print(os.getuid())"), "10001")
    proof.equal(
        "root file system is read-only", inspect(container, ".HostConfig.ReadonlyRootfs"), True
    )
    proof.equal(
        "capabilities",
        python_in(
            container,
            "print([line.split()[1] for line in open('/proc/self/status') if 'CapEff' in line][0])",
        ),
        "0" * 16,
    )
    refused = python_in(
        container,
        "import pathlib\ntry: pathlib.Path('/opt/venv/x').write_text('x')\n"
        "except OSError as exc: print(exc.strerror)",
    )
    proof.equal("writing beside the program", refused, "Read-only file system")
    python_in(container, "import pathlib; pathlib.Path('/cache/x').write_text('x')")
    proof.equal("first process", processes_by_number(container)[1].split()[-1], "serve")
    models = httpx.get(f"{URL}/models").json()["models"]
    proof.equal("demo models inside", len(models), 3)


def processes_by_number(container: str) -> dict[int, str]:
    return {number: title for number, _, title in processes(container)}


def kill_main_process(container: str, proof: Proof) -> None:
    """SIGKILL from outside, as the kernel sends it when memory is short."""
    before = inspect(container, ".RestartCount")
    killed_at = time.monotonic()
    os.kill(inspect(container, ".State.Pid"), signal.SIGKILL)
    while inspect(container, ".RestartCount") == before:
        if time.monotonic() > killed_at + _START_S:
            proof.fail("a killed container was not started again")
            return
        time.sleep(0.2)
    wait_until_healthy(container, _START_S)
    proof.note("from a killed main process to healthy", time.monotonic() - killed_at, "s")
    proof.equal("restarts by policy", inspect(container, ".RestartCount") - before, 1)


def drain_under_load(container: str, proof: Proof) -> None:
    """`docker stop` while requests come: what was sent before is answered, and the exit is 0."""
    payloads = raw_payloads("/classify", sample_pictures())
    plan = LoadPlan(urls=(URL,), duration_s=12, rate=10, connections=64, keep_records=True)
    ended: list[float] = []

    def stop() -> None:
        docker("stop", "--time", "60", container)
        ended.append(time.monotonic())

    with LoadRun(plan, payloads) as load:
        time.sleep(max(0.0, load.started_at + 4 - time.monotonic()))
        stopped_at = time.monotonic()
        stopping = threading.Thread(target=stop)
        stopping.start()
        result = load.wait()
    stopping.join()
    _judge_drain(result.records, stopped_at, proof)
    proof.at_most("from `docker stop` to the end", ended[0] - stopped_at, _DRAIN_S, "s")
    proof.equal("exit status after `docker stop`", inspect(container, ".State.ExitCode"), 0)
    proof.equal("killed for memory", inspect(container, ".State.OOMKilled"), False)


def _judge_drain(records: list[Record], stopped_at: float, proof: Proof) -> None:
    before = [one for one in records if one.sent < stopped_at]
    waiting = [one for one in before if one.settled > stopped_at]
    grace = [one for one in records if one.sent >= stopped_at and one.status == 200]
    proof.note("requests before `docker stop`", len(before), "requests")
    proof.note("of these without an answer then", len(waiting), "requests")
    proof.note("answered although sent later, in the grace time", len(grace), "requests")
    lost = Counter(one.status or one.kind for one in before if one.status != 200)
    proof.equal("accepted requests lost", dict(lost), {})


def crash_inside(image: str, proof: Proof) -> None:
    """With front ends: engines and the process that makes front ends are killed."""
    variables = {"SMSERVE_FRONTENDS": "2", "SMSERVE_BACKEND": "stub"}
    given = [word for name, text in variables.items() for word in ("-e", f"{name}={text}")]
    container = docker("run", "-d", *_CLOSED, *given, image)
    try:
        wait_until_healthy(container, _START_S)
        _crash("smserve-engine[0]", "engine", container, proof)
        _crash("forkserver", "front", container, proof)
        time.sleep(2)
        zombies = [title for _, state, title in processes(container) if state == "Z"]
        proof.equal("zombies after crashes", zombies, [])
        proof.equal("restarts of the container meanwhile", inspect(container, ".RestartCount"), 0)
        docker("stop", "--time", "60", container)
        proof.equal("exit status with front ends", inspect(container, ".State.ExitCode"), 0)
    finally:
        docker("rm", "-f", "-v", container)


def _crash(title: str, kind: str, container: str, proof: Proof) -> None:
    """Kill the first process with this in its title; others of `kind` are started again."""
    victim = next(number for number, _, own in processes(container) if title in own)
    before = _restarts(container, kind)
    python_in(container, f"import os; os.kill({victim}, 9)")
    killed_at = time.monotonic()
    while _restarts(container, kind) == before:
        if time.monotonic() > killed_at + _START_S:
            proof.fail(f"{title} was killed, and nothing was started again")
            return
        time.sleep(0.2)
    while "ready" not in docker_health(container):
        time.sleep(0.2)
    proof.note(f"from a killed {title} to ready", time.monotonic() - killed_at, "s")


def docker_health(container: str) -> str:
    """What `smserve health` says."""
    program = (
        "import subprocess; "
        "print(subprocess.run(['smserve', 'health'], capture_output=True, text=True).stdout)"
    )
    return python_in(container, program)


def _restarts(container: str, kind: str) -> float:
    program = (
        "from urllib.request import urlopen\n"
        "try: print(urlopen('http://127.0.0.1:8000/metrics', timeout=5).read().decode())\n"
        "except OSError: pass"
    )
    lines = python_in(container, program).splitlines()
    start = f'smserve_process_restarts_total{{process="{kind}"'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(start))


def stop_early(image: str, proof: Proof) -> None:
    """SIGTERM while everything is still being imported, of which the first process hears itself."""
    container = docker("run", "-d", *_CLOSED, image)
    try:
        while not processes_by_number(container):
            time.sleep(0.05)
        stopped_at = time.monotonic()
        docker("stop", "--time", "30", container)
        proof.at_most("`docker stop` at once, to the end", time.monotonic() - stopped_at, 15, "s")
        status = inspect(container, ".State.ExitCode")
        proof.equal("it heard of it", status in (0, 128 + signal.SIGTERM), True)
    finally:
        docker("rm", "-f", "-v", container)
    granted = docker("run", "--rm", "--cpus", "1", "--entrypoint", "python", image, "-c",
                     "from service.cores import usable_cores; print(usable_cores())")  # fmt: skip
    proof.equal("cores with --cpus 1", granted, "1")
