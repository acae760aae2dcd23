"""The commands around prediction: help, errors, convert, models, config, serve."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from model.checkpoint import build_network, read_spec, save_model
from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName
from service.cli import console
from service.cli.app import app
from service.model_hashes import verify_model_hash

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and help are not folded."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def smserve(*args: object) -> Result:
    # consoles remember the streams of the run before
    console._console.cache_clear()
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="smserve")


def error_lines(result: Result) -> list[str]:
    return result.stderr.strip().splitlines()


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A model file with three classes and random weights."""
    spec = ModelSpec(
        name="three",
        task=TaskName.CLASSIFY,
        variant="demo",
        class_names=("cat", "dog", "[bold]owl"),
        input=PUBLISHED_INPUTS[TaskName.CLASSIFY],
        demo=True,
    )
    path = tmp_path / "models" / "three.safetensors"
    path.parent.mkdir()
    save_model(path, build_network(spec).state_dict(), spec)
    return path


@pytest.fixture
def official(tmp_path: Path, classifier: Path) -> Path:
    """An official checkpoint, of a model that is too small to be published."""
    network = build_network(read_spec(classifier))
    state = {}
    for key, value in network.state_dict().items():
        state |= official_entries(key, value)
    path = tmp_path / "official.pth"
    torch.save({"model": state, "model_ema": {k: v + 1 for k, v in state.items()}}, path)
    return path


