"""Compiles every kernel for the H100 on a machine without a GPU, into a cache to carry.

python -m benchmarks.precompile --out DIR [--processes 2] [--what models,matrix]
    [--moved-to DIR_WHEN_USED] [--no-launchers] [--prune]

Compiling takes minutes that a rented GPU, or the start of a container, need not wait for. With
`TRITON_CACHE_DIR` set to the result, each kernel is found there. Triton's key holds the kernel's
source and line, all arguments that change the code, Triton's own files and `ptxas`: sources and the
`triton` wheel must be the same in both places. The launchers, C modules of older Triton versions,
want the same Python version, too; with them no C compiler is needed any more. Kernels in CUDA C++
want the same NVRTC (`benchmarks.precompile_cuda`).

First the programs of `benchmarks.precompile_runs` run on `meta` tensors, and what they would launch
is noted. That is then compiled side by side, without the intermediate code and the line numbers
that make up most of a usual cache.
"""

import argparse
import gc
import hashlib
import importlib
import json
import multiprocessing
import operator
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import triton
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.nvidia import driver as nvidia
from triton.compiler import ASTSource, make_backend
from triton.runtime import build
from triton.runtime.cache import _base32, get_cache_key
from triton.runtime.jit import JITCallable, JITFunction

from benchmarks.kernel_resources import compiled_only
from benchmarks.precompile_cuda import CudaSource, compile_cuda, loads_noted
from benchmarks.precompile_runs import RUNS
from kernels import cubin_cache

PROGRESS_S: Final = 15.0
# the rarest key of today's kernels turned up among the first 100
ORDERS: Final = 400

Report = Callable[[str], None]
# name, whether it was there already, why it failed
Outcome = tuple[str, bool, str]
Job = Callable[[], Outcome]


@dataclass(frozen=True, slots=True)
class Kernel:
    """What Triton compiles, in a form that another process understands.

    Attributes:
        target: of the launch: backend, capability, threads of a warp.
        folders: in the cache, by the keys that the function can have, see `function_keys`; the
            first one has the files, the others refer to it.
    """

    module: str
    name: str
    signature: Mapping[str, str]
    constants: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any]
    options: Mapping[str, Any]
    target: Any
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> ASTSource:
        function = getattr(importlib.import_module(self.module), self.name)
        return ASTSource(function, self.signature, self.constants, self.attributes)

    def folder(self, function_key: str) -> str:
        """Name of the folder in the cache when the function has this key."""
        source, backend = self.source, make_backend(self.target)
        source.fn.hash = function_key
        options = backend.parse_options(dict(self.options))
        key = get_cache_key(source, backend, options, get_cache_invalidating_env_vars())
        return str(_base32(hashlib.sha256(key.encode()).hexdigest()))


@contextmanager
def launches_noted(found: list[Kernel]) -> Iterator[None]:
    """Inside, a launch does nothing but add its kernel to `found`, the first time."""
    compile_as_usual = JITFunction._do_compile
    functions: list[JITFunction] = []

    def note(
        self: JITFunction,
        key: Any,
        signature: dict[str, str],
        device: int,
        constants: dict[tuple[int, ...], Any],
        options: Any,
        attributes: dict[tuple[int, ...], Any],
        _warmup: bool,
    ) -> object:
        launches, _, target, *_ = self.device_caches[device]
        where = (self.module, self.__name__)
        found.append(Kernel(*where, signature, constants, attributes, vars(options), target))
        functions.append(self)
        # nobody looks into what stands for the compiled kernel
        return launches.setdefault(key, object())

    JITFunction._do_compile = note
    try:
        with compiled_only(lambda _name, _kernel: None):
            yield
    finally:
        JITFunction._do_compile = compile_as_usual
        for function in functions:
            function.device_caches.clear()


def function_keys(functions: Sequence[JITFunction]) -> list[list[str]]:
    """Every key that each of the functions can have, sorted.

    Triton 3.6 lets the global constants of a called function into the caller's key only if the
    called one already has a key of its own, that is, if the process has launched another kernel
    that calls it (`DependenciesFinder._update_hash`). So the key depends on the order in which a
    program first launches its kernels; many random orders give all of them.
    """
    keys: list[set[str]] = [set() for _ in functions]
    # not isinstance(), which asks some objects for their class and makes them warn
    known = [own for own in gc.get_objects() if issubclass(type(own), JITCallable)]
    order = list(range(len(functions)))
    shuffle = random.Random(0).shuffle  # noqa: S311 - orders, not secrets
    for _ in range(ORDERS):
        shuffle(order)
        for own in known:
            own.hash, own.used_global_vals = None, {}
        for i in order:
            keys[i].add(functions[i].cache_key)
    return [sorted(own) for own in keys]


