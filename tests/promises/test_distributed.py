"""Runs on several devices: those of one device, exact in evaluation, repeatable, and resumed after a crash."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image
from support.disk_limits import LAST, lift_limit, room_for
from support.interruptions import PowerCut, assert_same_outcome, cut_in, records
from support.project import CHOICES, PROJECT
from support.ranks import Ranks
from support.spoiling import spoil
from support.training_ranks import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from fer.config.compose import compose
from fer.config.settings import read_settings
from fer.errors import RunFailed, TrainingError
from fer.launch import run_job
from fer.runs.cams import read_cam_records
from fer.runs.run_folder import RunFolder
from fer.training import experiment

TWENTY_STEPS = ["batch_size=32", "train_samples=51", "trainer.max_epochs=10"]  # 32 and 19 an epoch: uneven shares
THREE_RANKS = ["batch_size=30", "train_samples=50", "trainer.max_epochs=3"]  # 20 samples in the last batch: 7, 7, 6
FINE_TUNED = (
    "method.forward=joint_per_view_statistics", "optim=adamw", "optim.frozen=[layer1]", "optim.layer_decay=0.7",
)  # fmt: skip
DOUBLE = "trainer.precision=64-true"
TEST_SAMPLES = 3068  # RAF-DB's

RankGroups = dict[int, Ranks]
TrainOn = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def train_on(overrides: list[str], ranks: RankGroups, tmp_path_factory: pytest.TempPathFactory) -> TrainOn:
    """``train_on(2, "seed=1", ...)`` trains on two devices, in processes as torchrun starts them, and only once.

    ``name`` tells apart runs of the same configuration.
    """
    runs: dict[tuple[Any, ...], RunFolder] = {}

    def run(devices: int, *more: str, name: str = "run") -> RunFolder:
        key = (devices, *more, name)
        if key not in runs:
            folder = tmp_path_factory.mktemp("runs") / name
            together = [*overrides, "augment=none", "augment.size=32", *more, f"trainer.devices={devices}"]
            results = ranks[devices](train, folder, together) if devices > 1 else [train(folder, together)]
            runs[key] = RunFolder(folder)
            assert results == [runs[key].result()] + [None] * (devices - 1)
        return runs[key]

    return run


def weights(folder: RunFolder) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder.last_checkpoint, weights_only=True)["state_dict"]
    return state


def files(folder: RunFolder) -> list[tuple[str, str]]:
    """Split and name of every sample in ``predictions.csv``."""
    with folder.predictions_file.open(newline="") as stream:
        return [(row["split"], row["file"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize(
    ("devices", "options", "tolerance"),
    [
        (2, (*TWENTY_STEPS, DOUBLE), 1e-9),
        (2, (*TWENTY_STEPS, DOUBLE, "method.forward=joint_per_view_statistics"), 1e-9),
        (2, (*TWENTY_STEPS, DOUBLE, "method=ce"), 1e-9),
        pytest.param(3, (*THREE_RANKS, DOUBLE), 1e-9, marks=pytest.mark.slow),
        (2, (*TWENTY_STEPS, DOUBLE, *FINE_TUNED), 1e-9),
        # Adam divides gradients by their size, and so makes large of the rounding in small ones.
        pytest.param(2, (*TWENTY_STEPS, "optim.lr=2e-5"), 1e-4, marks=pytest.mark.slow),
    ],
    ids=["eac", "per_view", "ce", "three_devices", "fine_tuned", "float32"],
)
def test_training_is_that_of_one_device(
    devices: int, options: tuple[str, ...], tolerance: float, train_on: TrainOn
) -> None:
    alone, together = train_on(1, *options), train_on(devices, *options)
    for one, many in zip(records(alone.path), records(together.path), strict=True):
        assert many == pytest.approx(one, rel=0, abs=tolerance)
    expected, actual = weights(alone), weights(together)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


def test_predictions_list_every_sample_once_and_in_the_same_order(train_on: TrainOn) -> None:
    alone = files(train_on(1, *THREE_RANKS, DOUBLE))
    assert [split for split, _ in alone] == ["test"] * 21 + ["train"] * 50
    assert len(set(alone)) == 71
    assert files(train_on(3, *THREE_RANKS, DOUBLE)) == alone
    assert files(train_on(2, *TWENTY_STEPS, DOUBLE)) == files(train_on(1, *TWENTY_STEPS, DOUBLE))


def test_without_synchronized_statistics_all_ranks_evaluate_as_the_checkpoint_does(train_on: TrainOn) -> None:
    folder = train_on(2, "sync_batchnorm=false")
    assert_same_outcome(train_on(2, "sync_batchnorm=false", name="again").path, folder.path)
    assert records(folder.path) != records(train_on(2).path)
    config = folder.config()
    config["trainer"]["devices"] = 1
    recorded = {key: value for key, value in records(folder.path)[-1].items() if key.startswith("test/")}
    assert experiment.evaluate(read_settings(config), folder) == pytest.approx(recorded, abs=1e-6)


def test_pictures_are_those_of_one_device(train_on: TrainOn) -> None:
    """The confusion matrix counts what all ranks have evaluated; the first rank alone looks at the faces."""
    alone, together = train_on(1, *TWENTY_STEPS, DOUBLE), train_on(2, *TWENTY_STEPS, DOUBLE)
    first, second = (pictures(folder, "confusion/test") for folder in (alone, together))
    assert first == second and len(first) == 6
    maps, expected = (read_cam_records(folder) for folder in (together, alone))
    assert [*maps] == [*expected] == [step for step, _ in first]
    for epoch, record in maps.items():
        assert np.array_equal(record.file, expected[epoch].file)
        np.testing.assert_allclose(record.cam, expected[epoch].cam, rtol=2e-3, atol=1e-3)
    assert "WARNING" not in together.log_file.read_text()


def pictures(folder: RunFolder, tag: str) -> list[tuple[int, bytes]]:
    events = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"images": 0}).Reload()
    return [(event.step, event.encoded_image_string) for event in events.Images(tag)]


def start_method_of_workers(overrides: list[str], folder: Path) -> str:
    built = experiment.build(
        read_settings(run_job.resolve(compose(overrides), CHOICES)), RunFolder(folder), for_training=False
    )
    loader = built.datamodule.train_dataloader()
    assert loader.num_workers == 2
    return str(loader.multiprocessing_context.get_start_method())


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_workers_of_a_rank_share_its_memory(overrides: list[str], ranks: RankGroups, tmp_path: Path) -> None:
    """A spawned worker would import everything anew, half a gigabyte of it."""
    options = [*overrides, "num_workers=2", "trainer.devices=2"]
    assert ranks[2](start_method_of_workers, options, tmp_path / "run") == ["fork", "fork"]


# Evaluation


@pytest.fixture(scope="module")
def many_faces(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one device that is tested on as many samples as RAF-DB's test split has, all classes predicted."""
    root = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for split, count in (("train", 240), ("test", TEST_SAMPLES)):
        for number in range(count):
            label = number % 3
            pixels = generator.integers(0, 128, (32, 32, 3), dtype=np.uint8)
            pixels[..., (label + generator.integers(0, 3) // 2) % 3] += 120  # a third of the samples mislead
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number:04}.png", compress_level=0)
    options = ["noise.ratio=0", "method=ce", "batch_size=8", "trainer.max_epochs=2", "protocol=holdout"]
    train(root / "run", [*overrides, f"data.root={root}", *options])
    return RunFolder(root / "run")


def evaluation(path: Path, batch_size: int) -> tuple[dict[str, float], Tensor]:
    """Metrics over all ranks, and this rank's own confusion matrix."""
    folder = RunFolder(path)
    config = folder.config() | {"batch_size": batch_size}
    config["trainer"]["devices"] = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    built = experiment.build(read_settings(config), folder, for_training=False)
    built.method.load_state_dict(weights(folder))
    built.trainer.test(built.method, built.datamodule.test_dataloader(), verbose=False)
    return built.method.epoch_record, built.method.evaluation_metrics.confusion


@pytest.mark.parametrize(("devices", "batch_size"), [(2, 32), (3, 30), (3, 33)])
def test_evaluation_on_several_devices_is_exact(
    devices: int, batch_size: int, many_faces: RunFolder, ranks: RankGroups
) -> None:
    expected, whole = evaluation(many_faces.path, 32)
    assert whole.sum() == TEST_SAMPLES and (whole.sum(0) > 0).all() and 0.4 < expected["test/acc"] < 0.95
    answers = ranks[devices](evaluation, many_faces.path, batch_size)
    assert torch.equal(sum(confusion for _, confusion in answers), whole)
    for metrics, _ in answers:
        # A network's float32 output may depend on the number of faces in a batch, by processor.
        assert metrics.pop("test/ece") == pytest.approx(expected["test/ece"], rel=1e-6)
        assert metrics == {name: value for name, value in expected.items() if name != "test/ece"}


def test_ranks_without_a_sample_take_part(
    many_faces: RunFolder, overrides: list[str], ranks: RankGroups, tmp_path: Path
) -> None:
    """Two test samples for three ranks, and a last training batch of two, which is left out."""
    root = Path(many_faces.config()["data"]["root"])
    for name in ("class0", "class1"):
        for split, count in (("train", 7), ("test", 1)):
            (tmp_path / split / name).mkdir(parents=True)
            for file in sorted((root / split / name).iterdir())[:count]:
                shutil.copy(file, tmp_path / split / name)
    few = [*overrides, f"data.root={tmp_path}", "batch_size=6", "trainer.max_epochs=1", "noise.ratio=0"]
    ranks[3](train, tmp_path / "run", [*few, "trainer.devices=3"])
    run = RunFolder(tmp_path / "run")
    assert [split for split, _ in files(run)] == ["test"] * 2 + ["train"] * 14
    recorded = {name: value for name, value in records(run.path)[0].items() if name.startswith("test/")}
    assert experiment.evaluate(
        read_settings({**run.config(), "trainer": {**run.config()["trainer"], "devices": 1}}), run
    ) == (pytest.approx(recorded, abs=1e-6))


# Crashes


class Kill(L.Callback):
    """Kills rank 1, or the process that started the ranks, in the middle of the second epoch; only once.

    Args:
        diary: a folder where every rank leaves the number of its process when it happens.
    """

    def __init__(self, diary: str, *, parent: bool = False) -> None:
        self.diary = Path(diary)
        self.parent = parent

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        entry = self.diary / str(trainer.global_rank)
        if trainer.current_epoch != 1 or entry.exists():
            return
        self.diary.mkdir(exist_ok=True)
        entry.write_text(str(os.getpid()))
        trainer.strategy.barrier()  # every rank has written
        if trainer.global_rank == 1:
            os.kill(os.getppid() if self.parent else os.getpid(), signal.SIGKILL)
        if self.parent:
            time.sleep(300)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """A deadlock of workers is a failure."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not finished after {seconds} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.fixture
def on_two(overrides: list[str]) -> list[str]:
    """The configuration of ``undisturbed``."""
    return [*overrides, "trainer.devices=2"]


@pytest.fixture(scope="module")
def undisturbed(overrides: list[str], ranks: RankGroups, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ranks[2](train, folder, [*overrides, "trainer.devices=2"])
    return RunFolder(folder)


def test_same_command_twice_gives_identical_results(
    undisturbed: RunFolder, on_two: list[str], ranks: RankGroups, tmp_path: Path
) -> None:
    ranks[2](train, tmp_path / "again", on_two)
    assert_same_outcome(tmp_path / "again", undisturbed.path)


@pytest.mark.parametrize("epoch", [0, 2])
def test_interrupted_run_resumes_to_the_same_result(
    epoch: int, undisturbed: RunFolder, on_two: list[str], ranks: RankGroups, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(PowerCut):
        ranks[2](
            train,
            folder.path,
            [*on_two, *cut_in(epoch)],
        )
    assert folder.state == "incomplete" and len(folder.records()) == epoch
    ranks[2](train, folder.path, on_two)
    assert_same_outcome(folder.path, undisturbed.path)


def test_all_ranks_stop_for_a_loss_that_one_of_them_met(on_two: list[str], ranks: RankGroups, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(TrainingError, match="in epoch 2, step 2, of samples ") as caught:
        ranks[2](train, folder.path, [*on_two, *spoil(epoch=2, step=2, value=1e38, rank=1)])
    assert f" {(folder.path / 'spoilt.txt').read_text()} (rows of noise.csv" in str(caught.value)
    assert folder.state == "failed" and len(folder.records()) == 1


def test_none_waits_for_the_rank_that_cannot_write(on_two: list[str], ranks: RankGroups, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"last\.ckpt in epoch 2"):
        ranks[2](train, folder, [*on_two, *room_for(20_000), "logger=none"])
    ranks[2](lift_limit)
    assert (folder / LAST).read_bytes() == (folder / "before.ckpt").read_bytes()


def test_killed_rank_is_started_again_from_the_last_checkpoint(
    undisturbed: RunFolder, on_two: list[str], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    kill = ["+callbacks.kill._target_=test_distributed.Kill", f"+callbacks.kill.diary={tmp_path / 'diary'}"]
    with time_limit(150):
        result = train(folder.path, [*on_two, *kill, "launch.max_restarts=1"])
    assert (tmp_path / "diary" / "1").is_file()
    assert folder.state == "done" and result == folder.result()
    assert not folder.error_file.exists()
    assert_same_outcome(folder.path, undisturbed.path)


def test_killed_rank_without_restarts_is_named(on_two: list[str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    kill = ["+callbacks.kill._target_=test_distributed.Kill", f"+callbacks.kill.diary={tmp_path / 'diary'}"]
    with time_limit(150), pytest.raises(RunFailed, match=r"rank 1 .*SIGKILL"):
        train(folder.path, [*on_two, *kill, "launch.max_restarts=0"])
    assert folder.state == "failed"
    assert "rank 1" in folder.error() and "SIGKILL" in folder.error()
    assert len(folder.records()) == 1


@pytest.mark.slow
def test_no_rank_outlives_the_process_that_started_it(
    undisturbed: RunFolder, on_two: list[str], ranks: RankGroups, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    kill = ["+callbacks.kill._target_=test_distributed.Kill", f"+callbacks.kill.diary={diary}"]
    command = [sys.executable, "-m", "fer.cli.train", *on_two, *kill, "+callbacks.kill.parent=true"]
    paths = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests", PROJECT / "tests" / "promises")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path / 'run'}"], cwd=tmp_path, env=environment, timeout=150, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    deadline = time.monotonic() + 20
    numbers = [int((diary / rank).read_text()) for rank in "01"]
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    folder = RunFolder(tmp_path / "run")
    assert folder.state == "incomplete" and len(folder.records()) == 1
    ranks[2](train, folder.path, on_two, folder.config()["choices"])
    assert_same_outcome(folder.path, undisturbed.path)
