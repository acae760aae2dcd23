"""Hashes of model files, and what a second look at the folder finds."""

import hashlib
from pathlib import Path

import pytest

from demo.shipped import model_files
from model.checkpoint import CheckpointError
from model.config import TaskName
from service import catalog
from service.catalog import CatalogChanges, CatalogEntry, open_catalog, reload_catalog
from service.errors import ModelNotFoundError
from service.model_hashes import (
    HashPolicy,
    ModelHashError,
    sidecar_path,
    verify_model_hash,
    write_sidecar,
)
from service.settings import Settings, SettingsError
from tests.service.untrained import save_untrained, settings_for

ZEROS = "0" * 64


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestHashes:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "tiny.safetensors"
        path.write_bytes(b"weights")
        return path

    @pytest.mark.parametrize(
        "text", ["{}", "{}\n", "{}  tiny.safetensors\n", "{} *./x/tiny.safetensors\n", "{}\r\n"]
    )
    @pytest.mark.parametrize("policy", ["if_present", "required"])
    def test_the_forms_of_sha256sum(self, path: Path, text: str, policy: HashPolicy) -> None:
        expected = sha256_of(path)
        for digits in (expected, expected.upper()):
            sidecar_path(path).write_text(text.format(digits))
            assert verify_model_hash(path, policy) == expected

    def test_another_file_is_refused_with_both_hashes(self, path: Path) -> None:
        sidecar_path(path).write_text(f"{ZEROS}  tiny.safetensors\n")
        with pytest.raises(ModelHashError, match=ZEROS) as caught:
            verify_model_hash(path, "if_present")
        assert sha256_of(path) in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "abc",
            ZEROS[1:],
            ZEROS + "0",
            "g" * 64,
            f"{ZEROS}  tiny.safetensors\n{ZEROS}  other\n",
            f"{ZEROS}  other.safetensors",
            "\0" * 5000,
        ],
        ids=range(8),
    )
    def test_what_sha256sum_does_not_write_is_refused(self, path: Path, text: str) -> None:
        sidecar_path(path).write_text(text)
        with pytest.raises(ModelHashError, match=r"no line of sha256sum|tells of"):
            verify_model_hash(path, "if_present")

    def test_without_a_hash_the_policy_decides(self, path: Path) -> None:
        assert verify_model_hash(path, "if_present") is None
        with pytest.raises(ModelHashError, match="required"):
            verify_model_hash(path, "required")

    def test_what_is_written_is_accepted(self, path: Path) -> None:
        assert write_sidecar(path) == verify_model_hash(path, "required") == sha256_of(path)


def test_the_shipped_models_have_their_hashes() -> None:
    assert model_files()
    for path in model_files():
        assert verify_model_hash(path, "required") == sha256_of(path)


def test_nothing_is_loaded_when_one_hash_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sidecar(save_untrained(tmp_path, TaskName.CLASSIFY, "a"))
    sidecar_path(save_untrained(tmp_path, TaskName.CLASSIFY, "b")).write_text(ZEROS)
    monkeypatch.setattr(catalog, "open_backend", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ModelHashError, match=r"b\.safetensors"):
        open_catalog(settings_for(tmp_path))


def test_a_file_that_changes_between_check_and_load_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sidecar(save_untrained(tmp_path, TaskName.CLASSIFY, "a"))
    opened = catalog.open_backend

    def swap_and_open(path: Path, *arguments: object, **options: object) -> object:
        save_untrained(tmp_path, TaskName.CLASSIFY, "a", seed=1)
        return opened(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "open_backend", swap_and_open)
    with pytest.raises(ModelHashError, match="changed while"):
        open_catalog(settings_for(tmp_path))


def by_name(entries: tuple[CatalogEntry, ...]) -> dict[str, CatalogEntry]:
    return {entry.model.spec.name: entry for entry in entries}


def names(entries: tuple[CatalogEntry, ...]) -> list[str]:
    return [entry.model.spec.name for entry in entries]


def defaults(changes: CatalogChanges) -> list[str]:
    return [entry.model.spec.name for entry in changes.entries if entry.model.is_default]