def with_folders(kernels: Iterable[Kernel]) -> list[Kernel]:
    """The same with their folders, each once."""
    kernels = list(kernels)
    functions = {(own.module, own.name): own.source.fn for own in kernels}
    keys = dict(zip(functions, function_keys(list(functions.values())), strict=True))
    complete = {}
    for own in kernels:
        folders = {key: own.folder(key) for key in keys[own.module, own.name]}
        complete[tuple(folders.values())] = replace(own, folders=folders)
    return list(complete.values())


def list_kernels(what: Sequence[str], report: Report) -> tuple[list[Kernel], list[CudaSource], int]:
    """All kernels of these runs, Triton's and others, each once, and how many runs failed."""
    found: list[Kernel] = []
    sources: dict[CudaSource, None] = {}
    failed = 0
    with torch.inference_mode(), launches_noted(found), loads_noted(sources):
        for kind in what:
            before = len(found) + len(sources)
            for label, run in RUNS[kind]():
                try:
                    run()
                except Exception as exc:  # noqa: BLE001 - the other kernels are wanted all the same
                    failed += 1
                    report(f"{label}: {type(exc).__name__}: {exc}")
            report(f"{kind}: {len(found) + len(sources) - before} kernels")
    return with_folders(found), list(sources), failed


def use_cache(folder: Path) -> None:
    """The settings of a process that compiles."""
    # the key holds the environment: there, these would make it another one than that of a GPU run
    triton.knobs.propagate_env = False
    triton.knobs.cache.dir = str(folder)
    triton.knobs.compilation.store_binary_only = True
    triton.knobs.compilation.disable_line_info = True


def compile_kernel(kernel: Kernel) -> Outcome:
    """Into the cache -> its name, whether it was there already, why it failed."""
    hits: list[bool] = []
    triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
    source, (key, *_) = kernel.source, kernel.folders
    # another process looked at the sources: what is compiled now must be the same
    if source.fn.cache_key not in kernel.folders:
        return kernel.name, False, "its source changed meanwhile"
    source.fn.hash = key
    try:
        triton.compile(source, target=kernel.target, options=dict(kernel.options))
    except Exception as exc:  # noqa: BLE001 - the others are compiled all the same
        return kernel.name, False, f"{type(exc).__name__}: {str(exc)[-300:]}"
    first, *others = (Path(triton.knobs.cache.dir) / own for own in kernel.folders.values())
    (group,) = first.glob("__grp__*")
    for folder in others:
        folder.mkdir(exist_ok=True)
        shutil.copy(group, folder)
    return kernel.name, all(hits), ""


def compile_module(name: str, source: str, libraries: Path) -> Outcome:
    """The same for a C module, which Triton would compile at the first launch."""
    folders = [triton.knobs.cache.dir / Path(key) for key in module_keys(source)]
    file = f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if all((folder / file).exists() for folder in folders):
        return name, True, ""
    with tempfile.TemporaryDirectory() as build_folder:
        path = Path(build_folder) / f"{name}.c"
        path.write_text(source)
        parts = [str(libraries)], nvidia.include_dirs, nvidia.libraries
        try:
            built = build._build(name, str(path), build_folder, *parts, [])
        except (OSError, RuntimeError, subprocess.CalledProcessError) as exc:
            return name, False, str(exc)
        for folder in folders:
            folder.mkdir(exist_ok=True)
            shutil.copy(built, folder / file)
    return name, False, ""


def module_keys(source: str) -> list[str]:
    """Folders of a C module: their names depend on whether the program `file` is installed."""
    machine = build.platform_key().rsplit(",", 1)[0]
    texts = [f"{source}{machine},{linkage}" for linkage in ("ELF", "")]
    return [_base32(hashlib.sha256(text.encode()).hexdigest()) for text in texts]


