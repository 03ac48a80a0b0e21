"""Tests that need a GPU; skipped without one. ``FER_TEST_ACCELERATOR=gpu`` moves the other tests there."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from support.interruptions import records
from support.project import CHOICES
from support.watching import Watch

from fer.config.compose import CONFIG_DIR, compose
from fer.config.settings import read_settings
from fer.launch import run_job
from fer.launch.run_job import resolve
from fer.runs.run_folder import RunFolder
from fer.training import experiment
from fer.views.batch import Batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

METHODS = sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))
GPU = ["trainer.accelerator=gpu", "trainer.enable_progress_bar=false"]
COMPILED = [["compile=true"], ["compile=reduce-overhead"], ["compile=reduce-overhead", "trainer.precision=bf16-mixed"]]


class WatchGpu(Watch):
    """Memory of the GPU as the driver sees it."""

    def _start(self) -> None:
        self.caught = warnings.catch_warnings(record=True)
        self.seen = self.caught.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def _end(self, phase: str) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.caught.__exit__(None, None, None)
        assert self.seen is not None
        self.waits[phase].append([
            f"{Path(w.filename).name}:{w.lineno}" for w in self.seen if "synchroniz" in str(w.message)
        ])  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_steps_do_not_wait_for_the_gpu(method: str, tmp_path: Path) -> None:
    overrides = [
        *GPU, f"method={method}", "data.reader.train=48", "data.reader.test=24", "batch_size=8", "augment.size=32",
        "backbone.width=8", "trainer.max_epochs=2", "trainer.log_every_n_steps=4", "noise.ratio=0.3",
        f"cache_dir={tmp_path}",
    ]  # fmt: skip
    (tmp_path / "checkpoints").mkdir()
    built = experiment.build(read_settings(resolve(compose(overrides), {})), RunFolder(tmp_path))
    watch = WatchGpu()
    built.trainer.callbacks.append(watch)
    built.trainer.fit(built.method, datamodule=built.datamodule)
    steps = watch.waits["train"]
    assert any(steps)  # those that log do
    in_others = {place for number, seen in enumerate(steps[1:], 2) if number % 4 and number % 6 for place in seen}
    # torchvision's RandAugment makes its matrices on the CPU.
    assert {place for place in in_others if not place.startswith(("_color.py", "_geometry.py"))} == set()
    assert not any(watch.waits["evaluation"])


@pytest.mark.parametrize("more", [[], ["trainer.precision=bf16-mixed"], *COMPILED])
def test_the_same_command_gives_the_same_records(more: list[str], overrides: list[str], tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_job.run(compose([*overrides, *GPU, *more]), tmp_path / name, CHOICES)
    assert records(tmp_path / "first") == records(tmp_path / "second")
    assert RunFolder(tmp_path / "first").records()[0]["gpu_memory_gib"] > 0


@pytest.mark.parametrize("more", COMPILED)
@pytest.mark.parametrize("method", ["ce", "eac", "co_teaching"])
def test_what_is_compiled_trains_and_evaluates_as_before(
    method: str, more: list[str], overrides: list[str], tmp_path: Path
) -> None:
    values = [*overrides, *GPU, f"method={method}", "trainer.max_epochs=2"]
    eager = run_job.run(compose([*values, *[m for m in more if "compile" not in m]]), tmp_path / "eager", CHOICES)
    compiled = run_job.run(compose([*values, *more]), tmp_path / "compiled", CHOICES)
    assert eager is not None and compiled is not None
    first, second = (records(tmp_path / name)[0] for name in ("eager", "compiled"))
    assert second["train/loss"] == pytest.approx(first["train/loss"], rel=0.05)


@pytest.mark.parametrize("method", ["ce", "eac", "scn"])
def test_loss_and_gradients_are_those_of_the_cpu(method: str, overrides: list[str], tmp_path: Path) -> None:
    more = [f"method={method}", "augment=none", "augment.size=32", "trainer.max_epochs=1"]
    found = []
    for accelerator in ("cpu", "gpu"):
        config = resolve(compose([*overrides, *GPU[1:], *more, f"trainer.accelerator={accelerator}"]), {})
        built = experiment.build(read_settings(config), RunFolder(tmp_path), for_training=False)
        device = built.trainer.strategy.root_device
        method_there = built.method.to(device).train()
        batch = Batch(*(tensor.to(device) for tensor in next(iter(built.datamodule.train_dataloader()))))
        views = method_there.make_views(batch.image)
        with torch.backends.cudnn.flags(allow_tf32=False):
            loss = method_there.loss(batch.seen_as(*views)).total
            loss.backward()
        gradients = [p.grad.flatten().cpu() for p in method_there.parameters() if p.grad is not None]
        found.append((float(loss), torch.cat(gradients)))
    (loss_cpu, on_cpu), (loss_gpu, on_gpu) = found
    assert loss_gpu == pytest.approx(loss_cpu, rel=1e-4)
    assert float((on_gpu - on_cpu).norm() / on_cpu.norm()) < 1e-3
