"""`smserve evaluate` end to end: known answers on generated data sets, and what goes wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from model.config import TaskName
from model.evaluation import published
from model.evaluation.multi_scale import MultiScaleSegmenter
from model.images import DecodeLimits, decode_rgb
from model.predictor import Predictor
from model.results import DEFAULT_PARAMS, Classification, Detections, Segmentation
from service.shipped import sample_images, shipped_models
from tests.evaluate_command.runs import evaluate, smserve
from tests.model.evaluation.layouts import (
    box_annotation,
    noise,
    write_ade20k,
    write_coco,
    write_imagenet,
)
from tests.service.compiled_fake import FakeGpu


@pytest.fixture(scope="module")
def shipped() -> dict[TaskName, Predictor]:
    loaded = [Predictor.load(path) for path in shipped_models()]
    return {predictor.spec.task: predictor for predictor in loaded}


def answer(predictor: Predictor, rgb: NDArray[np.uint8]) -> Any:
    prepared = predictor.prepare(rgb)
    (raw,) = predictor.infer([prepared], [DEFAULT_PARAMS[predictor.spec.task]])
    return predictor.finish(raw, prepared)


def scenes() -> dict[str, NDArray[np.uint8]]:
    """The committed scenes of stickers, made smaller to save time."""
    pictures = {}
    for path in sample_images():
        if path.stem.startswith("stickers"):
            with Image.open(path) as image:
                pictures[f"{path.stem}.png"] = np.asarray(image.convert("RGB").resize((320, 240)))
    assert len(pictures) == 5
    return pictures


def test_top_1_and_top_5_of_the_shipped_model_are_those_that_were_planned(
    tmp_path: Path, shipped: dict[TaskName, Predictor]
) -> None:
    """Folders are chosen by what the model answers: three times its best, its third, its ninth."""
    predictor = shipped[TaskName.CLASSIFY]
    pictures = {}
    for (name, rgb), place in zip(scenes().items(), (0, 0, 0, 2, 8), strict=True):
        result = answer(predictor, rgb)
        assert isinstance(result, Classification)
        order = np.argsort(-result.probabilities, kind="stable")
        pictures[f"{predictor.spec.class_names[order[place]]}/{name}"] = rgb
    found = evaluate("classify", write_imagenet(tmp_path / "data", pictures), "--batch-size", 2)
    assert found["metrics"]["top-1"] == pytest.approx(0.6)
    assert found["metrics"]["top-5"] == pytest.approx(0.8)
    assert found["model"]["name"] == "sticker-classify"
    assert (found["data"]["pictures"], found["data"]["measured"]) == (5, 5)
    assert found["published_do_not_apply"] == "sticker-classify is not one of the published models"


def detected(predictor: Predictor, rgb: NDArray[np.uint8]) -> Detections:
    result = answer(predictor, rgb)
    assert isinstance(result, Detections)
    assert result.masks is not None
    return result


def test_the_shipped_detector_finds_its_own_objects(
    tmp_path: Path, shipped: dict[TaskName, Predictor]
) -> None:
    """Whatever it is sure of is the truth, and everything less sure comes after: full precision."""
    predictor = shipped[TaskName.DETECT]
    names = predictor.spec.class_names
    categories = {3 * i + 2: name for i, name in reversed(list(enumerate(names)))}
    pictures, annotations = dict(list(scenes().items())[:3]), []
    for image_id, rgb in enumerate(pictures.values(), start=1):
        found = detected(predictor, rgb)
        for box, score, k, mask in zip(
            found.boxes.tolist(), found.scores, found.class_ids, found.masks or (), strict=True
        ):
            if score < 0.5:
                continue
            x1, y1, x2, y2 = box
            own = box_annotation(image_id, 3 * int(k) + 2, x1, y1, x2 - x1, y2 - y1)
            area = coco_mask.area({"size": [240, 320], "counts": mask.counts.encode()})
            segmentation = {"size": [240, 320], "counts": mask.counts}
            annotations.append({**own, "segmentation": segmentation, "area": float(area)})
    assert len(annotations) > 5
    root = write_coco(tmp_path / "own", pictures, annotations, categories)
    metrics = evaluate("detect", root)["metrics"]
    assert metrics["box AP"] == pytest.approx(1)
    assert metrics["mask AP"] == pytest.approx(1)
    assert metrics["box AR100"] == pytest.approx(1)


@pytest.mark.parametrize("several", [False, True], ids=["single", "multi-scale"])
def test_the_shipped_segmenter_agrees_with_its_own_maps_but_for_known_pixels(
    tmp_path: Path, shipped: dict[TaskName, Predictor], several: bool
) -> None:
    predictor = shipped[TaskName.SEGMENT]
    own = MultiScaleSegmenter(predictor) if several else predictor
    pictures = dict(list(scenes().items())[: 1 if several else 5])
    truths, found = {}, []
    for i, (name, rgb) in enumerate(pictures.items()):
        small = rgb[::3, ::3] if several else rgb
        # as it will be read: the layout's pictures are JPEG files
        write_ade20k(tmp_path / "try", {Path(name).stem: (small, small[..., 0])})
        data = (tmp_path / "try" / "images" / "validation" / f"{Path(name).stem}.jpg").read_bytes()
        result = answer(own, decode_rgb(data, limits=DecodeLimits()))  # type: ignore[arg-type]
        assert isinstance(result, Segmentation)
        labels = result.label_map + 1
        labels[:10] = 0
        # a wrong stripe, also of a class that is never answered
        labels[-4:] = 53 if i % 2 else labels[-4:] % 53 + 1
        truths[Path(name).stem] = (small, labels)
        found.append((labels, result.label_map))
    options = ("--multi-scale",) if several else ()
    metrics = evaluate("segment", write_ade20k(tmp_path / "data", truths), *options)["metrics"]
    assert metrics == pytest.approx(by_class(found))
    assert 0 < metrics["mIoU"] < metrics["aAcc"] < 1


def by_class(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> dict[str, float]:
    ious, shares, right, counted = [], [], 0, 0
    for k in range(53):
        there = sum(int((labels == k + 1).sum()) for labels, _ in pairs)
        answered = sum(int(((guess == k) & (labels > 0)).sum()) for labels, guess in pairs)
        both = sum(int(((labels == k + 1) & (guess == k)).sum()) for labels, guess in pairs)
        right, counted = right + both, counted + there
        ious += [both / (there + answered - both)] if there + answered else []
        shares += [both / there] if there else []
    return {"mIoU": np.mean(ious), "aAcc": right / counted, "mAcc": np.mean(shares)}  # type: ignore[dict-item]


def test_a_table_shows_measured_and_published_figures(
    tmp_path: Path, models: dict[TaskName, Path], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.evaluation.published.why_not_comparable", lambda spec, **sizes: None)
    monkeypatch.setitem(published._CLASSIFIERS, "demo", 30.0)
    model = models[TaskName.CLASSIFY]
    result = smserve("evaluate", "classify", "--data", folders, "--model", model)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    (row,) = [line for line in lines if line[:1] == ["top-1"] and line[1] != "averaged"]
    assert float(row[2]) == 30.0
    assert float(row[3]) == pytest.approx(float(row[1]) - 30.0)
    (row,) = [line for line in lines if line[:1] == ["top-5"]]
    assert row[2] == "unknown"
    assert "do not apply" not in result.stdout


def test_a_limit_is_a_subset_and_says_so(models: dict[TaskName, Path], folders: Path) -> None:
    options = ("--model", models[TaskName.CLASSIFY], "--limit", 9)
    found = evaluate("classify", folders, *options)
    assert (found["data"]["measured"], found["data"]["pictures"]) == (9, 24)
    result = smserve("evaluate", "classify", "--data", folders, *options)
    assert "random-classify: 9 of 24 pictures, ImageNet layout, val, in percent" in result.stdout
    assert "Published figures do not apply" in result.stdout


def test_unreadable_pictures_are_named_and_fail_it_unless_they_are_skipped(
    models: dict[TaskName, Path], folders: Path
) -> None:
    (folders / "val" / "cat" / "junk.jpg").write_bytes(b"junk")
    (folders / "val" / "dog" / "torn.png").write_bytes(
        (folders / "val" / "dog" / "01.png").read_bytes()[:200]
    )
    options = ("--model", models[TaskName.CLASSIFY], "--device", "cpu")
    result = smserve("evaluate", "classify", "--data", folders, *options)
    assert result.exit_code == 1
    errors = result.stderr.strip().splitlines()
    assert errors[0].startswith("error: val/cat/junk.jpg: not a readable image")
    assert errors[1].startswith("error: val/dog/torn.png: the PNG image is damaged")
    assert errors[2] == "error: could not read 2 pictures; --skip-unreadable measures without"
    assert result.stdout == ""
    found = evaluate("classify", folders, *options, "--skip-unreadable")
    assert found["data"]["unreadable"] == ["val/cat/junk.jpg", "val/dog/torn.png"]
    assert (found["data"]["measured"], found["data"]["pictures"]) == (24, 26)


def test_nothing_readable_is_no_result(models: dict[TaskName, Path], tmp_path: Path) -> None:
    write_imagenet(tmp_path / "data", {"cat/1.png": noise(0, 8, 8)})
    (tmp_path / "data" / "val" / "cat" / "1.png").write_bytes(b"junk")
    options = ("--model", models[TaskName.CLASSIFY], "--skip-unreadable")
    result = smserve("evaluate", "classify", "--data", tmp_path / "data", *options)
    assert result.exit_code == 1
    assert "no picture could be measured" in result.stderr


def test_annotations_that_do_not_fit_their_picture_are_never_skipped(
    models: dict[TaskName, Path], tmp_path: Path
) -> None:
    root = write_ade20k(
        tmp_path / "data",
        {
            "a": (noise(0, 40, 50), np.ones((40, 50), np.uint8)),
            "b": (noise(1, 40, 50), np.ones((50, 40), np.uint8)),
        },
    )
    options = ("--model", models[TaskName.SEGMENT], "--skip-unreadable")
    result = smserve("evaluate", "segment", "--data", root, *options)
    assert result.exit_code == 1
    assert "b.jpg: the picture is 50x40, its annotation b.png is 40x50" in result.stderr
    assert "could not measure 1 pictures" in result.stderr


def test_a_data_set_of_other_classes_ends_it_at_once(
    models: dict[TaskName, Path], tmp_path: Path
) -> None:
    pictures = {f"{i:02d}": (noise(i, 40, 50), np.full((40, 50), 9, np.uint8)) for i in range(60)}
    root = write_ade20k(tmp_path / "data", pictures)
    result = smserve("evaluate", "segment", "--data", root, "--model", models[TaskName.SEGMENT])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line == "error: 00.png has class number 9, the model has 3 classes"


@pytest.mark.parametrize(
    ("args", "status", "problem"),
    [
        (["detect", "--model", "{classify}"], 2, "is a model for classify, asked for detect"),
        (["classify", "--model", "{classify}", "--multi-scale"], 2, "for segment alone"),
        (["segment", "--labels", "x", "--model", "{segment}"], 2, "for classify alone"),
        (["classify", "--synsets", "x", "--model", "{classify}"], 2, "--synsets needs --labels"),
        (["segment", "--multi-scale", "--backend", "triton"], 2, "needs --backend torch"),
        (["classify", "--model", "{classify}", "--json", "no/x"], 2, "folder does not exist"),
        (["detect", "--model", "{detect}"], 1, "no folder val2017/; expected the COCO"),
        (["segment", "--model", "{segment}"], 1, "no folder images/validation/; expected the ADE"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    args: list[str], status: int, problem: str, models: dict[TaskName, Path], folders: Path
) -> None:
    words = [arg.format(**{task.value: path for task, path in models.items()}) for arg in args]
    result = smserve("evaluate", *words, "--data", folders)
    assert result.exit_code == status
    (line,) = result.stderr.strip().splitlines()
    assert problem in line


def test_a_gpu_gets_the_compiled_model(
    models: dict[TaskName, Path], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake computes on the CPU, so the figures must be the CPU's."""
    on_cpu = evaluate("classify", folders, "--model", models[TaskName.CLASSIFY])
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    options = ("--data", folders, "--model", models[TaskName.CLASSIFY], "--device", "cuda")
    result = smserve("evaluate", "classify", *options, "--json", "gpu.json", "--batch-size", 4)
    assert result.exit_code == 0, result.stderr
    on_gpu = json.loads(Path("gpu.json").read_text())
    assert [one.batch_buckets for one in gpu.options] == [(1, 2, 4)]
    assert on_gpu["settings"]["backend"] == "triton"
    assert on_gpu["metrics"] == on_cpu["metrics"]
