"""Is the GPU's JPEG decoder of torchvision safe to use in a server? A verdict, with its speed.

python -m loadtests.nvjpeg_corruption --out loadtests/results/nvjpeg-h100.json

NVIDIA's hardware decoder was seen to ignore the stream that it is given and to write into memory
that other work still used (pytorch/vision#9606). These tests would show it:

- canaries: tensors of known contents are copied and summed on other streams while decoding goes on;
- reuse: blocks that were freed with kernels still reading them go to the decoder's pictures; the
  allocator hands them out again on the same stream, which is safe only if the decoder keeps to it.
  Two controls prove the pattern: an ordinary write must spoil nothing, an unordered one be caught;
- pictures: every decoded picture against the CPU decoder in batches of all sizes and with damaged
  files between good ones. The mean error of a picture may be 4 levels, which chroma upsampling of
  another kind needs; wrong pixels are a statement of their own: more than 2 % of the values off by
  more than 48 levels;
- memory: device memory over thousands of decodes.

Then images per second for several batch sizes beside simplejpeg on 16 threads. Exit status 1 when
a test or a control failed; `usable` of the verdict says whether to use it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.report import GrowingReport, Row
from loadtests.block_reuse import (
    ReuseCount,
    ReuseTest,
    Shape,
    UnorderedWriter,
    failed_controls,
    write_in_order,
)
from loadtests.generator.payloads import jpeg_pictures
from loadtests.long_run import exit_on_sigterm
from loadtests.picture_errors import PictureError, picture_error

_MIB: Final = 1024 * 1024
_THREADS: Final = 16
_GROWTH_MIB: Final = 64.0
_SIZES: Final = ((500, 375), (640, 480), (333, 500), (64, 64), (1333, 800))


def main() -> int:
    """All tests, each within its share of the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the tests")
    args = parser.parse_args()
    exit_on_sigterm()
    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 2
    report = GrowingReport(args.out, "nvjpeg-corruption")
    files = _files()
    decoder, controls = _reuse(report, files, args.seconds)
    off, wrong = _pictures(report, files)
    found = {
        "reuse controls": len(controls),
        "reuse": decoder.corrupt,
        "pictures out of tolerance": off,
        "wrong pixels": wrong,
        "canaries": _canaries(report, files, args.seconds),
        "damaged": _damaged(report, files),
        "memory": _memory(report, files, args.seconds),
    }
    ratio = _throughput(report)
    failed = sorted(name for name, count in found.items() if count)
    verdict = {"failed": failed, "gpu over cpu": round(ratio, 2), "usable": not failed}
    report.add([Row("verdict", "tests failed", "tests", len(failed))])
    print(json.dumps(verdict))
    return 1 if failed else 0


