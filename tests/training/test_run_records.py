"""Files of a run, and the epochs that make its result."""

from __future__ import annotations

import errno
import fcntl
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import yaml
from support.csv_tables import rows
from support.project import Train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from fer.config.settings import read_settings
from fer.runs.run_folder import FORMAT, RunFolder, RunFolderError
from fer.training import experiment

pytestmark = pytest.mark.measured

RECALLS = {f"test/recall/{name}" for name in ("bar", "disc", "line")}
TEST = {"test/acc", "test/macro_acc", "test/f1", "test/ece"} | RECALLS
TRAIN = {
    "train/loss", "train/loss_cls", "train/loss_consistency", "train/loss_consistency_weighted", "train/acc",
    "train/acc_clean", "train/memorized", "train/recovered",
}  # fmt: skip


@pytest.fixture
def folder(train: Train, tmp_path: Path) -> Path:
    train(tmp_path / "run", "trainer.max_epochs=7")
    return tmp_path / "run"


def test_every_file_of_a_run_is_there_and_agrees(folder: Path) -> None:
    run = RunFolder(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["lam"] == 5.0 and config["choices"]["method"] == "eac"

    records = run.records()
    assert [record["epoch"] for record in records] == list(range(7))
    costs = {"seconds", "samples_per_second"}
    assert all(set(record) == {"epoch", "lr"} | TEST | TRAIN | costs for record in records)
    assert all(60 / record["seconds"] < record["samples_per_second"] < 1e5 for record in records)
    assert [record["lr"] for record in records] == pytest.approx([3e-3 * 0.9**epoch for epoch in range(7)])

    noise = rows(folder / "noise.csv")
    assert len(noise) == 60
    wrong = {row["file"] for row in noise if row["clean_label"] != row["given_label"]}
    stamp = json.loads((folder / "stamp.json").read_text())
    assert stamp["labels"]["changed"] == len(wrong) > 0
    assert len(stamp["data"]["images"]) == 64 and stamp["packages"]["torch"] == torch.__version__.partition("+")[0]

    predictions = rows(folder / "predictions.csv")
    test = [row for row in predictions if row["split"] == "test"]
    trained = [row for row in predictions if row["split"] == "train"]
    assert (len(test), len(trained)) == (21, 60)
    right = np.mean([row["predicted"] == row["clean_label"] for row in test])
    assert right == pytest.approx(records[-1]["test/acc"], abs=1e-6)
    probabilities = [[float(row[f"p_{name}"]) for name in ("bar", "disc", "line")] for row in predictions]
    np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-5)
    memorized = [row["predicted"] == row["given_label"] for row in trained if row["file"] in wrong]
    assert run.result()["after_training"]["memorized"] == pytest.approx(np.mean(memorized))
    assert "epoch 7/7" in (folder / "train.log").read_text()


def test_last5_is_the_mean_of_the_last_five_epochs_and_selects_nothing(folder: Path) -> None:
    run = RunFolder(folder)
    result, records = run.result(), run.records()
    assert result["protocol"] == "last5" and result["averaged_epochs"] == [2, 3, 4, 5, 6]
    for name in TEST:
        assert result["metrics"][name] == pytest.approx(np.mean([record[name] for record in records[2:]]))
    assert result["best_test_epoch_optimistic"]["test/acc"] == max(record["test/acc"] for record in records)


def test_tensorboard_holds_every_metric_by_epoch(folder: Path) -> None:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    records = RunFolder(folder).records()
    for name in TEST | TRAIN:
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(record["epoch"], pytest.approx(record[name], rel=1e-6)) for record in records]


def test_tensorboard_holds_one_row_of_hyper_parameters_with_the_result(folder: Path) -> None:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    metadata = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(metadata).session_start_info
    shown = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert shown["method"] == "eac" and shown["lambda"] == 5 and shown["noise_ratio"] == 0.3 and shown["seed"] == 0
    result = RunFolder(folder).result()
    (accuracy,) = events.Scalars("result/acc")
    assert accuracy.value == pytest.approx(result["metrics"]["test/acc"])
    (memorized,) = events.Scalars("result/memorized")
    assert memorized.value == pytest.approx(result["after_training"]["memorized"])
    assert "hp_metric" not in events.Tags()["scalars"]


