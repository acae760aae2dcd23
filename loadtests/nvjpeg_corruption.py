"""Is the GPU's JPEG decoder of torchvision safe to use in a server? A verdict, with its speed.

python -m loadtests.nvjpeg_corruption --out loadtests/results/nvjpeg-h100.json

NVIDIA's hardware decoder was seen to ignore the stream that it is given and to write into memory
that other work still used (pytorch/vision#9606). These tests would show it:

- canaries: tensors of known contents are copied and summed on other streams while decoding goes on;
- reuse: blocks that were freed with kernels still reading them go to the decoder's pictures; the
  allocator hands them out again on the same stream, which is safe only if the decoder keeps to it;
- pictures: every decoded picture against the CPU decoder, within a stated tolerance, in batches of
  all sizes and with damaged files between good ones;
- memory: device memory over thousands of decodes.

Then images per second for several batch sizes beside simplejpeg on 16 threads. Exit status 1 when
anything was corrupt; `usable` of the verdict says whether to use it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.report import GrowingReport, Row
from loadtests.generator.payloads import jpeg_pictures

# nvJPEG's inverse transform and chroma interpolation round differently: mean and largest error
_MEAN_LEVELS: Final = 2.0
# of pixels, at chroma edges; a picture with another one's pixels in it is off by far more
_FAR_LEVELS: Final = 48
_FAR_SHARE: Final = 0.02
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
    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 2
    report = GrowingReport(args.out, "nvjpeg-corruption")
    files = _files()
    found = {
        "canaries": _canaries(report, files, args.seconds),
        "reuse": _reuse(report, files, args.seconds),
        "pictures": _pictures(report, files),
        "damaged": _damaged(report, files),
        "memory": _memory(report, files, args.seconds),
    }
    ratio = _throughput(report)
    corrupt = sorted(name for name, count in found.items() if count)
    verdict = {"corrupt": corrupt, "gpu over cpu": round(ratio, 2), "usable": not corrupt}
    report.add([Row("verdict", "tests failed", "tests", len(corrupt))])
    print(json.dumps(verdict))
    return 1 if corrupt else 0


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


def _reuse(report: GrowingReport, files: Sequence[bytes], seconds: float) -> int:
    """A long chain of kernels reads a block that has been freed and may be given to a picture.

    The allocator hands a block out again at once on the stream that freed it, which is right for
    work that keeps to the stream. A decoder that does not overwrites what the chain still reads.
    """
    inputs = {
        size: [_as_tensor(f) for f in files[8 * k : 8 * k + 8]] for k, size in enumerate(_SIZES)
    }
    weight = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    wrong = rounds = 0
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        (width, height), batch = list(inputs.items())[rounds % len(inputs)]
        torch.cuda.synchronize()
        # blocks of exactly the size of the pictures to come
        victims = [
            torch.full((3, height, width), 99, dtype=torch.uint8, device="cuda") for _ in batch
        ]
        for _ in range(8):  # keeps the stream busy, so that the reads below come late
            weight = (weight @ weight).clamp_(-1, 1)
        reads = [victim.to(torch.int32).sum() for victim in victims]
        addresses = {victim.data_ptr() for victim in victims}
        del victims
        pictures = _decode(batch)
        torch.cuda.synchronize()
        wrong += sum(int(read.item() != 99 * 3 * height * width) for read in reads)
        rounds += 1
        if rounds <= len(inputs):
            reused = sum(picture.data_ptr() in addresses for picture in pictures)
            report.add([Row(f"reuse-{width}x{height}", "blocks reused", "blocks", reused)])
    report.add([Row("reuse", "rounds", "rounds", rounds), Row("reuse", "corrupt", "reads", wrong)])
    return wrong


def _reference(file: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file, colorspace="RGB")
    return pixels


def _is_same(picture: Tensor, wanted: NDArray[np.uint8]) -> bool:
    got = picture.permute(1, 2, 0).cpu().numpy()
    if got.shape != wanted.shape:
        return False
    error = np.abs(got.astype(np.int16) - wanted)
    far = float((error > _FAR_LEVELS).mean())
    return float(error.mean()) <= _MEAN_LEVELS and far <= _FAR_SHARE


def _pictures(report: GrowingReport, files: Sequence[bytes]) -> int:
    """Batches of all sizes and mixtures, decoded while other streams are busy."""
    wanted = [_reference(file) for file in files]
    inputs = [_as_tensor(file) for file in files]
    side, busy = torch.cuda.Stream(), torch.randn(2048, 2048, device="cuda")
    rng = np.random.default_rng(0)
    wrong = compared = 0
    for batch in (1, 2, 3, 5, 8, 16, 31, 64, 128) * 2:
        chosen = rng.integers(len(files), size=batch)
        with torch.cuda.stream(side):
            for _ in range(4):
                busy = (busy @ busy).clamp_(-1, 1)
        pictures = _decode([inputs[index] for index in chosen])
        # read on the current stream without any wait, as a user would
        for index, picture in zip(chosen, pictures, strict=True):
            wrong += not _is_same(picture, wanted[index])
            compared += 1
    errors = [
        np.abs(one.permute(1, 2, 0).cpu().numpy().astype(np.int16) - reference)
        for one, reference in zip(_decode(inputs), wanted, strict=True)
    ]
    report.add(
        [
            Row("pictures", "compared", "pictures", compared),
            Row("pictures", "wrong", "pictures", wrong),
            Row("pictures", "error mean, worst picture", "levels", max(e.mean() for e in errors)),
            Row("pictures", "error max", "levels", max(int(e.max()) for e in errors)),
        ]
    )
    return wrong


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
