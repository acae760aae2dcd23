"""Sources, priorities and refusals of the settings."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings, SettingsError, effective_settings, load_settings


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_safe() -> None:
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.limits.max_body_bytes == 32 * 1024 * 1024
    assert settings.batch.max_delay_ms == 0
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
    assert settings.batch.max_pixels == Settings.model_fields["batch"].default.max_pixels


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
