"""A finished run goes on with more epochs as if it had been asked for them, or it is said why it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_object
from support.interruptions import PowerCut, records
from support.moments import Moments, ended
from support.project import PROJECT, Train
from support.run_dirs import run_dir
from support.sweeping import run as run_command
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from fer.config.compose import CONFIG_DIR, compose
from fer.errors import UserError
from fer.files.atomic import making_folder
from fer.launch import continuation, run_job
from fer.methods.core.method import Method
from fer.reports.collect import collect
from fer.runs.run_folder import RunFolder
from fer.training.continued_folder import copy_what_grows

Continue = Callable[..., Path]
STOP = [
    "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.monitor=train/loss",
    "+callbacks.stop.mode=max", "+callbacks.stop.patience=3",
]  # fmt: skip
TRUST = "trust=lightning.pytorch.callbacks.EarlyStopping"


@pytest.fixture
def go_on(overrides: list[str]) -> Continue:
    """``go_on(folder, epochs, ...)`` continues a run in this process and returns the new folder."""
    (cache_dir,) = (given for given in overrides if given.startswith("cache_dir="))

    def start(folder: Path, epochs: object, *more: str) -> Path:
        return continuation.run([f"continue={folder}", f"trainer.max_epochs={epochs}", cache_dir, *more])[0]

    return start


@pytest.fixture(scope="module")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def finished(_kept: dict[str, Path], train: Train, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A run of two epochs, trained once and copied for every test."""
    if "run" not in _kept:
        _kept["run"] = tmp_path_factory.mktemp("finished") / "run"
        train(_kept["run"], "trainer.max_epochs=2")
    shutil.copytree(_kept["run"], tmp_path / "run")
    return tmp_path / "run"


def assert_same_run(folder: Path, other: Path, epochs: int = 4) -> None:
    assert records(folder) == records(other)
    assert len(records(folder)) == epochs
    for name in ("predictions.csv", "noise.csv"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    checkpoints = sorted(file.name for file in (other / "checkpoints").iterdir())
    assert sorted(file.name for file in (folder / "checkpoints").iterdir()) == checkpoints
    for name in checkpoints:
        first, second = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (folder, other))
        assert first["state_dict"].keys() == second["state_dict"].keys()
        assert all(torch.equal(first["state_dict"][key], second["state_dict"][key]) for key in first["state_dict"])
        assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
        assert first["lr_schedulers"] == second["lr_schedulers"]
    results = [RunFolder(run).result() for run in (folder, other)]
    assert results[0].keys() == results[1].keys()
    for key in results[0].keys() - {"seconds", "last_epoch"}:
        assert results[0][key] == results[1][key]
    configs = [RunFolder(run).config() for run in (folder, other)]
    assert configs[0] == configs[1]


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([], id="exponential schedule"),
        pytest.param(["method=elr", "protocol=holdout", "holdout_share=0.3"], id="holdout and state per sample"),
        pytest.param(["method=ce", "optim=sgd", "optim.milestones=[1,3]"], id="milestones"),
        pytest.param(["method=dividemix", "method.warm_up=1", "method.ramp=3"], id="two networks that draw"),
        pytest.param(STOP, id="early stopping"),
    ],
)
def test_a_continued_run_is_the_one_with_so_many_epochs_from_the_start(
    settings: list[str], train: Train, go_on: Continue, tmp_path: Path
) -> None:
    train(tmp_path / "short", *settings, "trainer.max_epochs=2")
    train(tmp_path / "long", *settings, "trainer.max_epochs=5")
    before = content(tmp_path / "short")
    folder = go_on(tmp_path / "short", 5, *([TRUST] if settings == STOP else []))
    assert folder == tmp_path / "short-trainer.max_epochs@5"
    assert_same_run(folder, tmp_path / "long", epochs=4 if settings == STOP else 5)
    assert content(tmp_path / "short") == before
    stamp = RunFolder(folder).stamp()
    assert stamp["continued_from"] == {"run": str(tmp_path / "short"), "epochs": 2}
    assert stamp["resumed_after_epoch"] == 2