class TestReload:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        for name in ("b", "c"):
            save_untrained(tmp_path, TaskName.CLASSIFY, name)
        return settings_for(tmp_path)

    @pytest.fixture
    def current(self, settings: Settings) -> dict[str, CatalogEntry]:
        return by_name(open_catalog(settings))

    def test_nothing_changed(self, settings: Settings, current: dict[str, CatalogEntry]) -> None:
        changes = reload_catalog(settings, current)
        assert (changes.loaded, changes.gone) == ((), ())
        assert changes.entries == tuple(current.values())

    def test_new_changed_and_vanished(
        self, tmp_path: Path, settings: Settings, current: dict[str, CatalogEntry]
    ) -> None:
        before = dict(current)
        save_untrained(tmp_path, TaskName.CLASSIFY, "a")
        path = save_untrained(tmp_path, TaskName.CLASSIFY, "b", seed=1)
        (tmp_path / "c.safetensors").unlink()
        changes = reload_catalog(settings, current)
        assert names(changes.entries) == names(changes.loaded) == ["a", "b"]
        assert changes.gone == ("c",)
        assert by_name(changes.entries)["b"].model.sha256 == sha256_of(path)
        # the first file of the folder has another name now
        assert defaults(changes) == ["a"]
        assert current == before
        assert current["b"].model.is_default

    def test_what_did_not_change_keeps_its_network(
        self, tmp_path: Path, settings: Settings, current: dict[str, CatalogEntry]
    ) -> None:
        save_untrained(tmp_path, TaskName.CLASSIFY, "c", seed=1)
        changes = reload_catalog(settings, current)
        assert names(changes.loaded) == ["c"]
        after = by_name(changes.entries)
        assert after["b"].backend is current["b"].backend
        assert after["c"].backend is not current["c"].backend

    def test_one_name_leaves_the_others_alone(
        self, tmp_path: Path, settings: Settings, current: dict[str, CatalogEntry]
    ) -> None:
        save_untrained(tmp_path, TaskName.CLASSIFY, "a")
        (tmp_path / "b.safetensors").unlink()
        save_untrained(tmp_path, TaskName.CLASSIFY, "c", seed=1)
        changes = reload_catalog(settings, current, "c")
        assert (names(changes.loaded), changes.gone) == (["c"], ())
        assert set(names(changes.entries)) == {"b", "c"}
        changes = reload_catalog(settings, current, "b")
        assert (names(changes.loaded), changes.gone) == ([], ("b",))
        assert (names(changes.entries), defaults(changes)) == (["c"], ["c"])
        with pytest.raises(ModelNotFoundError, match="nobody"):
            reload_catalog(settings, current, "nobody")

    def test_a_damaged_or_a_wrong_file_is_an_error(
        self, tmp_path: Path, settings: Settings, current: dict[str, CatalogEntry]
    ) -> None:
        path = save_untrained(tmp_path, TaskName.CLASSIFY, "b", seed=1)
        sidecar_path(path).write_text(ZEROS)
        with pytest.raises(ModelHashError):
            reload_catalog(settings, current)
        sidecar_path(path).unlink()
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError):
            reload_catalog(settings, current)

    def test_two_files_of_one_name_are_an_error(
        self, tmp_path: Path, settings: Settings, current: dict[str, CatalogEntry]
    ) -> None:
        save_untrained(tmp_path, TaskName.CLASSIFY, "b", "other")
        with pytest.raises(SettingsError, match="'b'"):
            reload_catalog(settings, current)

    def test_an_empty_folder_is_an_error(
        self, tmp_path: Path, settings: Settings, current: dict[str, CatalogEntry]
    ) -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(SettingsError, match="no models"):
            reload_catalog(settings, current)

    def test_stubs_are_made_anew(self) -> None:
        settings = Settings(backend="stub")
        current = by_name(open_catalog(settings))
        changes = reload_catalog(settings, current, "stub-detect")
        assert names(changes.entries) == list(current)
        (loaded,) = changes.loaded
        assert loaded.model == current["stub-detect"].model
        assert loaded.backend is not current["stub-detect"].backend