class NoteEvaluations(L.Callback):
    """Writes which evaluations callbacks are told of."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._note("validation")

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._note("test")

    def _note(self, what: str) -> None:
        with self.file.open("a") as stream:
            stream.write(f"{what}\n")


def test_holdout_selects_by_held_out_training_samples_and_tests_once(train: Train, tmp_path: Path) -> None:
    folder, note = RunFolder(tmp_path / "run"), tmp_path / "note.txt"
    noting = ["+callbacks.note._target_=test_run_records.NoteEvaluations", f"+callbacks.note.file={note}"]
    result = train(folder.path, "protocol=holdout", "holdout_share=0.3", "trainer.max_epochs=5", *noting)
    assert note.read_text().split() == ["validation"] * 5 + ["test"]
    records = folder.records()
    assert not any(name.startswith("test/") for record in records for name in record)
    accuracies = [record["holdout/acc"] for record in records]
    assert result["selected_epoch"]["epoch"] == accuracies.index(max(accuracies))
    assert torch.load(folder.best_checkpoint, weights_only=True)["epoch"] == result["selected_epoch"]["epoch"]
    assert set(result["metrics"]) == TEST
    # Predictions come from the same network as the test.
    test = [row for row in rows(folder.predictions_file) if row["split"] == "test"]
    right = np.mean([row["predicted"] == row["clean_label"] for row in test])
    assert right == pytest.approx(result["metrics"]["test/acc"], abs=1e-6)


@pytest.mark.parametrize("protocol", ["last5", "holdout"])
@pytest.mark.parametrize("batch_size", [16, 5])
def test_a_finished_run_tested_again_gives_the_same_numbers(
    protocol: str, batch_size: int, train: Train, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    result = train(folder.path, f"protocol={protocol}")
    again = experiment.evaluate(read_settings({**folder.config(), "batch_size": batch_size}), folder)
    recorded = result["last_epoch"] if protocol == "last5" else result["metrics"]
    for name in TEST:
        assert again[name] == pytest.approx(recorded[name], abs=1e-6)


def test_training_reaches_the_truth_on_an_easy_task(train: Train, tmp_path: Path) -> None:
    result = train(tmp_path / "run", "noise.ratio=0", "trainer.max_epochs=20", "method.lam=1")
    assert result["metrics"]["test/acc"] > 0.8
    assert "memorized" not in result["after_training"]


def test_a_folder_in_use_is_refused_after_a_while(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(RunFolderError, match="another process is training"):
        RunFolder(tmp_path).locked(patience=0).__enter__()
    with RunFolder(tmp_path).locked(patience=0):
        assert folder.state == "new"


def test_a_folder_that_is_left_in_time_is_taken(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with RunFolder(tmp_path).locked(patience=20):
            order.append("second")

    with ThreadPoolExecutor(1) as other:
        with RunFolder(tmp_path).locked():
            waiting = other.submit(wait)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            order.append("first")
        waiting.result(20)
    assert order == ["first", "second"]


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunFolder(tmp_path).locked():
        pass
    assert "no lock on" in caplog.text and "No locks available" in caplog.text and "one process only" in caplog.text


def test_the_cause_of_errors_comes_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_error("rank 0 lost rank 1", "its traceback")
    folder.add_error("rank 2 lost rank 1", "another")
    folder.add_error("rank 1 was killed", "", is_cause=True)
    assert folder.state == "failed" and folder.error() == "rank 1 was killed"
    assert [line for line in folder.error_file.read_text().splitlines() if line] == [
        "rank 1 was killed", "rank 0 lost rank 1", "its traceback", "rank 2 lost rank 1", "another",
    ]  # fmt: skip
    folder.forget_error()
    assert folder.state == "new"


def test_an_error_file_that_cannot_be_written_or_read_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    folder.error_file.mkdir()
    folder.add_error("the disk is full", "")
    assert f"cannot write {folder.error_file}" in caplog.text and "the disk is full" in caplog.text
    assert "cannot be read" in folder.error()
    with pytest.raises(RunFolderError, match="cannot write to"):
        folder.forget_error()
    folder.error_file.rmdir()
    folder.error_file.touch()
    assert folder.error() == "unknown error"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = RunFolder(tmp_path / "file" / "run")
    for use in (folder.make, lambda: folder.open({}, []), lambda: folder.locked().__enter__()):
        with pytest.raises(RunFolderError, match=r"cannot write to .*file/run .*output_dir="):
            use()


def test_a_line_cut_off_by_a_crash_ends_the_records(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.records() == []
    for epoch in range(3):
        folder.append_record({"epoch": epoch, "loss": 0.5})
    folder.records_file.write_text(folder.records_file.read_text() + '{"epoch": 3, "lo')
    assert [record["epoch"] for record in folder.records()] == [0, 1, 2]
    folder.keep_records_before(2)
    assert folder.records_file.read_text() == '{"epoch": 0, "loss": 0.5}\n{"epoch": 1, "loss": 0.5}\n'


def test_a_folder_of_another_format_is_told_apart(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "trainer.max_epochs=1")
    run = RunFolder(tmp_path / "run")
    stamp = json.loads(run.stamp_file.read_text())
    assert stamp["format"] == FORMAT
    for older in ({key: value for key, value in stamp.items() if key != "format"}, {**stamp, "format": FORMAT + 1}):
        run.stamp_file.write_text(json.dumps(older))
        with pytest.raises(
            RunFolderError, match=rf"written in format {older.get('format', 1)}, .* reads format {FORMAT}"
        ):
            run.config()


def test_weights_are_reported_once(train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path / "first")
    with caplog.at_level("INFO"):
        train(tmp_path / "second", f"backbone.weights={tmp_path / 'first'}", "trainer.max_epochs=1")
    assert caplog.text.count("tensors loaded") == 1