def test_reports_and_tensorboard_show_all_epochs_once(finished: Path, go_on: Continue) -> None:
    folder = go_on(finished, 4)
    (run,) = collect([folder]).runs
    assert [record["epoch"] for record in run.records] == [0, 1, 2, 3]
    events = [
        (value.tag, event.step)
        for file in sorted((folder / "tensorboard").glob("events*"))
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert [step for tag, step in events if tag == "test/acc"] == [0, 1, 2, 3]
    assert [tag for tag, _ in events].count("result/acc") == 1
    assert [step for tag, step in events if tag.startswith("config.yaml")] == [0, 2]
    assert [path.name for path in (folder / "tensorboard").glob("0*")] == ["00003"]
    assert sorted(path.stem for path in (folder / "cams").iterdir()) == [f"epoch-000{epoch}" for epoch in range(4)]
    assert "1/2" in (folder / "train.log").read_text() and "4/4" in (folder / "train.log").read_text()


def test_the_same_command_resumes_an_interrupted_run_and_skips_a_finished_one(
    finished: Path, train: Train, go_on: Continue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Method.on_train_epoch_start

    def cut(method: Method) -> None:
        if method.current_epoch == 3:
            raise PowerCut
        start(method)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Method, "on_train_epoch_start", cut)
        go_on(finished, 4)
    folder = tmp_path / "run-trainer.max_epochs@4"
    assert RunFolder(folder).state == "incomplete"
    assert len(records(folder)) == 3
    assert go_on(finished, 4) == folder
    train(tmp_path / "long", "trainer.max_epochs=4")
    assert_same_run(folder, tmp_path / "long")
    before = content(folder)
    assert go_on(finished, 4) == folder
    assert content(folder) == before
    assert train(folder, "trainer.max_epochs=4") == RunFolder(folder).result()  # the command without continue=
    assert go_on(folder, 5) == tmp_path / "run-trainer.max_epochs@5"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["method=ce", "optim=adam_linear"], r"optim\.scheduler\.total_iters refers to trainer\.max_epochs"),
        (["method=ce", "optim=adamw"], r"optim\.scheduler\.epochs refers to trainer\.max_epochs"),
        (["method=scn"], r"method\.relabel_from is 2, and 4 of 4"),
        (["method=man", "method.warm_up=1"], r"every epoch of man depends .* \(MAN reads trainer\.max_epochs\)"),
        (["method=nla"], r"every epoch of nla depends"),
    ],
)
def test_what_depends_on_the_number_of_epochs_is_refused(
    settings: list[str], says: str, train: Train, go_on: Continue, overrides: list[str], tmp_path: Path
) -> None:
    (method,) = (given.partition("=")[2] for given in settings if given.startswith("method="))
    choices = {"method": method, "backbone": "tiny", "data": "folder", "noise": "symmetric"}
    run_job.run(compose([*overrides, *settings, "trainer.max_epochs=2"]), tmp_path / "run", choices)
    with pytest.raises(UserError, match=says) as refusal:
        go_on(tmp_path / "run", 4)
    assert "train anew" in str(refusal.value).lower()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def entry(**values: Any) -> Callable[[Path], None]:
    """Change sections of a run's configuration, and merge mappings."""

    def change(folder: Path) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for key, value in values.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) and key != "by_epochs" else value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    return change