def _files() -> list[bytes]:
    return [
        file
        for index, (width, height) in enumerate(_SIZES)
        for file in jpeg_pictures(
            width, height, number=8, target_bytes=max(3_000, width * height // 4), seed=index
        )
    ]


def _as_tensor(file: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(file, np.uint8).copy())


def _decode(files: Sequence[Tensor]) -> list[Tensor]:
    """(3, H, W) uint8 on the device."""
    decoded: list[Tensor] = decode_jpeg(list(files), mode=ImageReadMode.RGB, device="cuda")
    return decoded


def _canaries(report: GrowingReport, files: Sequence[bytes], seconds: float) -> int:
    """Tensors that nobody writes keep their contents, and copies of them, too."""
    inputs = [_as_tensor(file) for file in files]
    canaries = [torch.full((8 * _MIB,), 17 + k, dtype=torch.uint8, device="cuda") for k in range(8)]
    streams = [torch.cuda.Stream() for _ in canaries]
    wrong = rounds = 0
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        copies = []
        for canary, stream in zip(canaries, streams, strict=True):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                copies.append(canary.clone())
                copies.append(copies[-1].clone())
        pictures = _decode(inputs)
        torch.cuda.synchronize()
        for index, copy in enumerate(copies):
            wrong += int((copy != 17 + index // 2).any())
        wrong += sum(int((c != 17 + k).any()) for k, c in enumerate(canaries))
        del copies, pictures
        rounds += 1
    report.add(
        [Row("canaries", "rounds", "rounds", rounds), Row("canaries", "corrupt", "tensors", wrong)]
    )
    return wrong


def _reuse(
    report: GrowingReport, files: Sequence[bytes], seconds: float
) -> tuple[ReuseCount, list[str]]:
    """The decoder's count, and which controls failed."""
    inputs: dict[Shape, list[Tensor]] = {
        (3, height, width): [_as_tensor(f) for f in files[8 * k : 8 * k + 8]]
        for k, (width, height) in enumerate(_SIZES)
    }
    test = ReuseTest()
    counts = {}
    for case, write, budget_s in (
        ("reuse control, write in order", write_in_order, seconds / 2),
        ("reuse control, unordered write", UnorderedWriter(), seconds / 2),
        ("reuse", lambda shape, _: _decode(inputs[shape]), seconds),
    ):
        count = counts[case] = test.run(write, cycle(inputs), 8, budget_s)
        report.add(
            Row(case, name, unit, value)
            for name, unit, value in (
                ("rounds", "rounds", count.rounds),
                ("reads", "reads", count.reads),
                ("reused", "blocks", count.reused),
                ("corrupt", "reads", count.corrupt),
            )
        )
    in_order, unordered, decoder = counts.values()
    controls = failed_controls(in_order, unordered)
    for reason in controls:
        report.fail("reuse controls", reason)
    return decoder, controls


def _reference(file: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file, colorspace="RGB")
    return pixels


def _error(picture: Tensor, wanted: NDArray[np.uint8]) -> PictureError:
    return picture_error(picture.permute(1, 2, 0).cpu().numpy(), wanted)


def _is_same(picture: Tensor, wanted: NDArray[np.uint8]) -> bool:
    error = _error(picture, wanted)
    return error.is_within_tolerance and not error.has_wrong_pixels


def _pictures(report: GrowingReport, files: Sequence[bytes]) -> tuple[int, int]:
    """Batches of all sizes and mixtures, decoded while other streams are busy.

    Returns:
        Pictures out of the tolerance, and pictures with wrong pixels.
    """
    wanted = [_reference(file) for file in files]
    inputs = [_as_tensor(file) for file in files]
    side, busy = torch.cuda.Stream(), torch.randn(2048, 2048, device="cuda")
    rng = np.random.default_rng(0)
    errors = []
    for batch in (1, 2, 3, 5, 8, 16, 31, 64, 128) * 2:
        chosen = rng.integers(len(files), size=batch)
        with torch.cuda.stream(side):
            for _ in range(4):
                busy = (busy @ busy).clamp_(-1, 1)
        pictures = _decode([inputs[index] for index in chosen])
        # read on the current stream without any wait, as a user would
        errors += [_error(one, wanted[index]) for index, one in zip(chosen, pictures, strict=True)]
    off = sum(not error.is_within_tolerance for error in errors)
    wrong = sum(error.has_wrong_pixels for error in errors)
    report.add(
        [
            Row("pictures", "compared", "pictures", len(errors)),
            Row("pictures", "mean error above 4 levels", "pictures", off),
            Row("pictures", "with wrong pixels", "pictures", wrong),
            Row("pictures", "mean error, worst picture", "levels", max(e.mean for e in errors)),
            Row("pictures", "far values, worst picture", "ratio", max(e.far_share for e in errors)),
            Row("pictures", "largest error", "levels", max(e.largest for e in errors)),
        ]
    )
    return off, wrong


def _damage(file: bytes, kind: int) -> bytes:
    """Cut short, without its end, with wrong bytes in the scan, not a JPEG at all."""
    middle = len(file) // 2
    return (
        file[:middle],
        file[:-2],
        file[:middle] + bytes(64) + file[middle + 64 :],
        b"not a picture" * 20,
    )[kind]


def _damaged(report: GrowingReport, files: Sequence[bytes]) -> int:
    """Damaged files raise or give some picture; the good ones around and after them stay right."""
    wrong = raised = 0
    for number in range(40):
        good = files[number % len(files)]
        bad = _damage(files[(number + 3) % len(files)], number % 4)
        try:
            first, _, last = _decode([_as_tensor(good), _as_tensor(bad), _as_tensor(good)])
            wrong += sum(not _is_same(one, _reference(good)) for one in (first, last))
        except (RuntimeError, ValueError):
            raised += 1
        try:
            (alone,) = _decode([_as_tensor(good)])
            wrong += not _is_same(alone, _reference(good))
        except RuntimeError as exc:
            wrong += 1
            report.fail(f"damaged-{number}", exc)
    report.add(
        [
            Row("damaged", "batches refused", "batches", raised),
            Row("damaged", "good pictures wrong", "pictures", wrong),
        ]
    )
    return wrong


def _memory(report: GrowingReport, files: Sequence[bytes], seconds: float) -> int:
    """Used memory of the device, beyond what torch knows of, over thousands of decodes."""
    inputs = [_as_tensor(file) for file in files]
    broken = [_as_tensor(_damage(file, 0)) for file in files[:4]]
    used, decoded = [], 0
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        for _ in range(10):
            _decode(inputs)
            decoded += len(inputs)
        for file in broken:
            try:
                _decode([file])
            except RuntimeError:
                continue
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used.append((total - free) / _MIB)
    growth = used[-1] - used[len(used) // 4]
    report.add(
        [
            Row("memory", "decoded", "pictures", decoded),
            Row("memory", "growth", "MiB", growth),
        ]
    )
    return int(growth > _GROWTH_MIB)


def _throughput(report: GrowingReport) -> float:
    """Images per second on the device over those of the CPU, best batch, 500 x 375."""
    files = jpeg_pictures(500, 375, number=64, target_bytes=50_000)
    best = 0.0
    for batch in (1, 8, 32, 64, 128):
        inputs = [_as_tensor(files[index % len(files)]) for index in range(batch)]
        rate = _rate(lambda inputs=inputs: _decode(inputs), batch)  # type: ignore[misc]
        best = max(best, rate)
        report.add([Row(f"gpu-b{batch}", "throughput", "images/s", rate)])
    with ThreadPoolExecutor(_THREADS) as pool:
        rate = _rate(lambda: list(pool.map(_reference, files * 2)), 2 * len(files))
    case = f"simplejpeg-{_THREADS}-threads-{len(os.sched_getaffinity(0))}-cores"
    report.add([Row(case, "throughput", "images/s", rate)])
    return best / rate


def _rate(call: Any, images: int, budget_s: float = 1.5) -> float:
    call()
    torch.cuda.synchronize()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() < started + budget_s:
        call()
        calls += 1
    torch.cuda.synchronize()
    return calls * images / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
