"""Benchmark of every method: time of a training step and of a test, as multiples of cross-entropy's. Prints ratios.

    python scripts/bench_methods.py [--methods ce eac ...] [--steps 6] [--rounds 3] [--overrides KEY=VALUE ...]

The methods take turns in one process on the same demo faces, backbone and batch size. Each is measured after its
warm-up, in the phase of most of its epochs. A step does not include the pass over the training set that some methods
make before an epoch; the column "pass" names them. "parameters" counts trained parameters.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_step import Meter, our_contestant, our_experiment

from fer.config.compose import CONFIG_DIR
from fer.files.terminal import log_to_terminal

METHODS = sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))
WITHOUT_WARM_UP = {
    "dividemix": ["method.warm_up=0"],
    "man": ["method.warm_up=0"],
    "scn": ["method.relabel_from=0"],
}
MAKE_A_PASS = {"dividemix", "man", "resup"}


def test_seconds(method: Any, image: torch.Tensor, meter: Meter) -> float:
    """Measure the seconds of testing one batch, the best of three."""
    method.eval()
    seconds = []
    with torch.inference_mode():
        for _ in range(3):
            asked = meter.now()
            method(image)
            seconds.append(meter.now() - asked)
    method.train()
    return min(seconds)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", type=int, default=6, help="steps per turn; the first one is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--overrides", nargs="*", default=["backbone=resnet18", "augment.size=112"], metavar="KEY=VALUE"
    )
    options = parser.parse_args(argv)
    log_to_terminal()
    meter = Meter(torch.device(options.device))
    fixed = [
        *options.overrides,
        f"trainer.accelerator={'gpu' if meter.device.type == 'cuda' else 'cpu'}",
        "trainer.max_epochs=1",
        "+trainer.limit_val_batches=0",
        "trainer.enable_progress_bar=false",
    ]
    with tempfile.TemporaryDirectory() as folder:
        contestants, tests, sizes = {}, {}, {}
        for name in dict.fromkeys(["ce", *options.methods]):
            more = WITHOUT_WARM_UP.get(name, [])
            experiment = our_experiment([*fixed, f"method={name}", *more], Path(folder))
            contestants[name] = our_contestant(name, experiment, meter)
            contestants[name].run(2)
            batch = next(iter(experiment.datamodule.test_dataloader()))
            method = experiment.method.to(meter.device)
            tests[name] = test_seconds(method, batch.image.to(meter.device), meter)
            sizes[name] = sum(p.numel() for p in method.parameters() if p.requires_grad)
        for number in range(options.rounds):
            for contestant in contestants.values():
                contestant.turns.append(contestant.run(options.steps))
            print(f"round {number + 1} of {options.rounds}", flush=True)
    print(f"\n{'method':18}{'step ms':>10}{'to ce':>8}{'test to ce':>12}{'parameters':>14}  pass")
    step = {name: contestant.median("step_seconds") for name, contestant in contestants.items()}
    for name in sorted(step, key=step.__getitem__):
        print(
            f"{name:18}{1e3 * step[name]:10.0f}{step[name] / step['ce']:8.2f}{tests[name] / tests['ce']:12.2f}"
            f"{sizes[name]:14,}  {'yes' if name in MAKE_A_PASS else ''}"
        )


if __name__ == "__main__":
    main()
