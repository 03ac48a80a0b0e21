"""Training and evaluation steps hand work to the device and never ask for a value, which a GPU would have to be awaited
for."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.watching import Watch

from fer.config.compose import compose
from fer.config.settings import read_settings
from fer.launch.run_job import resolve
from fer.runs.run_folder import RunFolder
from fer.training import experiment

# Methods that treat the first epochs alike.
ACTING = {"man": ["method.warm_up=0"]}


@pytest.mark.parametrize("method", ["ce", "eac", "man", "dmue"])
def test_steps_wait_only_where_they_log_and_at_the_end_of_an_epoch(method: str, tmp_path: Path) -> None:
    overrides = [
        f"method={method}", *ACTING.get(method, []), "data.reader.train=48", "data.reader.test=24", "batch_size=8",
        "augment.size=24", "backbone.width=8", "trainer.max_epochs=1", "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=4", "trainer.enable_progress_bar=false", "noise.ratio=0.3",
        "optim.optimizer.fused=true",  # on a CPU the unfused one reads its step counters, which lie there on GPUs too
    ]  # fmt: skip
    (tmp_path / "checkpoints").mkdir()
    built = experiment.build(read_settings(resolve(compose(overrides), {})), RunFolder(tmp_path))
    watch = Watch()
    built.trainer.callbacks.append(watch)
    built.trainer.fit(built.method, datamodule=built.datamodule)

    # The first step may make what all others use.
    steps = [bool(seen) for seen in watch.waits["train"]][1:]
    assert steps == [False, False, True, False, True], watch.waits["train"]
    assert len(watch.waits["evaluation"]) == 3
    assert not any(watch.waits["evaluation"]), watch.waits["evaluation"]
