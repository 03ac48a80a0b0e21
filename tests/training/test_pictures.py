"""Pictures of a run in real event files; training is the same without them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.interruptions import PowerCut, assert_same_outcome
from support.maps import assert_same_maps
from support.project import Train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from fer.config.settings import read_settings
from fer.errors import ConfigError
from fer.methods.core.explain import explain, pooled_features
from fer.runs.cams import read_cam_records
from fer.runs.run_folder import RunFolder
from fer.training import experiment
from fer.training.callbacks import pictures, tiles
from fer.training.callbacks.pictures import Pictures
from fer.training.callbacks.showing import Showing
from fer.training.callbacks.shown_faces import evenly_spread, shown_test_faces, shown_wrong_labels
from fer.training.callbacks.tiles import confusion_matrix, rows_of_images
from fer.training.finished_run import trained
from fer.views.flip import mirror

CLASSES = ("bar", "disc", "line")
THREE_TIMES = "callbacks.pictures.epochs=3"
CUT = ["+callbacks.cut._target_=support.interruptions.CutPower"]


def events(folder: Path) -> EventAccumulator:
    """All event files of a run, without a limit to what is kept."""
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    return found.Reload()


def steps(folder: Path) -> dict[str, list[int]]:
    """The epochs at which each picture was added."""
    found = events(folder)
    return {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}


def picture(folder: Path, tag: str, number: int = -1) -> Any:
    """RGB (h, w, 3) as integers."""
    with Image.open(io.BytesIO(events(folder).Images(tag)[number].encoded_image_string)) as image:
        assert image.format == "JPEG"
        return np.asarray(image).astype(int)


def texts(folder: Path, file: str) -> list[tuple[int, str]]:
    """Step and content of what is shown of a file, without the fence around it."""
    added = events(folder).Tensors(f"{file}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode().strip("`")) for event in added]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def warnings(folder: Path) -> list[str]:
    return [line for line in (folder / "train.log").read_text().splitlines() if " WARNING " in line]


@pytest.fixture
def run(train: Train, tmp_path: Path) -> Path:
    """Five epochs, of which the first, third and last end with pictures."""
    train(tmp_path / "run", "trainer.max_epochs=5", THREE_TIMES)
    assert warnings(tmp_path / "run") == []
    return tmp_path / "run"


# What there is to see


def test_pictures_are_drawn_after_the_chosen_epochs(run: Path) -> None:
    assert steps(run) == {
        "views": [0], "confusion/test": [0, 2, 4], "cam/test": [0, 2, 4], "cam/wrong_labels": [0, 2, 4],
    }  # fmt: skip
    assert [*read_cam_records(RunFolder(run))] == [0, 2, 4]
    assert np.abs(picture(run, "cam/test", 0) - picture(run, "cam/test", -1)).max() > 50, "maps change with training"


def test_the_confusion_matrix_is_that_of_the_predictions(run: Path) -> None:
    counts = np.zeros((3, 3), np.int64)
    for row in rows(run / "predictions.csv"):
        if row["split"] == "test":
            counts[CLASSES.index(row["clean_label"]), CLASSES.index(row["predicted"])] += 1
    drawn = np.asarray(confusion_matrix(counts, CLASSES, "test, epoch 5: percent of each label"))
    shown = picture(run, "confusion/test")
    assert shown.shape == drawn.shape and np.abs(shown - drawn).mean() < 2


def test_the_config_and_the_stamp_are_there_to_read(run: Path) -> None:
    ((step, config),) = texts(run, "config.yaml")
    assert step == 0 and yaml.safe_load(config) == RunFolder(run).config()
    ((step, stamp),) = texts(run, "stamp.json")
    assert step == 0 and yaml.safe_load(stamp) == RunFolder(run).stamp()


def test_curves_that_belong_together_share_a_chart(run: Path) -> None:
    found = events(run)
    layout = Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    shown = {
        chart.title: [
            tag for tag in found.Tags()["scalars"] for pattern in chart.multiline.tag if re.match(pattern, tag)
        ]
        for category in layout.category
        for chart in category.chart
    }
    assert shown["recall of every class"] == [f"test/recall/{name}" for name in CLASSES]
    assert shown["wrong labels memorized and recovered"] == ["train/memorized", "train/recovered"]
    assert shown["loss and its weighted parts"] == [
        "train/loss", "train/loss_cls", "train/loss_consistency_weighted",
    ]  # fmt: skip
    assert all(shown.values()), shown


def test_the_loss_is_the_sum_of_its_weighted_parts(run: Path) -> None:
    for record in RunFolder(run).records():
        assert record["train/loss_consistency_weighted"] == pytest.approx(5 * record["train/loss_consistency"])
        parts = record["train/loss_cls"] + record["train/loss_consistency_weighted"]
        assert record["train/loss"] == pytest.approx(parts)


def test_the_projector_has_features_labels_and_thumbnails(train: Train, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    train(run.path, "callbacks.projector.faces=50")
    (folder,) = (run.path / "tensorboard").glob("*/features")
    header, *labels = csv.reader((folder / "metadata.tsv").open(), delimiter="\t")
    assert header == ["given label", "true label", "label is"]
    noise = rows(run.noise_file)
    positions = [number * 60 // 50 for number in range(50)]
    chosen = [(noise[p]["given_label"], noise[p]["clean_label"]) for p in positions]
    assert [(given, clean) for given, clean, _ in labels] == chosen
    assert [state for *_, state in labels] == ["right" if given == clean else "wrong" for given, clean in chosen]

    method = trained(run)
    batch = experiment.build(read_settings(run.config()), run, for_training=False).datamodule.train.__getitems__(
        positions
    )
    expected = pooled_features(method, method.augmentation.test_view(batch.image))
    written = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(written, expected / expected.std(), atol=1e-3)
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size == (8 * 32, 8 * 32)  # the least square that holds fifty
    assert "features/tensors.tsv" in (run.path / "tensorboard" / "projector_config.pbtxt").read_text()


def test_features_that_a_crash_has_prevented_are_written_by_the_resumed_run(run: Path, train: Train) -> None:
    (features,) = (run / "tensorboard").glob("*/features")
    written = {file.name: file.read_bytes() for file in features.iterdir()}
    (run / "tensorboard" / "projector_config.pbtxt").unlink()
    (features / "tensors.tsv").write_text("half of it")
    (run / "result.json").unlink()
    for _ in range(2):
        train(run, "trainer.max_epochs=5", THREE_TIMES)
        assert {file.name: file.read_bytes() for file in features.iterdir()} == written
        (run / "result.json").unlink()
    assert (run / "tensorboard" / "projector_config.pbtxt").is_file()


def test_views_are_those_of_training_turned_back_into_pictures(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def keep(images: Any, *names: Any) -> Image.Image:
        drawn.append((images.astype(int), names))
        return rows_of_images(images, *names)

    monkeypatch.setattr(pictures, "rows_of_images", keep)
    train(tmp_path / "two", "augment.pixel_noise_probability=0", "trainer.max_epochs=1")
    images, (row_names, column_names, _) = drawn[0]
    assert images.shape[:2] == (6, 7) and set(row_names) <= {*CLASSES} and column_names[0] == "face"
    face, first, second = images[:, :1], images[:, 1::2], images[:, 2::2]
    assert np.abs(first - second[..., ::-1]).max() <= 1, "a face and its mirror image, erased alike"
    differs = (np.abs(first - face) > 2).any(2).mean((2, 3))
    assert 0 < np.mean(differs > 0.02) < 1, "some have lost a rectangle"
    assert differs.max() < 0.4, "and nothing else has changed"
    drawn.clear()
    train(tmp_path / "one", "method=ce", "trainer.max_epochs=1")
    assert drawn[0][0].shape[:2] == (6, 4)


# The faces


def test_maps_of_the_last_epoch_are_those_of_the_trained_network(run: Path) -> None:
    record = read_cam_records(RunFolder(run))[4]
    method = trained(RunFolder(run))
    view = method.augmentation.test_view(torch.from_numpy(record.image))
    for maps, seen in ((record.cam, view), (record.mirrored_cam, mirror(view))):
        np.testing.assert_allclose(maps, explain(method, seen).cam.numpy(), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(record.probabilities, explain(method, view).logits.softmax(1).numpy(), atol=1e-5)


def test_faces_are_the_same_in_every_epoch_and_named_as_in_the_tables(run: Path, shapes: Path) -> None:
    records = [*read_cam_records(RunFolder(run)).values()]
    for name in ("split", "file", "image", "clean", "given"):
        assert all(np.array_equal(getattr(record, name), getattr(records[0], name)) for record in records)
    first = records[0]
    assert [*first.split] == ["test"] * 6 + ["train"] * 7
    assert [*first.clean[:6]] == [0, 0, 1, 1, 2, 2] and np.array_equal(first.clean[:6], first.given[:6])
    assert (first.clean[6:] != first.given[6:]).all()
    noise = {row["file"]: row for row in rows(run / "noise.csv")}
    for file, clean, given in zip(first.file[6:], first.clean[6:], first.given[6:], strict=True):
        assert (noise[file]["clean_label"], noise[file]["given_label"]) == (CLASSES[clean], CLASSES[given])
    for file, image in zip(first.file, first.image, strict=True):
        with Image.open(shapes / file) as expected:
            np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(expected.convert("RGB")))


def test_faces_do_not_depend_on_the_seed_or_the_method(run: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "other", "method=co_teaching", "seed=3", "trainer.max_epochs=1")
    (other,), expected = read_cam_records(RunFolder(tmp_path / "other")).values(), read_cam_records(RunFolder(run))[0]
    assert np.array_equal(other.file, expected.file) and not np.array_equal(other.cam, expected.cam)


def test_faces_stand_for_every_class_before_any_class_has_two() -> None:
    labels = np.array([0] * 30 + [2] * 3 + [1] * 4)
    assert [*shown_test_faces(labels)] == [0, 1, 33, 34, 30, 31]
    assert [*labels[shown_test_faces(labels)]] == [0, 0, 1, 1, 2, 2]
    assert [*shown_test_faces(np.arange(7).repeat(5))] == [0, 5, 10, 15, 20, 25, 30]
    assert len(shown_test_faces(np.arange(100))) == 10


def test_faces_with_wrong_labels_are_trained_on_and_known_to_be_wrong() -> None:
    clean = np.array([0, 0, 1, 1, -1, 2, 2, 2])
    given = np.array([0, 1, 1, 0, 2, 0, 1, 1])
    assert [*shown_wrong_labels(clean, given, np.arange(8))] == [1, 3, 5, 6, 7]
    assert [*shown_wrong_labels(clean, given, np.array([0, 2, 3, 4, 6]))] == [3, 6]
    assert len(shown_wrong_labels(clean, clean, np.arange(8))) == 0
    assert len(shown_wrong_labels(np.zeros(50, int), np.ones(50, int), np.arange(50))) == 7


def test_faces_that_are_held_out_are_not_shown_as_trained(train: Train, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(folder.path, "protocol=holdout", "holdout_share=0.5", "trainer.max_epochs=1")
    assert warnings(folder.path) == []
    assert steps(folder.path).keys() == {"views", "confusion/holdout", "cam/test", "cam/wrong_labels"}
    data = experiment.build(read_settings(folder.config()), folder, for_training=False).datamodule
    trained = {data.table.file_names[row] for row in data.train.rows[data.fit_rows]}
    (record,) = read_cam_records(folder).values()
    shown = set(record.file[record.split == "train"])
    assert len(trained) < len(data.train) and 0 < len(shown) <= 7 and shown <= trained


def test_without_wrong_labels_only_test_faces_are_shown(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "noise.ratio=0", "trainer.max_epochs=1")
    assert steps(tmp_path / "run").keys() == {"views", "confusion/test", "cam/test"}
    assert {*read_cam_records(RunFolder(tmp_path / "run"))[0].split} == {"test"}
    assert warnings(tmp_path / "run") == []


def test_evenly_spread_positions_come_from_everywhere() -> None:
    assert [*evenly_spread(np.arange(100, 110), 5)] == [100, 102, 104, 106, 108]
    assert [*evenly_spread(np.arange(3), 5)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("count", "of", "expected"), [(2, 9, {0, 8}), (3, 9, {0, 4, 8}), (6, 3, {0, 1, 2}), (2, 1, {0})]
)
def test_chosen_epochs_begin_with_the_first_and_end_with_the_last(count: int, of: int, expected: set[int]) -> None:
    assert pictures.chosen_epochs(count, of) == expected


# Training is the same


@pytest.mark.parametrize("method", ["eac", "mixup", "ran"])
def test_a_run_that_shows_nothing_is_the_same_run(method: str, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "shown", f"method={method}")
    train(tmp_path / "plain", f"method={method}", "logger=none", "callbacks=none")
    assert_same_outcome(tmp_path / "shown", tmp_path / "plain")
    shown, plain = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
        for run in ("shown", "plain")
    )
    torch.testing.assert_close(shown, plain, rtol=0, atol=0)
    assert not (tmp_path / "plain" / "cams").exists() and not (tmp_path / "plain" / "tensorboard").exists()


def test_showing_leaves_the_random_generator_as_it_was() -> None:
    trainer: Any = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    drawn = []
    before = torch.get_rng_state()
    Showing().attempt(trainer, lambda: drawn.append(torch.rand(3)))
    assert drawn and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_resumed_run_shows_everything_once(epoch: int, run: Path, train: Train, tmp_path: Path) -> None:
    folder, options = tmp_path / "cut", ["trainer.max_epochs=5", THREE_TIMES]
    with pytest.raises(PowerCut):
        train(folder, *options, *CUT, f"+callbacks.cut.epoch={epoch}")
    train(folder, *options)
    assert steps(folder) == steps(run)
    assert_same_maps(folder, run)
    assert [step for step, _ in texts(folder, "config.yaml")] == [0]
    assert [step for step, _ in texts(folder, "stamp.json")] == sorted({0, epoch}), "a new stamp where it went on"
    for tag in steps(run):
        for number in range(len(steps(run)[tag])):
            np.testing.assert_array_equal(picture(folder, tag, number), picture(run, tag, number))


def test_without_a_logger_the_maps_are_kept(run: Path, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "quiet", "trainer.max_epochs=5", THREE_TIMES, "logger=none")
    assert warnings(tmp_path / "quiet") == []
    assert not (tmp_path / "quiet" / "tensorboard").exists()
    assert_same_maps(tmp_path / "quiet", run)


@pytest.mark.parametrize("content", [b"", b"123456789", bytes(range(256)) * 40])
def test_event_files_have_the_checksums_that_tensorboard_computes(content: bytes) -> None:
    computed = pywrap_tensorflow.crc_finalize(pywrap_tensorflow.crc_update(pywrap_tensorflow.CRC_INIT, content))
    assert pywrap_tensorflow.crc32c(content) == computed


@pytest.mark.parametrize("protocol", ["last5", "holdout"])
def test_no_epoch_waits_for_letters(
    protocol: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = (tiles._word, tiles._numbered_cell)
    before, after = [], []
    show = Pictures.on_train_epoch_end

    def count(*arguments: Any) -> None:
        before.append([piece.cache_info().misses for piece in drawn])
        show(*arguments)
        after.append([piece.cache_info().misses for piece in drawn])

    for piece in drawn:
        piece.cache_clear()
    monkeypatch.setattr(Pictures, "on_train_epoch_end", count)
    train(tmp_path / "run", f"protocol={protocol}", "holdout_share=0.5", "trainer.max_epochs=1")
    assert min(before[0]) > 0 and after == before


# What goes wrong


def test_maps_that_cannot_be_written_cost_one_warning_and_nothing_else(run: Path, train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    folder.mkdir()
    (folder / "cams").write_text("in the way")
    train(folder, "trainer.max_epochs=5", THREE_TIMES)
    (warning,) = warnings(folder)
    assert re.search(r"Pictures left something out in epoch 1, and training goes on: FileExistsError: .*cams", warning)
    assert steps(folder) == steps(run)
    assert RunFolder(folder).state == "done"
    assert (folder / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


def test_a_full_disk_leaves_no_half_of_a_record(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    train(tmp_path / "run")
    (warning,) = warnings(tmp_path / "run")
    assert "No space left on device" in warning
    assert read_cam_records(RunFolder(tmp_path / "run")) == {}


def test_a_method_that_cannot_be_explained_is_trained_all_the_same(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no feature map")

    monkeypatch.setattr(pictures, "explain", fail)
    train(tmp_path / "run")
    (warning,) = warnings(tmp_path / "run")
    assert "RuntimeError: no feature map" in warning
    assert steps(tmp_path / "run").keys() == {"views", "confusion/test"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.pictures.epochs=1", "callbacks.pictures.epochs is 1; it must be a whole number of 2 or more"),
        ("callbacks.pictures.epochs=often", "callbacks.pictures.epochs is 'often'; it must be a whole number"),
        ("callbacks.projector.faces=2", "callbacks.projector.faces is 2"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_key(
    override: str, message: str, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", override)


# Drawing


def test_images_stand_in_rows_and_columns_unchanged() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 3, 3, 20, 16), dtype=np.uint8)
    drawn = np.asarray(rows_of_images(images, ["first", "second\nof two"], ["a", "b\nc", "d"], [1]))
    places = np.full((2, 3, 2), -1)
    for row in range(2):
        for column in range(3):
            tile = images[row, column].transpose(1, 2, 0)
            for y, x in np.argwhere((drawn == tile[0, 0]).all(2)):
                if np.array_equal(drawn[y : y + 20, x : x + 16], tile):
                    places[row, column] = y, x
    assert (places >= 0).all()
    assert (np.diff(places[..., 0], axis=0) == 24).all() and (np.diff(places[..., 0], axis=1) == 0).all()
    assert [*np.diff(places[0, :, 1])] == [32, 20], "a new group stands off"


@pytest.mark.parametrize("classes", [2, 7, 40, 1000])
def test_a_cell_is_colored_by_its_share_of_the_row(classes: int) -> None:
    counts = np.diag(np.arange(classes))  # the first class has no samples
    drawn = np.asarray(confusion_matrix(counts, [f"class {n}" for n in range(classes)], "title"))
    assert max(drawn.shape[:2]) < 2100
    full = np.argwhere((drawn == (8, 48, 107)).all(2))
    (top, left), (bottom, right) = full.min(0), full.max(0) + 1
    cell = (bottom - top) / (classes - 1)
    assert cell == (right - left) / (classes - 1) == round(cell) >= 2
    row, column = (full - (top, left)).T // round(cell)
    assert np.array_equal(row, column) and {*row} == {*range(classes - 1)}
