"""The state of an evaluation on disk, and which pictures are left after an interruption."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.evaluation.errors import JournalError
from model.evaluation.journal import Journal
from model.evaluation.run import Evaluation
from model.evaluation.samples import Dataset, Sample
from model.results import Result

SETTINGS = {"task": "classify", "model": "abc", "batch_size": 8, "multi_scale": False}


def test_records_come_back_and_a_torn_line_does_not(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "work", SETTINGS) as journal:
        journal.append("a", {"rank": 0})
        journal.append("b\x00é\n", {"score": 0.1 + 0.2})
    path = tmp_path / "new" / "work" / "records.jsonl"
    with path.open("ab") as file:
        file.write(b'{"name":"c","rank"')
    with Journal(path.parent, SETTINGS) as journal:
        assert journal.records == {"a": {"rank": 0}, "b\x00é\n": {"score": 0.1 + 0.2}}
        journal.append("c", {"rank": 1})
        journal.append("a", {"rank": 2})
    with Journal(path.parent, SETTINGS) as journal:
        assert journal.records["c"] == {"rank": 1}
        assert journal.records["a"] == {"rank": 2}


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.append("a", {"rank": 0})
    other = {**SETTINGS, "model": "def", "batch_size": 4}
    with pytest.raises(JournalError, match="model was abc, is def, batch_size was 8, is 4"):
        Journal(tmp_path, other)
    with Journal(tmp_path, SETTINGS) as journal:
        assert journal.records == {"a": {"rank": 0}}
    with Journal(tmp_path, other, fresh=True) as journal:
        assert journal.records == {}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, SETTINGS),
        pytest.raises(JournalError, match="another process is evaluating"),
    ):
        Journal(tmp_path, SETTINGS)
    with Journal(tmp_path, SETTINGS):
        pass


def test_folders_that_are_no_journal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot write to"):
        Journal(tmp_path / "file", SETTINGS)
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(JournalError, match="not what an evaluation left"):
        Journal(tmp_path, SETTINGS)
    with Journal(tmp_path, SETTINGS, fresh=True):
        pass
    (tmp_path / "records.jsonl").write_text('{"name": "a"}\nrubbish\n{"name": "b"}\n')
    with pytest.raises(JournalError, match="line 2 is damaged"):
        Journal(tmp_path, SETTINGS)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(JournalError, match=r"cannot read .*settings.json"):
        Journal(tmp_path, SETTINGS)


class Sum:
    """A measure that adds up numbers."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def record(self, truth: int, result: Result, original_hw: tuple[int, int]) -> dict[str, Any]:
        return {"value": 10 * truth}

    def add(self, truth: int, record: dict[str, Any]) -> None:
        self.seen.append((truth, record["value"]))

    def headline(self) -> str:
        return f"sum {sum(value for _, value in self.seen)}"

    def metrics(self) -> dict[str, float]:
        return {"sum": sum(value for _, value in self.seen)}


def evaluation(journal: Journal, *, block_size: int = 4) -> Evaluation[int]:
    samples = [Sample(f"s{i}", Path(f"s{i}"), i) for i in range(10)]
    return Evaluation(Dataset.of("numbers", samples, []), Sum(), journal, block_size=block_size)


def test_blocks_that_were_not_finished_are_answered_as_a_whole(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        first = evaluation(journal)
        items = list(first.pending())
        assert [item.block for item in items] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
        for item in items[:6]:
            first.accept(item, {"value": item.sample.truth})
    with Journal(tmp_path, SETTINGS) as journal:
        second = evaluation(journal)
        assert (second.num_before, second.num_pending) == (4, 6)
        left = list(second.pending())
        assert left == items[4:]
        for item in left:
            second.accept(item, {"value": item.sample.truth})
        assert second.metrics() == {"sum": 45}
        assert second.num_done == 10
    with Journal(tmp_path, SETTINGS) as journal:
        third = evaluation(journal)
        assert third.num_pending == 0
        assert third.metrics() == {"sum": 45}
        assert third.headline() == "sum 45"


def test_failures_are_tried_again(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        first = evaluation(journal, block_size=2)
        for item in first.pending():
            if item.sample.name == "s3":
                first.fail(item, "no", is_readable=False)
            else:
                first.accept(item, {"value": 1})
        assert [(f.name, f.reason, f.is_readable) for f in first.failures] == [("s3", "no", False)]
        assert first.num_done == 9
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert "s3" not in [json.loads(line)["name"] for line in lines]
    with Journal(tmp_path, SETTINGS) as journal:
        again = evaluation(journal, block_size=2)
        assert [item.sample.name for item in again.pending()] == ["s2", "s3"]
