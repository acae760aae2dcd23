"""`smserve predict` with small random models: answers, order, batches, failures, drawings."""

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from model.checkpoint import build_network, save_model
from model.config import InputConfig, ModelSpec, TaskName
from model.images import DecodeLimits
from model.predictor import Predictor
from model.results import ClassifyParams, Params, SegmentParams
from service.answers import AnswerOptions
from service.backends.base import HeldBatch
from service.cli import console
from service.cli.app import app
from service.cli.inputs import OverlayNames, Picture, find_pictures
from service.cli.pipeline import Pipeline, PipelineOptions
from tests.service.compiled_fake import FakeGpu

NAMES = ("cat", "dog", "owl", "fox")
INPUTS = {
    TaskName.CLASSIFY: InputConfig(short=36, crop=32),
    TaskName.DETECT: InputConfig(short=64, long=128, pad_multiple=32),
    TaskName.SEGMENT: InputConfig(short=64, long=128),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[TaskName, Path]:
    """Model files with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for task, config in INPUTS.items():
        spec = ModelSpec(
            name=f"random-{task}", task=task, variant="demo", class_names=NAMES, input=config
        )
        save_model(folder / f"{task}.safetensors", build_network(spec).state_dict(), spec)
    return {task: folder / f"{task}.safetensors" for task in TaskName}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven readable pictures of three shapes, in two folders, and a text file."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    chance = np.random.default_rng(1)
    sizes = {"a.jpg": (60, 80), "b.png": (80, 60), "c.jpg": (60, 80), "d.webp": (50, 50)}
    sizes |= {"deep/a.JPG": (60, 80), "deep/e.bmp": (80, 60), "z.jpg": (60, 80)}
    for name, (height, width) in sizes.items():
        pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "readme.txt").write_text("not a picture")
    return folder


def smserve(*args: object) -> Result:
    # consoles remember the streams of the run before
    console._console.cache_clear()
    return CliRunner().invoke(app, [str(arg) for arg in args])


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def names_of(lines: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    return [os.path.relpath(line["file"], folder) for line in lines]


IN_ORDER = ["a.jpg", "b.png", "c.jpg", "d.webp", "deep/a.JPG", "deep/e.bmp", "z.jpg"]


@pytest.mark.parametrize("task", list(TaskName))
def test_folders_are_answered_in_order(
    task: TaskName, models: dict[TaskName, Path], pictures: Path
) -> None:
    result = smserve("predict", task, pictures, "--model", models[task], "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = lines_of(result.stdout)
    assert names_of(lines, pictures) == IN_ORDER
    assert lines[1]["image"] == {"width": 60, "height": 80}
    assert lines[0]["model"] == {"name": f"random-{task}", "demo": False}
    assert set(lines[0]["timings"]) == {"decode", "infer", "postprocess"}
    if task is TaskName.SEGMENT:
        data = np.frombuffer(base64.b64decode(lines[1]["label_map"]), dtype=np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_UNCHANGED).shape == (80, 60)
        assert sum(item["pixels"] for item in lines[1]["predictions"]) == 4800


@pytest.mark.parametrize("task", [TaskName.CLASSIFY, TaskName.SEGMENT])
def test_answers_do_not_depend_on_the_batch(
    task: TaskName, models: dict[TaskName, Path], pictures: Path
) -> None:
    answers = []
    for size in (1, 4):
        args = ("--model", models[task], "--batch-size", size, "--device", "cpu", "--masks", "none")
        result = smserve("predict", task, pictures, *args)
        assert result.exit_code == 0, result.stderr
        answers.append(lines_of(result.stdout))
    for alone, together in zip(*answers, strict=True):
        assert alone["file"] == together["file"]
        found, expected = together["predictions"], alone["predictions"]
        assert [item["class_id"] for item in found] == [item["class_id"] for item in expected]
        if task is TaskName.CLASSIFY:
            scores = np.array([item["score"] for item in expected])
            assert np.allclose([item["score"] for item in found], scores, atol=1e-4)


def test_bad_files_are_reported_and_the_rest_goes_on(
    models: dict[TaskName, Path], pictures: Path
) -> None:
    (pictures / "bb.jpg").write_bytes(b"junk")
    (pictures / "cc.jpg").write_bytes((pictures / "c.jpg").read_bytes()[:300])
    args = ("--model", models[TaskName.CLASSIFY], "--device", "cpu")
    absent = pictures / "absent[0].jpg"
    result = smserve("predict", "classify", pictures, absent, *args)
    assert result.exit_code == 1
    assert names_of(lines_of(result.stdout), pictures) == IN_ORDER
    errors = result.stderr.strip().splitlines()
    assert len(errors) == 4
    assert errors[0].startswith(f"error: {pictures}/bb.jpg: ")
    assert errors[1].startswith(f"error: {pictures}/cc.jpg: ")
    assert errors[2] == f"error: {absent}: No such file or directory"
    assert errors[3] == "error: 3 of 10 images failed"


def test_errors_cannot_reach_the_terminal(models: dict[TaskName, Path], pictures: Path) -> None:
    name = "x\x1b[31m[red]\udcff.jpg"
    result = smserve("predict", "classify", name, "--model", models[TaskName.CLASSIFY])
    assert result.stderr.splitlines()[0] == (
        "error: x\\x1b[31m[red]\\xff.jpg: No such file or directory"
    )


def test_json_and_overlays_go_where_they_are_sent(
    tmp_path: Path, models: dict[TaskName, Path], pictures: Path
) -> None:
    Image.new("RGB", (70, 40)).save(pictures / "a.png")
    target, drawings = tmp_path / "out.jsonl", tmp_path / "new" / "drawings"
    args = ("--json", target, "--overlay", drawings, "--device", "cpu")
    result = smserve("predict", "segment", pictures, "--model", models[TaskName.SEGMENT], *args)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert len(lines_of(target.read_text())) == 8
    found = {str(path.relative_to(drawings)) for path in drawings.rglob("*") if path.is_file()}
    assert found == {
        *("a.png", "a-2.png", "b.png", "c.png", "d.png", "z.png"),
        *("deep/a.png", "deep/e.png"),
    }
    assert cv2.imread(str(drawings / "b.png")).shape == (80, 60, 3)


def test_filters_reach_the_answers(models: dict[TaskName, Path], pictures: Path) -> None:
    args = ("--model", models[TaskName.CLASSIFY], "--device", "cpu", "--top-k", 2)
    result = smserve("predict", "classify", pictures / "a.jpg", *args, "--classes", "owl,0,1")
    predictions = lines_of(result.stdout)[0]["predictions"]
    assert len(predictions) == 2
    assert {item["label"] for item in predictions} <= {"owl", "cat", "dog"}
    result = smserve("predict", "classify", pictures / "a.jpg", *args, "--threshold", 1.0)
    assert lines_of(result.stdout)[0]["predictions"] == []


def test_detection_parameters_reach_the_network(
    models: dict[TaskName, Path], pictures: Path
) -> None:
    args = ("--model", models[TaskName.DETECT], "--device", "cpu", "--threshold", 0.01)
    for form, key in (("rle", "counts"), ("polygon", "polygons"), ("png", "png")):
        options = ("--max-detections", 3, "--masks", form)
        result = smserve("predict", "detect", pictures / "a.jpg", *args, *options)
        predictions = lines_of(result.stdout)[0]["predictions"]
        assert len(predictions) == 3
        assert all(set(item["mask"]) == {"size", key} for item in predictions)
    result = smserve("predict", "detect", pictures / "a.jpg", *args, "--masks", "none")
    predictions = lines_of(result.stdout)[0]["predictions"]
    assert predictions
    assert not any("mask" in item for item in predictions)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["detect", "{pictures}", "--model", "{model}"], "is a model for classify, asked for"),
        (["classify", "{pictures}", "--model", "{model}", "--classes", "fx"], "close to: fox"),
        (["classify", "{pictures}", "--model", "{model}", "--json", "{model}/x"], "cannot write"),
        (["classify", "{empty}", "--model", "{model}"], "no images in"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_status_2(
    args: list[str],
    problem: str,
    tmp_path: Path,
    models: dict[TaskName, Path],
    pictures: Path,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"pictures": pictures, "empty": empty, "model": models[TaskName.CLASSIFY]}
    result = smserve("predict", *(arg.format(**places) for arg in args))
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert problem in line


def test_an_unknown_task_is_a_usage_error(pictures: Path) -> None:
    assert smserve("predict", "fly", pictures).exit_code == 2


def test_an_unusable_model_file_exits_with_1(pictures: Path) -> None:
    result = smserve("predict", "classify", pictures, "--model", pictures / "a.jpg")
    assert result.exit_code == 1
    assert "not a readable safetensors file" in result.stderr


def test_the_shipped_model_of_the_task_is_the_default(
    models: dict[TaskName, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.shipped.shipped_models", lambda: list(models.values()))
    result = smserve("predict", "segment", pictures / "a.jpg", "--device", "cpu")
    assert lines_of(result.stdout)[0]["model"]["name"] == "random-segment"
    monkeypatch.setattr("service.shipped.shipped_models", list)
    result = smserve("predict", "segment", pictures / "a.jpg", "--device", "cpu")
    assert result.exit_code == 2
    assert "no demo model for segment is installed" in result.stderr


def test_a_gpu_gets_the_compiled_model(
    models: dict[TaskName, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    options = ["--model", models[TaskName.CLASSIFY], "--batch-size", 4]
    computed = [smserve("predict", "classify", pictures, *options, "--device", "cuda")]
    assert [one.batch_buckets for one in gpu.options] == [(1, 2, 4)]
    computed += [smserve("predict", "classify", pictures, *options, "--device", "cpu")]
    assert len(gpu.options) == 1
    on_gpu, on_cpu = (
        [line["predictions"][0]["label"] for line in lines_of(result.stdout)] for result in computed
    )
    assert on_gpu == on_cpu
    assert len(on_gpu) == 7


def test_a_gpu_that_breaks_down_ends_it_with_its_reason(
    models: dict[TaskName, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    gpu.is_broken = True

    def break_down(batch: Sequence[Any]) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    gpu.on_infer = break_down
    result = smserve("predict", "classify", pictures, "--model", models[TaskName.CLASSIFY])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line == "error: the GPU failed: CUDA error: unspecified launch failure"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_triton_without_a_gpu_is_a_usage_error(
    models: dict[TaskName, Path], pictures: Path
) -> None:
    options = ["--model", models[TaskName.CLASSIFY], "--backend", "triton"]
    result = smserve("predict", "classify", pictures, *options)
    assert result.exit_code == 2
    assert "need an NVIDIA GPU" in result.stderr


class WatchedPredictor:
    """Wraps a predictor: notes batches, counts inputs in memory, fails where told to."""

    def __init__(self, inner: Predictor, *, poison: int | None = None) -> None:
        self.inner, self.poison = inner, poison
        self.spec = inner.spec
        self.shapes: list[list[tuple[int, int]]] = []
        self.num_prepared = self.num_finished = self.most_alive = 0

    def prepare(self, rgb: Any) -> Any:
        self.num_prepared += 1
        self.most_alive = max(self.most_alive, self.num_prepared - self.num_finished)
        return self.inner.prepare(rgb)

    def stage(self, batch: Sequence[Any], params: Sequence[Any]) -> HeldBatch:
        return HeldBatch(batch, params)

    def infer(self, staged: HeldBatch) -> list[Any]:
        batch, params = staged.images, staged.params
        self.shapes.append([prepared.shape for prepared in batch])
        if self.poison in [prepared.original_hw[1] for prepared in batch]:
            raise RuntimeError("device says no\nwith details")
        return self.inner.infer(batch, params)

    def finish(self, raw: Any, prepared: Any) -> Any:
        self.num_finished += 1
        return self.inner.finish(raw, prepared)


def pipeline(
    predictor: WatchedPredictor, *, batch_size: int, params: Params | None = None
) -> Pipeline:
    options = PipelineOptions(
        params=params or ClassifyParams(),
        answer=AnswerOptions(),
        limits=DecodeLimits(),
        batch_size=batch_size,
        num_threads=2,
        overlay_folder=None,
    )
    return Pipeline(predictor, options)  # type: ignore[arg-type]


def test_batches_are_full_and_memory_is_bounded(
    models: dict[TaskName, Path], pictures: Path
) -> None:
    watched = WatchedPredictor(Predictor.load(models[TaskName.CLASSIFY]))
    many = [Picture(pictures / "a.jpg", Path("a.jpg"))] * 60
    answers = list(pipeline(watched, batch_size=4).run(many))
    assert [answer.error for answer in answers] == [None] * 60
    assert max(len(shapes) for shapes in watched.shapes) == 4
    assert sum(len(shapes) for shapes in watched.shapes) == 60
    assert len(watched.shapes) <= 20
    assert watched.most_alive <= 2 * 4 + 2


def test_only_equal_shapes_share_a_batch(models: dict[TaskName, Path], pictures: Path) -> None:
    watched = WatchedPredictor(Predictor.load(models[TaskName.SEGMENT]))
    work = pipeline(watched, batch_size=3, params=SegmentParams())
    answers = list(work.run(list(find_pictures([pictures])) * 3))
    assert all(answer.line is not None for answer in answers)
    assert all(len(set(shapes)) == 1 for shapes in watched.shapes)
    assert len({shapes[0] for shapes in watched.shapes}) == 3


def test_a_poisoned_picture_fails_alone(models: dict[TaskName, Path], pictures: Path) -> None:
    watched = WatchedPredictor(Predictor.load(models[TaskName.CLASSIFY]), poison=50)
    answers = list(pipeline(watched, batch_size=8).run(find_pictures([pictures])))
    errors = {str(answer.picture.relative): answer.error for answer in answers if answer.error}
    assert errors == {"d.webp": "device says no"}
    assert sum(answer.line is not None for answer in answers) == 6


def test_names_that_are_no_text_are_answered(
    models: dict[TaskName, Path], pictures: Path, tmp_path: Path
) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    try:
        strange.write_bytes((pictures / "a.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system only holds text names")
    watched = WatchedPredictor(Predictor.load(models[TaskName.CLASSIFY]))
    (answer,) = pipeline(watched, batch_size=1).run(find_pictures([strange]))
    assert answer.line is not None
    assert json.loads(answer.line)["file"].endswith("\\xff.jpg")


def test_drawings_never_overwrite_each_other(tmp_path: Path) -> None:
    names = OverlayNames(tmp_path)
    given = [Path("x/a.jpg"), Path("x/A.png"), Path("x/a.webp"), Path("x/a-2.jpg")]
    paths = [names.path_for(Picture(path, path)) for path in given]
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "x/a.png",
        "x/A-2.png",
        "x/a-3.png",
        "x/a-2-2.png",
    ]
