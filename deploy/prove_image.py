"""Build the image, run the compose file's CPU profile, and see that both do what they promise.

python -m deploy.prove_image --out deploy/results

Needs a Docker engine with Compose 2.24, and promtool. With --no-registry everything is built from
one base image that is here (CPU_BASE_IMAGE), Prometheus comes from Debian's packages, and there is
no Grafana; see deploy/compose.no-registry.yaml. Exit status 1 when a promise is broken.

Ends with `docker compose down --volumes` of the project smserve: what it had stored is gone.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.report import Row, cpu_name, write_report
from deploy import check_stack
from deploy.container_steps import (
    crash_inside,
    drain_under_load,
    inspect_container,
    kill_main_process,
    stop_early,
)
from deploy.docker.engine import ROOT, Compose, DockerError, docker, inspect, wait_until_healthy
from deploy.proof import Proof

IMAGE: Final = "smserve:cpu"
SERVICE: Final = "smserve-cpu"
_START_S: Final = 180.0
# longer than the range of the dashboards' rates
_LOAD_S: Final = 100
_BEFORE_ASKING_S: Final = 80
_SITE: Final = "/opt/venv/lib/python3*/site-packages"
_CUDA_PARTS: Final = f"{_SITE}/nvidia {_SITE}/triton {_SITE}/torch/lib/libtorch_cuda*"


def build(compose: Compose, proof: Proof) -> None:
    """All images of the profile, and Locust's."""
    started = time.monotonic()
    compose.run("--profile", "loadtest", "build")
    proof.note("build, where layers may be there already", time.monotonic() - started, "s")


def in_image(command: str) -> str:
    """What a shell prints in the image."""
    return docker("run", "--rm", "--entrypoint", "/bin/sh", IMAGE, "-c", command)


def look_at_image(proof: Proof) -> None:
    """Size, layers, what it holds and what it must not."""
    proof.note("image size", inspect(IMAGE, ".Size") / 1e6, "MB")
    proof.note("layers", len(inspect(IMAGE, ".RootFS.Layers")), "layers")
    sizes = in_image(f"du -scm {_CUDA_PARTS} | tail -1").split()
    proof.note("of the image: CUDA's libraries and Triton", float(sizes[0]), "MB")
    proof.equal("user", inspect(IMAGE, ".Config.User"), "10001:10001")
    proof.equal("signal that stops it", inspect(IMAGE, ".Config.StopSignal"), "SIGTERM")
    proof.equal("entry point", inspect(IMAGE, ".Config.Entrypoint"), ["smserve"])
    left = in_image("ls /opt/venv/bin; command -v gcc cc make; ls -d /root/.cache || true")
    unwanted = set(re.findall(r"^(?:.*/)?(pip\d*|gcc|cc|make|\.cache)$", left, re.MULTILINE))
    proof.equal("tools of the build that are left", sorted(unwanted), [])
    proof.equal("packages that are not pinned", unpinned(), [])
    proof.equal("what Triton asks a compiler for", in_image(_TRITON_ASKS), "compiled")


_TRITON_ASKS: Final = """python - <<'END'
from pathlib import Path
from triton.backends.nvidia import driver
from triton.runtime.build import compile_so_from_file
source = Path(driver.__file__).with_name("driver.c")
module = compile_so_from_file(src_path=str(source), name="cuda_utils",
    include_dirs=driver.include_dirs, libraries=driver.libraries)
print("compiled" if Path(module).stat().st_size > 10_000 else "empty")
END"""


def unpinned() -> list[str]:
    """Packages of the image whose version is not that of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.lower().replace("_", "-") for line in lines if not line.startswith("#")}
    listing = in_image(
        'python -c "from importlib.metadata import distributions as d\n'
        "for one in d(): print(one.metadata['Name'], one.version, sep='==')\""
    )
    found = {line.lower().replace("_", "-") for line in listing.splitlines()}
    return sorted(name for name in found - pinned if not name.startswith("spatial-mamba-serve=="))


def check_rules(proof: Proof) -> None:
    """What promtool says of configuration and alerts."""
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["promtool", *command],  # noqa: S607
            cwd=ROOT / "deploy" / "prometheus",
            capture_output=True,
            check=False,
        )
        proof.equal(f"promtool {' '.join(command)}", done.returncode, 0)


def ask_under_load(compose: Compose, proof: Proof, out: Path) -> None:
    """Locust sends right and wrong requests while Prometheus is asked for everything."""
    run = ["run", "--rm", "-e", f"LOCUST_RUN_TIME={_LOAD_S}s", "-e", "LOCUST_MISTAKES=0.2"]
    with compose.start(*run, "-e", "LOCUST_USERS=3", "loadtest") as load:
        # its container starts, too
        time.sleep(_BEFORE_ASKING_S)
        report = check_stack.check_stack(
            check_stack.Prometheus("http://127.0.0.1:9090"), has_gpu=False
        )
        proof.equal("Locust's exit status", load.wait(), 0)
    check_stack.write(report, out / "stack.json")
    for query in report.missing:
        print(f"MISSING: {query.source}: {query.title}: {query.expr}")
    proof.equal("targets", report.targets, dict.fromkeys(("smserve", "prometheus"), "up"))
    proof.equal("queries without a series", len(report.missing), 0)
    answered = len(report.found) - len(report.no_gpu) - len(report.missing)
    proof.note("queries of dashboards and alerts with a series", answered, "queries")
    proof.note("queries that need a GPU, which is not here", len(report.no_gpu), "queries")


def prove(compose: Compose, proof: Proof, arguments: argparse.Namespace) -> None:
    """Everything, in order."""
    if not arguments.no_build:
        build(compose, proof)
    check_rules(proof)
    look_at_image(proof)
    started = time.monotonic()
    compose.run("up", "--detach", "--no-build")
    container = compose.container(SERVICE)
    wait_until_healthy(container, _START_S)
    proof.note("from `up` to healthy", time.monotonic() - started, "s")
    inspect_container(container, proof)
    ask_under_load(compose, proof, arguments.out)
    kill_main_process(container, proof)
    drain_under_load(container, proof)
    crash_inside(IMAGE, proof)
    stop_early(IMAGE, proof)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-registry", action="store_true", help="no image registry is reached")
    parser.add_argument("--no-build", action="store_true", help="with the images that are here")
    parser.add_argument("--out", type=Path, default=ROOT / "deploy" / "results")
    arguments = parser.parse_args()
    extra = ["deploy/compose.no-registry.yaml"] if arguments.no_registry else []
    variables = {"COMPOSE_PROFILES": "", "DOCKER_BUILDKIT": "0" if arguments.no_registry else "1"}
    compose = Compose(["compose.yaml", *extra], "cpu", variables)
    proof = Proof()
    try:
        prove(compose, proof, arguments)
    except DockerError as exc:
        proof.fail(str(exc))
    finally:
        compose.run("down", "--volumes", "--timeout", "60")
    versions = {"docker": inspect_versions()}
    rows = [Row("image", *row) for row in proof.rows]
    write_report(
        arguments.out / "image.json", "image", rows, cpu_name(),
        engine=versions["docker"], promises=proof.kept, failures=proof.failures,
    )  # fmt: skip
    for failure in proof.failures:
        print(f"BROKEN: {failure}")
    return 1 if proof.failures else 0


def inspect_versions() -> str:
    return docker("version", "--format", "engine {{.Server.Version}}, client {{.Client.Version}}")


if __name__ == "__main__":
    sys.exit(main())