def official_entries(key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """The authors' names of one of our classifier's tensors."""
    if key.endswith("mixer.state_fusion.weight"):
        prefix = official_name(key).removesuffix("weight")
        names = ("kernel_3", "kernel_3_1", "kernel_3_2")
        return {prefix + name: value[i][:, None] for i, name in enumerate(names)}
    return {official_name(key): value}


def official_name(key: str) -> str:
    for ours, theirs in (
        ("backbone.stem.reduce", "patch_embed.conv1"),
        ("backbone.stem.residual", "patch_embed.conv2"),
        ("backbone.stem.project", "patch_embed.conv3"),
        ("mixer.state_fusion.scale", "self_attention.state_fusion.alpha"),
        ("mixer.x_proj.weight", "self_attention.x_proj_weight"),
        ("mixer.dt_proj.weight", "self_attention.dt_projs_weight"),
        ("mixer.dt_bias", "self_attention.dt_projs_bias"),
        ("mixer.A_log", "self_attention.A_logs"),
        ("mixer.D", "self_attention.Ds"),
        ("mixer.conv.", "self_attention.conv2d."),
        ("mixer.", "self_attention."),
        ("position1", "cpe1"),
        ("position2", "cpe2"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
    ):
        key = key.replace(ours, theirs)
    parts = key.split(".")
    if parts[:2] == ["backbone", "stages"]:
        return ".".join(["layers", parts[2], "blocks", *parts[3:]])
    if parts[:2] == ["backbone", "downsamples"]:
        step = str(("expand", "depthwise", "project").index(parts[3]))
        return ".".join(["layers", parts[2], "downsample", "conv", step, *parts[4:]])
    return key


class TestHelp:
    @pytest.mark.parametrize("command", ["", "serve", "predict", "convert", "models", "config"])
    def test_help_of_every_command(self, command: str) -> None:
        result = smserve(*command.split(), "--help")
        assert result.exit_code == 0
        assert f"Usage: smserve {command}".strip() in result.stdout

    def test_help_is_quick_for_it_imports_nothing_large(self) -> None:
        script = (
            "import sys; sys.argv = ['smserve', '--help']\n"
            "from service.cli.app import main\n"
            "try:\n    main()\n"
            "except SystemExit as exc:\n    code = exc.code\n"
            "large = {'torch', 'cv2', 'numpy', 'fastapi', 'pydantic', 'PIL'} & set(sys.modules)\n"
            "sys.exit(str(large) if large else code)"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own
        assert done.returncode == 0, done.stderr

    def test_version(self) -> None:
        assert smserve("--version").stdout.startswith("smserve")


class TestErrors:
    def test_unknown_commands_and_options_exit_with_2(self) -> None:
        assert smserve("fly").exit_code == 2
        assert smserve("config", "--fly").exit_code == 2

    def test_debug_shows_the_exception(self, tmp_path: Path) -> None:
        args = ("convert", tmp_path / "absent.pth", tmp_path / "out.safetensors")
        plain, debug = smserve(*args), smserve("--debug", *args)
        assert plain.exit_code == 1
        assert error_lines(plain) == [f"error: {tmp_path}/absent.pth: No such file or directory"]
        assert type(debug.exception).__name__ == "OfficialCheckpointError"


class TestConvert:
    @pytest.fixture
    def classes(self, tmp_path: Path) -> Path:
        path = tmp_path / "classes.txt"
        path.write_text("cat\ndog\n[bold]owl\n\n", encoding="utf-8")
        return path

    def test_a_checkpoint_becomes_a_model_file(
        self, tmp_path: Path, official: Path, classes: Path
    ) -> None:
        target = tmp_path / "out.safetensors"
        result = smserve("convert", official, target, "--classes", classes, "--name", "owls")
        assert result.exit_code == 0, result.stderr
        spec = read_spec(target)
        assert (spec.name, spec.task, spec.variant) == ("owls", TaskName.CLASSIFY, "demo")
        assert spec.class_names == ("cat", "dog", "[bold]owl")
        assert spec.source_sha256 is not None
        sha256 = verify_model_hash(target, "required")
        assert sha256 is not None
        for shown in ("owls", "classify", "demo", "3, from the given file", spec.source_sha256):
            assert shown in result.stdout
        assert sha256 in result.stdout

    def test_the_moving_average(self, tmp_path: Path, official: Path, classes: Path) -> None:
        target = tmp_path / "out.safetensors"
        result = smserve("convert", official, target, "--classes", classes, "--ema")
        assert result.exit_code == 0, result.stderr
        assert "model_ema, the moving average" in result.stdout

    def test_an_existing_file_needs_force(
        self, tmp_path: Path, official: Path, classes: Path
    ) -> None:
        target = tmp_path / "out.safetensors"
        target.touch()
        result = smserve("convert", official, target, "--classes", classes)
        assert result.exit_code == 1
        assert error_lines(result) == [f"error: {target} exists; overwrite it with --force"]
        assert smserve("convert", official, target, "--classes", classes, "--force").exit_code == 0

    def test_wrong_expectations_are_one_line(
        self, tmp_path: Path, official: Path, classes: Path
    ) -> None:
        args = ("convert", official, tmp_path / "out.safetensors", "--classes", classes)
        result = smserve(*args, "--task", "detect")
        assert result.exit_code == 1
        assert error_lines(result) == [
            f"error: {official} is a classify checkpoint, asked for detect"
        ]
        assert smserve(*args, "--task", "fly").exit_code == 2
        unknown = smserve(*args, "--variant", "giant")
        assert unknown.exit_code == 2
        assert error_lines(unknown) == [
            "error: unknown variant 'giant', known: tiny, small, base, demo"
        ]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("a\n\nb\n", "line 2: a blank line, expected one new name a line"),
            ("a\nb\na\n", "line 3: 'a' for the second time"),
            ("\n", "names no class"),
            ("\udcff", "cannot read the class names"),
        ],
    )
    def test_bad_class_files_are_named(
        self, tmp_path: Path, official: Path, content: str, problem: str
    ) -> None:
        path = tmp_path / "bad.txt"
        path.write_bytes(content.encode("utf-8", errors="surrogateescape"))
        result = smserve("convert", official, tmp_path / "out.safetensors", "--classes", path)
        assert result.exit_code == 2
        assert problem in error_lines(result)[0]

    def test_a_hostile_file_is_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "hostile.pth"
        torch.save({"model": print}, path)
        result = smserve("convert", path, tmp_path / "out.safetensors")
        assert result.exit_code == 1
        assert error_lines(result) == [
            f"error: {path}: the pickle names builtins.print, which is not known as data"
        ]

    def test_a_genuine_file_of_another_network_is_refused(self, tmp_path: Path) -> None:
        source = CHECKPOINTS / "official_openmmlab.pth"
        result = smserve("convert", source, tmp_path / "out.safetensors")
        assert result.exit_code == 1
        assert "no classifier, Mask R-CNN or UPerNet head" in error_lines(result)[0]


class TestModels:
    def test_a_row_per_model(self, classifier: Path) -> None:
        result = smserve("models", "--models", classifier.parent)
        assert result.exit_code == 0, result.stderr
        row = next(line for line in result.stdout.splitlines() if "three" in line)
        assert row.split()[:5] == ["three", "(demo)", "classify", "demo", "3"]
        assert row.endswith("three.safetensors")

    def test_a_broken_file_is_reported_and_the_rest_listed(self, classifier: Path) -> None:
        (classifier.parent / "broken.safetensors").write_bytes(b"junk")
        result = smserve("models", "--models", classifier.parent)
        assert result.exit_code == 1
        assert "broken.safetensors: not a readable safetensors file" in error_lines(result)[0]
        assert "three" in result.stdout

    def test_a_missing_folder_is_a_usage_error(self, tmp_path: Path) -> None:
        result = smserve("models", "--models", tmp_path / "absent")
        assert result.exit_code == 2
        assert error_lines(result) == [f"error: models_dir {tmp_path}/absent is not a folder"]


class TestConfig:
    def test_effective_settings_without_secrets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SMSERVE_PORT", "1234")
        monkeypatch.setenv("SMSERVE_API_KEYS", "very-secret-key")
        path = tmp_path / "settings.yaml"
        path.write_text("port: 1\nbatch:\n  max_images: 3\n")
        result = smserve("config", "--config", path)
        assert result.exit_code == 0, result.stderr
        shown = yaml.safe_load(result.stdout)
        assert shown["port"] == 1234
        assert shown["batch"]["max_images"] == 3
        assert "very-secret-key" not in result.output
        assert len(shown["api_keys"]) == 1

    def test_the_output_is_a_configuration_file(self, tmp_path: Path) -> None:
        first = smserve("config")
        path = tmp_path / "settings.yaml"
        path.write_text(first.stdout)
        assert smserve("config", "--config", path).stdout == first.stdout

    def test_unknown_settings_are_usage_errors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "settings.yaml"
        path.write_text("prot: 1\n")
        result = smserve("config", "--config", path)
        assert result.exit_code == 2
        assert error_lines(result) == ["error: unknown setting prot (SMSERVE_PROT)"]
        monkeypatch.setenv("SMSERVE_PROT", "1")
        result = smserve("config")
        assert result.exit_code == 2
        assert "SMSERVE_PROT" in error_lines(result)[0]


class TestServe:
    @pytest.fixture
    def served(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Settings that the server was started with; it ends at once with status 7."""
        seen: list[Any] = []

        def run(settings: Any) -> int:
            seen.append(settings)
            return 7

        monkeypatch.setattr("service.start.run", run)
        return seen

    def test_options_become_settings(self, served: list[Any], tmp_path: Path) -> None:
        path = tmp_path / "settings.yaml"
        path.write_text("port: 1\nhost: 0.0.0.0\nbatch:\n  max_images: 3\n  max_age_ms: 9\n")
        options = ["--port", 99, "--config", path, "--models", tmp_path, "--device", "cpu"]
        options += ["--max-batch", 5, "--log-level", "debug", "--no-demo-models"]
        options += ["--backend", "torch"]
        result = smserve("serve", *options)
        assert result.exit_code == 7, result.stderr
        (settings,) = served
        assert (settings.host, settings.port, settings.device) == ("0.0.0.0", 99, "cpu")  # noqa: S104
        assert settings.models_dir == tmp_path
        assert settings.backend == "torch"
        assert (settings.batch.max_images, settings.batch.max_age_ms) == (5, 9)
        assert (settings.log.level, settings.log.format) == ("debug", "auto")
        assert not settings.demo_models

    def test_bad_options_do_not_start_it(self, served: list[Any], tmp_path: Path) -> None:
        assert smserve("serve", "--port", 70000).exit_code == 2
        assert smserve("serve", "--device", "abacus").exit_code == 2
        assert smserve("serve", "--backend", "stub").exit_code == 2
        result = smserve("serve", "--config", tmp_path / "absent.yaml")
        assert result.exit_code == 2
        assert "cannot read the configuration file" in error_lines(result)[0]
        assert not served
