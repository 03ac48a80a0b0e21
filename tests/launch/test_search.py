"""A search with Optuna outlives failed and killed trials, stops bad ones, and never looks at the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.sweeping import Command, run, wait_until

from fer.errors import ConfigError
from fer.launch import search
from fer.runs.run_folder import RunFolder
from fer.training.study import open_storage

optuna = pytest.importorskip("optuna", reason="needs the extra search")
STUDY = "eac_search"


def trials(folder: Path, states: str = "") -> list[Any]:
    """All trials of the study, or those of some states."""
    study = optuna.load_study(study_name=STUDY, storage=open_storage(str(folder / "out" / f"{STUDY}.journal")))
    return [trial for trial in study.get_trials() if not states or trial.state.name in states]


def results(folder: Path) -> list[float]:
    """The held-out accuracy of every finished run, ascending."""
    found = [RunFolder(file.parent).result() for file in (folder / "out").rglob("result.json")]
    return sorted(result["selected_epoch"]["holdout/acc"] for result in found)


def asked(overrides: list[str], *more: str) -> list[str]:
    return [f"sweep={STUDY}", *overrides, "holdout_share=0.3", "callbacks=none", "output_dir=out", *more]


@pytest.mark.slow
def test_a_search_goes_on_after_failed_trials_and_in_the_same_study(overrides: list[str], tmp_path: Path) -> None:
    command = asked(overrides, "hydra.sweeper.n_trials=2")
    diverging = run([*command, "optim.lr=1e30"], tmp_path)
    assert diverging.status == 1, diverging.output
    assert "2 jobs: 2 failed" in diverging.output and "training has diverged" in diverging.output
    assert [trial.state.name for trial in trials(tmp_path)] == ["FAIL"] * 2
    good = run(command, tmp_path)
    assert good.status == 0, good.output
    assert "2 jobs: 2 done" in good.output and "best of 4 trials" in good.output
    complete = trials(tmp_path, "COMPLETE")
    assert sorted(trial.value for trial in complete) == pytest.approx(results(tmp_path))
    best = yaml.safe_load((tmp_path / "out" / search.RESULT).read_text())
    assert best["best_value"] == max(results(tmp_path))
    assert 0.5 <= best["best_params"]["method.lam"] <= 50
    again = run(command, tmp_path)
    assert again.status == 0 and "0 jobs: none was started" in again.output, again.output
    assert len(trials(tmp_path)) == 4, "the study has its trials"


@pytest.mark.slow
def test_a_killed_trial_goes_on_where_it_was(overrides: list[str], tmp_path: Path) -> None:
    command = asked(overrides, "hydra.sweeper.n_trials=1", "trainer.max_epochs=40")
    killed = Command(command, tmp_path)
    wait_until(lambda: any(len(_epochs(file)) >= 2 for file in tmp_path.rglob("records.jsonl")), killed)
    killed.kill_all()
    (record,) = tmp_path.rglob("records.jsonl")
    known = _epochs(record)
    ended = run([*command[:-1], "trainer.max_epochs=40"], tmp_path)
    assert ended.status == 0, ended.output
    assert "was cut off; its run goes on" in ended.output and "1 job: 1 done" in ended.output
    first, second = trials(tmp_path)
    assert (first.state.name, second.state.name) == ("FAIL", "COMPLETE") and first.params == second.params
    assert len([*tmp_path.rglob("result.json")]) == 1, "in the same folder"
    kept = _epochs(record)
    assert kept[: len(known)] == known and len(kept) == 40, "the epochs before were not trained again"


@pytest.mark.slow
def test_two_searches_share_a_study(overrides: list[str], tmp_path: Path) -> None:
    command = asked(overrides, "hydra.sweeper.n_trials=4")
    workers = [Command(command, tmp_path) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0], [worker.output for worker in workers]
    assert len(trials(tmp_path, "COMPLETE")) in (4, 5), "both may have asked at the same moment"
    assert len({trial.params["method.lam"] for trial in trials(tmp_path)}) == len(trials(tmp_path))


@pytest.mark.slow
def test_a_trial_that_others_surpass_is_stopped_and_can_be_finished(overrides: list[str], tmp_path: Path) -> None:
    study = optuna.create_study(
        study_name=STUDY, storage=open_storage(str(tmp_path / "out" / f"{STUDY}.journal")), direction="maximize"
    )
    for _ in range(2):
        trial = study.ask()
        for epoch in range(3):
            trial.report(1.0, epoch)
        study.tell(trial, 1.0)
    pruner = ["hydra.sweeper.pruner.n_startup_trials=1", "hydra.sweeper.pruner.n_warmup_steps=0"]
    stopped = run(asked(overrides, "hydra.sweeper.n_trials=3", *pruner), tmp_path)
    assert stopped.status == 0, stopped.output
    assert "1 job: 1 pruned" in stopped.output and "stopped by the search after epoch 1" in stopped.output
    (pruned,) = trials(tmp_path, "PRUNED")
    (record,) = tmp_path.rglob("records.jsonl")
    (first,) = _epochs(record)
    assert pruned.intermediate_values == {0: first["holdout/acc"]}
    assert not [*tmp_path.rglob("result.json")] and not [*tmp_path.rglob("error.txt")]
    values = [f"{key}={value}" for key, value in pruned.params.items()]
    alone = run([*asked(overrides), "hydra.mode=RUN", f"hydra.run.dir='{record.parent}'", *values], tmp_path)
    assert alone.status == 0, alone.output
    assert _epochs(record)[0] == first and len(_epochs(record)) == 3, "the same run, to its end"


def test_a_search_on_the_test_set_is_refused(overrides: list[str], tmp_path: Path) -> None:
    refused = run([f"sweep={STUDY}", *overrides, "protocol=last5", "output_dir=out"], tmp_path)
    assert refused.status == 2
    assert "protocol=holdout" in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("x=interval(0.5,50)", optuna.distributions.FloatDistribution(0.5, 50)),
        ("x=tag(log,interval(0.5,50))", optuna.distributions.FloatDistribution(0.5, 50, log=True)),
        ("x=int(interval(2,9))", optuna.distributions.IntDistribution(2, 9)),
        ("x=range(64,129,16)", optuna.distributions.IntDistribution(64, 128, step=16)),
        ("x=range(0,1,0.25)", optuna.distributions.FloatDistribution(0, 0.75, step=0.25)),
        ("x=range(5,0,-2)", optuna.distributions.IntDistribution(1, 5, step=2)),
        ("x=a,b", optuna.distributions.CategoricalDistribution(["a", "b"])),
        ("x=choice([1,2],[3])", optuna.distributions.CategoricalDistribution(["[1,2]", "[3]"])),
    ],
)
def test_values_of_an_override_span_the_space(override: str, kind: object) -> None:
    assert search._distribution(OverridesParser.create().parse_override(override)) == kind


@pytest.mark.parametrize("override", ["x=interval(5,1)", "x=tag(log,interval(0,1.5))", "x=range(5,5)"])
def test_an_empty_range_is_refused_by_name(override: str) -> None:
    with pytest.raises(ConfigError, match=r"x="):
        search._distribution(OverridesParser.create().parse_override(override))


@pytest.mark.parametrize(
    "value",
    [
        {"storage": "/a b/it's\\n.journal", "trial": 3, "pruner": {"_target_": "a.B", "n": 1.5, "on": True, "x": None}},
        {"a": [1, "b,c", {"d": ""}], "e": -1e-9},
    ],
)
def test_containers_come_back_from_an_override(value: dict[str, Any]) -> None:
    override = OverridesParser.create().parse_override(f"search={search._as_override(value)}")
    assert override.value() == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials is 0; it must be a whole number of 1 or more"),
        ("hydra.sweeper.n_jobs=many", "hydra.sweeper.n_jobs is 'many'"),
        ("hydra.sweeper.storage=nothing://here", "hydra.sweeper.storage=nothing://here cannot be opened"),
    ],
)
def test_what_the_search_cannot_use_is_named(override: str, said: str, overrides: list[str], tmp_path: Path) -> None:
    refused = run(asked(overrides, override), tmp_path)
    assert refused.status == 2 and said in refused.output, refused.output
    assert "Traceback" not in refused.output


def _epochs(records: Path) -> list[dict[str, Any]]:
    return RunFolder(records.parent).records()
