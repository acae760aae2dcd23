"""Sources, priorities and refusals of the settings."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.capacity import Capacity, capacity_for
from service.settings import Settings, SettingsError, effective_settings, load_settings


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_safe() -> None:
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.limits.max_body_bytes == 32 * 1024 * 1024
    assert settings.batch.max_delay_ms == 0
    assert (settings.backend, settings.device) == ("auto", "auto")
    assert settings.cors_origins == ()


def test_priority_is_command_line_environment_file_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "c.yaml",
        "port: 1\nhost: file\npool_size: 3\nbatch: {max_images: 1, max_age_ms: 7}",
    )
    monkeypatch.setenv("SMSERVE_CONFIG", str(file))
    monkeypatch.setenv("SMSERVE_PORT", "2")
    monkeypatch.setenv("SMSERVE_HOST", "environment")
    monkeypatch.setenv("SMSERVE_BATCH__MAX_IMAGES", "2")
    settings = load_settings(port=3)
    assert (settings.port, settings.host, settings.pool_size) == (3, "environment", 3)
    assert (settings.batch.max_images, settings.batch.max_age_ms) == (2, 7)
    assert settings.batch.max_delay_ms == Settings.model_fields["batch"].default.max_delay_ms


def test_the_command_line_chooses_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMSERVE_CONFIG", str(write(tmp_path / "a.yaml", "port: 1")))
    assert load_settings(config=write(tmp_path / "b.yaml", "port: 2")).port == 2


def test_options_that_were_not_given_are_left_to_the_other_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMSERVE_PORT", "2")
    assert load_settings(port=None, host=None).port == 2


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("SMSERVE_PROT", "SMSERVE_PROT"),
        ("SMSERVE_BATCH__MAX_SZIE", "SMSERVE_BATCH__MAX_SZIE"),
        ("SMSERVE_BACTH__MAX_IMAGES", "SMSERVE_BACTH__MAX_IMAGES"),
    ],
)
def test_unknown_variables_are_errors_that_name_them(
    monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    monkeypatch.setenv(name, "3")
    with pytest.raises(SettingsError, match=wanted):
        load_settings()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("prot: 3", "unknown setting prot"),
        ("batch: {max_szie: 3}", "batch.max_szie"),
        ("port: many", "port"),
        ("- port", "mapping"),
        ("port: [", "cannot read"),
        ("config: other.yaml", "cannot name another"),
        ("timeouts: {request_ms: 9, max_request_ms: 8}", "at most max_request_ms"),
        ("queue: {max_bytes: 5}", "max_body_bytes"),
        ("api_keys: [short]", "at least 8"),
        ("backend: abacus", "backend: .*'triton'"),
        ("gpu: {precision: float64}", "gpu.precision: .*'bfloat16'"),
        ("gpu: {warm_up_batches: []}", "gpu.warm_up_batches: .*at least 1"),
        ("gpu: {warm_up_batches: [4, 0]}", "gpu.warm_up_batches.1: .*greater than 0"),
        ("gpu: {max_grahps: 3}", "gpu.max_grahps"),
    ],
)
def test_bad_files_are_errors_that_say_why(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted):
        load_settings(config=write(tmp_path / "c.yaml", text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.yaml"):
        load_settings(config=tmp_path / "nothing.yaml")


@pytest.mark.parametrize("text", ["first-key,second-key", '["first-key", "second-key"]'])
def test_keys_are_read_from_the_environment_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SMSERVE_API_KEYS", text)
    settings = load_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["first-key", "second-key"]
    assert "first" not in repr(settings)
    shown = effective_settings(settings)
    assert shown["api_keys"] == ["**********", "**********"]
    assert shown["limits"]["max_pixels"] == 50_000_000


def test_a_wrong_key_does_not_appear_in_the_error() -> None:
    with pytest.raises(SettingsError) as failure:
        load_settings(api_keys=[SecretStr("hushhh")])
    assert "hushhh" not in str(failure.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 3  # type: ignore[misc]


def test_capacity_follows_the_device_where_nothing_is_set() -> None:
    settings = load_settings()
    assert capacity_for(settings, "cpu") == Capacity(
        batch_images=16, batch_pixels=600_000, queue_images=256, queue_pixels=64_000_000
    )
    assert capacity_for(settings, "cuda:0") == Capacity(
        batch_images=128,
        batch_pixels=17_203_200,
        queue_images=1024,
        queue_pixels=256_000_000,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_what_the_operator_sets_holds_on_every_device(device: str) -> None:
    settings = load_settings(
        batch={"max_images": 1, "max_pixels": 2}, queue={"max_images": 3, "max_pixels": 4}
    )
    assert capacity_for(settings, device) == Capacity(
        batch_images=1, batch_pixels=2, queue_images=3, queue_pixels=4
    )


@pytest.mark.parametrize("text", ["8,1,2,8", "[8, 1, 2, 8]"])
def test_warm_up_batches_from_the_environment_are_put_in_order(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SMSERVE_GPU__WARM_UP_BATCHES", text)
    assert load_settings().gpu.warm_up_batches == (1, 2, 8)
