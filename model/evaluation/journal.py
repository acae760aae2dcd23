"""What an evaluation has found so far, on disk: a later run goes on where an earlier one ended."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from model.evaluation.errors import JournalError

_SETTINGS: Final = "settings.json"
_RECORDS: Final = "records.jsonl"

Settings = Mapping[str, str | int | bool | None]


class Journal:
    """A folder with the settings of an evaluation and a line for each picture that is answered.

    A line is written at once, so that a process that is killed loses at most the line it was
    writing. One process at a time may have it open.

    Attributes:
        records: of the earlier runs, by name of the picture.
    """

    def __init__(self, folder: Path, settings: Settings, *, fresh: bool = False) -> None:
        """Open or begin.

        Args:
            settings: everything that the records depend on.
            fresh: forget what is there.

        Raises:
            JournalError: the folder has the records of other settings, is in use, or cannot be
                used.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / _RECORDS).open("a+b")
        except OSError as exc:
            raise JournalError(f"cannot write to {folder}: {exc.strerror or exc}") from exc
        try:
            self._lock()
            if fresh:
                self._file.truncate(0)
                (folder / _SETTINGS).unlink(missing_ok=True)
            self._settle(settings)
            self.records = self._load()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Write down what was found for a picture; a later line of the same name counts."""
        line = json.dumps({"name": name, **record}, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise JournalError(f"another process is evaluating in {self.folder}") from exc

    def _settle(self, settings: Settings) -> None:
        path = self.folder / _SETTINGS
        wanted = dict(settings)
        if not path.exists():
            if self._file.seek(0, os.SEEK_END):
                raise JournalError(
                    f"{self.folder} has {_RECORDS} but no {_SETTINGS}: not what an evaluation left"
                )
            part = path.with_suffix(".part")
            part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise JournalError(f"cannot read {path}: {exc}") from exc
        if found != wanted:
            raise JournalError(
                f"{self.folder} has the records of another evaluation: "
                f"{_differences(found, wanted)}. Take another folder (--work), or start over "
                "(--fresh)"
            )

    def _load(self) -> dict[str, dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        # what follows the last end of line was being written when the process was killed
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        records = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                records[record.pop("name")] = record
            except (ValueError, KeyError, AttributeError) as exc:
                path = self.folder / _RECORDS
                raise JournalError(f"{path}, line {number} is damaged; use --fresh") from exc
        return records


def _differences(found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "its settings cannot be read"
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} was {found.get(name)}, is {wanted.get(name)}" for name in names)
