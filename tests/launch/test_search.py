"""A search with Optuna outlives failed trials, can be continued, and never looks at the test set."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.sweeping import run

from fer.runs.run_folder import RunFolder

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra search")


def trials(study: Path) -> list[tuple[str, float | None]]:
    """State and value of every trial."""
    with sqlite3.connect(study) as database:
        query = "select state, value from trials left join trial_values using (trial_id) order by number"
        return database.execute(query).fetchall()


@pytest.mark.slow
def test_a_search_goes_on_after_failed_trials_and_in_the_same_study(overrides: list[str], tmp_path: Path) -> None:
    search = ["sweep=eac_search", *overrides, "holdout_share=0.3", "hydra.sweeper.n_trials=2", "output_dir=out"]
    diverging = run([*search, "optim.lr=1e30"], tmp_path)
    assert diverging.status == 1, diverging.output
    assert "2 jobs: 2 failed" in diverging.output and "training has diverged" in diverging.output
    assert trials(tmp_path / "out" / "eac_search.db") == [("FAIL", None)] * 2
    good = run(search, tmp_path)
    assert good.status == 0, good.output
    assert "2 jobs: 2 done" in good.output
    (*failed, first, second) = trials(tmp_path / "out" / "eac_search.db")
    assert failed == [("FAIL", None)] * 2
    results = [RunFolder(file.parent).result() for file in (tmp_path / "out").rglob("result.json")]
    held_out = sorted(result["selected_epoch"]["holdout/acc"] for result in results)
    assert [state for state, _ in (first, second)] == ["COMPLETE", "COMPLETE"]
    assert sorted(value for _, value in (first, second) if value is not None) == pytest.approx(held_out)


def test_a_search_on_the_test_set_is_refused(overrides: list[str], tmp_path: Path) -> None:
    refused = run(["sweep=eac_search", *overrides, "protocol=last5", "output_dir=out"], tmp_path)
    assert refused.status == 2
    assert "protocol=holdout" in refused.output
    assert not (tmp_path / "out").exists()