def launchers_of(kernels: Sequence[Kernel], folder: Path) -> tuple[list[Job], set[str]]:
    """Jobs that compile the C modules, and their folders in the cache; `folder` is for a library.

    Triton 3.8 has none: one launcher serves all signatures.
    """
    if not hasattr(nvidia, "make_launcher"):
        return [], set()
    if (compiler := shutil.which("gcc") or shutil.which("clang")) is None:
        raise SystemExit("launchers need a C compiler; leave them out with --no-launchers")
    # a library to link against, since only machines with a GPU have the driver's; one that
    # resolves nothing would not be recorded, and the modules would not find the real one
    library, source = "libcuda.so.1", folder / "stub.c"
    source.write_text("int cuGetErrorString(void) { return 0; }")
    command = [compiler, "-shared", f"-Wl,-soname,{library}", "-o", str(folder / library)]
    subprocess.run([*command, str(source)], check=True)  # noqa: S603 - our own words
    modules = {(Path(nvidia.dirname) / "driver.c").read_text(): "cuda_utils"}
    for kernel in kernels:
        own = kernel.source
        text = nvidia.make_launcher(own.constants, own.signature, None)
        modules[text] = "__triton_launcher"
    jobs: list[Job] = [partial(compile_module, name, own, folder) for own, name in modules.items()]
    return jobs, {key for own in modules for key in module_keys(own)}


def run_all(jobs: Sequence[Job], cache: Path, processes: int, report: Report) -> int:
    """Run the jobs side by side, tell how far it is -> how many failed."""
    start = told = time.monotonic()
    compiled = failed = 0
    with multiprocessing.get_context("spawn").Pool(processes, use_cache, (cache,)) as pool:
        outcomes = pool.imap_unordered(operator.call, jobs)
        for done, (name, was_there, reason) in enumerate(outcomes, 1):
            compiled += not was_there and not reason
            if reason:
                failed += 1
                report(f"{name}: {reason}")
            if time.monotonic() - told > PROGRESS_S or done == len(jobs):
                told = time.monotonic()
                there = done - compiled - failed
                report(
                    f"{done} of {len(jobs)} after {told - start:.0f} s: {compiled} compiled, "
                    f"{there} were there, {failed} failed"
                )
    return failed


def strip(cache: Path, moved_to: Path) -> None:
    """Leave what a hit reads, as it will be read at `moved_to`.

    A group file lists the files of its kernel by their absolute paths.
    """
    for group in cache.glob("*/__grp__*.json"):
        old = json.loads(group.read_text())["child_paths"]
        folders = {
            name: Path(path).parent.name
            for name, path in old.items()
            if name.endswith((".json", ".cubin"))
        }
        for file in group.parent.iterdir():
            if file.name not in {group.name, *folders}:
                file.unlink()
        paths = {name: str(moved_to / folder / name) for name, folder in folders.items()}
        group.write_text(json.dumps({"child_paths": paths}))


def precompile(args: argparse.Namespace, report: Report) -> int:
    """Returns how many runs, kernels and modules failed, 0 when all is well."""
    cache: Path = args.out.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    # an earlier result may name another folder: here its kernels are found again
    strip(cache, cache)
    kernels, sources, failed = list_kernels(args.what.split(","), report)
    # the slowest last would leave the other processes idle
    kernels.sort(key=lambda own: -own.options["num_warps"] * own.options["num_stages"])
    jobs: list[Job] = [partial(compile_cuda, own) for own in sources]
    jobs += [partial(compile_kernel, own) for own in kernels]
    wanted = {folder for own in kernels for folder in own.folders.values()} | {cubin_cache.FOLDER}
    with tempfile.TemporaryDirectory() as stub:
        if args.launchers:
            modules, keys = launchers_of(kernels, Path(stub))
            jobs += modules
            wanted |= keys
        failed += run_all(jobs, cache, args.processes, report)
    if args.prune:
        for folder in [own for own in cache.iterdir() if own.name not in wanted]:
            shutil.rmtree(folder)
    strip(cache, (args.moved_to or cache).absolute())
    count = len(list(cache.glob("*/*.cubin")))
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    report(f"{count} kernels, {size / 2**20:.1f} MiB in {cache}; {failed} failed")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the cache")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--what", default=",".join(RUNS), help="with commas between")
    parser.add_argument("--moved-to", type=Path, help="where the cache will lie when it is used")
    parser.add_argument("--no-launchers", dest="launchers", action="store_false")
    parser.add_argument("--prune", action="store_true", help="remove all else from DIR")
    args = parser.parse_args()
    if unknown := set(args.what.split(",")) - set(RUNS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(RUNS)}")
    if precompile(args, lambda line: print(line, flush=True)):
        sys.exit(1)


if __name__ == "__main__":
    main()