def saved(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what a run's checkpoint holds."""

    def apply(folder: Path) -> None:
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "is no run folder"),
        (lambda f: (f / "result.json").unlink(), "not finished: give the same command as before to resume it"),
        (lambda f: (f / "result.json").rename(f / "debug.json"), "a trial, which cannot be continued"),
        (lambda f: (f / "checkpoints" / "last.ckpt").unlink(), "run/checkpoints/last.ckpt is missing"),
        (lambda f: os.truncate(f / "checkpoints" / "last.ckpt", 5000), "run/checkpoints/last.ckpt cannot be read"),
        (saved(lambda c: c.update(epoch=7)), "last.ckpt does not belong to epoch 2"),
        (saved(lambda c: c["callbacks"]["RunWriter"].update(samples=1)), "does not belong to epoch 2"),
        (saved(lambda c: c.pop("loops")), "lacks loops"),
        (saved(lambda c: c["hyper_parameters"].update(lam=1.0)), "another method"),
        (saved(lambda c: c["state_dict"].popitem()), "does not fit the run's config.yaml"),
        (lambda f: (f / "records.jsonl").write_text(""), "records.jsonl does not hold every epoch"),
        (lambda f: (f / "noise.csv").unlink(), "noise.csv"),
        (entry(by_epochs=None), "of an older version; train anew"),
        (entry(by_epochs={"seed": [1]}), "by_epochs.seed is not as"),
        (entry(logger={"csv": {"sub_dir": "../.."}}), "logger.csv.sub_dir could write anywhere"),
        (entry(trainer={"devices": 10**6}), "say so with trainer.devices=1000000"),
        (entry(callbacks={"x": {"_target_": "os.system", "command": "touch x"}}), "names code that is not known here"),
        (entry(data={"reader": {"_target_": "fer.data.readers.folder.read", "root": "/none"}}), "data is not there"),
    ],
)
def test_a_folder_that_cannot_be_continued_is_refused_by_name(
    damage: Callable[[Path], object], says: str, finished: Path, go_on: Continue, tmp_path: Path
) -> None:
    damage(finished)
    with pytest.raises(UserError, match=re.escape(says)):
        go_on(finished, 4)
    assert [path.name for path in tmp_path.iterdir()] in (["run"], [])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["trainer.max_epochs=2"], "has 2 epochs already; give more"),
        (["trainer.max_epochs=many"], "say with trainer.max_epochs=N"),
        (["trainer.max_epochs=3,4"], "has several values"),
        (["method.lam=2"], r"method.lam=2 \(5.0 there\)"),
        (["method=ce", "seed=1"], r"method=ce \('eac' there\), seed=1 \(0 there\)"),
        (["+optim.nothing=1"], r"optim.nothing=1 \(nothing there\)"),
        (["~callbacks.pictures"], "every setting stays"),
        (["-m"], "takes no -m"),
        (["output_dir=RUN/more"], "lies within the run"),
        (["trainer.accelerator=abacus"], "trainer.accelerator is 'abacus'"),
    ],
)
def test_a_command_that_asks_for_something_else_is_refused(
    given: list[str], says: str, finished: Path, go_on: Continue, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        go_on(finished, 4, *(value.replace("RUN", str(finished)) for value in given))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_runs_own_settings_and_what_never_changes_a_result_may_be_given(
    finished: Path, go_on: Continue, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "moved").symlink_to(shapes)
    elsewhere = [f"data.root={tmp_path / 'moved'}", f"output_dir={tmp_path / 'b'}"]
    folder = go_on(finished, 3, "method=eac", "method.lam=5", "num_workers=1", *elsewhere)
    assert folder == tmp_path / "b" / "run-trainer.max_epochs@3"
    assert RunFolder(folder).config()["num_workers"] == 1


def test_other_data_leaves_no_folder(finished: Path, go_on: Continue, shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "other")
    shutil.copy(tmp_path / "other/test/bar/000.png", tmp_path / "other/test/bar/001.png")
    with pytest.raises(UserError, match="other images"):
        go_on(finished, 4, f"data.root={tmp_path / 'other'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


def test_somebodys_files_and_another_run_in_the_way_are_left_alone(
    finished: Path, train: Train, go_on: Continue, tmp_path: Path
) -> None:
    target = tmp_path / "run-trainer.max_epochs@4"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt but no config\.yaml"):
        go_on(finished, 4)
    shutil.rmtree(target)
    shutil.copytree(finished, target)
    with pytest.raises(UserError, match="holds a run with another configuration"):
        go_on(finished, 4)
    assert len(records(target)) == 2


def test_a_run_that_was_stopped_early_has_nothing_to_continue(train: Train, go_on: Continue, tmp_path: Path) -> None:
    train(tmp_path / "before", *STOP, "callbacks.stop.patience=1", "trainer.max_epochs=5")
    train(tmp_path / "at", *STOP, "callbacks.stop.patience=1", "trainer.max_epochs=2")
    with pytest.raises(UserError, match="was stopped after 2 of 5 epochs"):
        go_on(tmp_path / "before", 8, TRUST)
    with pytest.raises(UserError, match="was stopped by EarlyStopping in its last epoch"):
        go_on(tmp_path / "at", 8, TRUST)


def test_killed_while_copying_leaves_nothing_half_made(
    finished: Path, train: Train, go_on: Continue, tmp_path: Path
) -> None:
    """One process for every change of a file in the new folder up to the moment at which it is there."""
    before, target, number = content(finished), tmp_path / "run-trainer.max_epochs@4", 0
    while not target.exists() and number < 60:
        number += 1
        child = os.fork()
        if child == 0:

            def kill(count: int, _: str, last: int = number) -> None:
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                Moments(tmp_path / ".run-trainer", kill)
                go_on(finished, 4)
            finally:
                os._exit(1)
        assert os.WTERMSIG(ended(child)) == signal.SIGKILL
        assert len([*tmp_path.iterdir()]) <= 2  # what is left of such processes does not pile up
        there = [path for path in (finished, target) if path.exists()]
        assert [run.path for run in collect([tmp_path]).runs] == there
    assert target.exists() and number > 20
    assert len(records(target)) == 2
    go_on(finished, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", target.name]
    train(tmp_path / "long", "trainer.max_epochs=4")
    assert_same_run(target, tmp_path / "long")
    assert content(finished) == before


def test_a_folder_that_is_being_made_is_not_taken_for_left_over(tmp_path: Path) -> None:
    with making_folder(tmp_path / "run") as first:
        with pytest.raises(RuntimeError), making_folder(tmp_path / "run") as second:
            assert first.is_dir() and second != first
            raise RuntimeError
        assert [*tmp_path.iterdir()] == [first]
        (first / "file").write_text("whole")
        left_over = tmp_path / f"{first.name[:-19]}00000000.unfinished"
        shutil.copytree(first, left_over)
    with making_folder(tmp_path / "other"):
        pass
    assert left_over.is_dir()
    assert (tmp_path / "run" / "file").read_text() == "whole"
    with pytest.raises(OSError), making_folder(tmp_path / "run"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["batch_size=64"],
        ["batch_size=64", "trainer.precision=bf16-mixed", "optim.lr=1e-3"],
        ["trainer.max_epochs=7", "augment.size=32"],
        ["experiment=eac_open_faces", "noise=none", "seed=3"],
    ],
)
def test_the_new_folder_has_the_name_of_the_run_with_so_many_epochs(overrides: list[str]) -> None:
    seed = next((int(given[5:]) for given in overrides if given.startswith("seed=")), 0)
    request = continuation.read_request(["continue=x", "trainer.max_epochs=12"])
    folder = continuation.target_folder(Path("/out", run_dir(*overrides)), seed, request)
    longer = [given for given in overrides if not given.startswith("trainer.max_epochs")]
    assert folder == Path("/out", run_dir(*longer, "trainer.max_epochs=12"))
    elsewhere = continuation.read_request(["continue=x", "trainer.max_epochs=12", "output_dir=/new"])
    assert continuation.target_folder(Path("/out", run_dir(*overrides)), seed, elsewhere) == Path(
        "/new", folder.relative_to("/out")
    )


def test_settings_whose_value_stays_the_same_do_not_stand_in_the_way(finished: Path) -> None:
    config = {"by_epochs": {"method.turn": [9, 70, 6]}, "method": {"turn": 6}}
    assert continuation.settings_by_epochs(RunFolder(finished), config, 50) == []
    assert continuation.settings_by_epochs(RunFolder(finished), config, 60) == ["method.turn is 6, and 8 of 60"]


def test_a_draw_that_follows_the_number_of_epochs_is_refused(finished: Path) -> None:
    config = {"by_epochs": {}, "sampling": "balanced"}
    assert continuation.settings_by_epochs(RunFolder(finished), config, 50) == []
    (found,) = continuation.settings_by_epochs(RunFolder(finished), {**config, "sampling": "progressive"}, 50)
    assert "sampling=progressive" in found


def test_every_file_of_a_run_is_copied_or_written_at_its_end(tmp_path: Path) -> None:
    """A new one needs a decision: ``copy_what_grows`` copies what every epoch adds to."""
    source, target = RunFolder(tmp_path / "source"), RunFolder(tmp_path / "target")
    names = {source.cam_folder: "epoch-0000.npz", source.tensorboard_folder: "events.out.tfevents.1.x.1.0"}
    for path in source.contents:
        file = path if path.suffix else path / names.get(path, "last.ckpt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    target.path.mkdir()
    copy_what_grows(source, target)
    new = {path for path in target.contents if path.exists() and path != target.lock_file}
    at_the_end = {target.config_file, target.result_file, target.debug_file, target.predictions_file, target.error_file}
    of_its_own = {target.lock_file, target.loggers_file}
    assert new | at_the_end | of_its_own == {*target.contents}
    assert not new & (at_the_end | of_its_own)


def test_no_method_reads_the_number_of_epochs_without_saying_so() -> None:
    reading = re.compile(r"max_epochs|max_steps|estimated_stepping_batches")
    for file in (PROJECT / "fer" / "methods").rglob("*.py"):
        assert file.name == "method.py" or not reading.search(file.read_text()), (
            f"{file.name}: read self.total_epochs and state follows_total_epochs = True, so that continue= refuses it"
        )
    for option in (CONFIG_DIR / "method").glob("*.yaml"):
        target = yaml.safe_load(option.read_text()).get("_target_")
        if target is None:  # it is another option with other values
            continue
        method = get_object(target)
        source = Path(PROJECT, *method.__module__.split(".")).with_suffix(".py").read_text()
        assert method.follows_total_epochs == ("total_epochs" in source.replace("follows_total_epochs", ""))


def test_a_method_that_does_not_say_so_cannot_read_the_number_of_epochs() -> None:
    from support.small_methods import build

    with pytest.raises(TypeError, match="must state follows_total_epochs = True"):
        _ = build().total_epochs


def test_the_command_says_in_one_line_what_is_wrong(finished: Path, tmp_path: Path) -> None:
    done = run_command([f"continue={finished}", "trainer.max_epochs=4", "method.lam=1"], tmp_path)
    assert done.status == 2
    assert re.fullmatch(r"fer-train: continue= keeps the settings in .*method\.lam=1 \(5\.0 there\).*\n", done.output)
    assert json.loads((finished / "result.json").read_text())["epochs"] == 2
