"""Run folders written without training, for the tests of reports."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fer.config import compose
from fer.launch import resolve
from fer.results import run_result

GROUPS = {"method": "eac", "backbone": "resnet18", "data": "raf_db", "noise": "symmetric"}
EPOCHS = 7


@cache
def _composed(groups: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    choices = {**dict(groups), "augment": "eac", "optim": "adam", "experiment": None, "sweep": None}
    return resolve(compose([f"{group}={option}" for group, option in groups]), choices)


def config_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The real configuration with groups chosen and dotted keys set; without noise there is no ratio."""
    groups = {group: settings.get(group, option) for group, option in GROUPS.items()}
    config = copy.deepcopy(_composed(tuple(groups.items())))
    for key, value in settings.items():
        if key in groups:
            continue
        *path, name = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node[name] = value
    config["trainer"]["max_epochs"] = EPOCHS
    return config


def write_run(folder: Path, *, state: str = "done", accuracy: float = 0.8, **settings: Any) -> Path:
    """Write a run whose test accuracy ends at about ``accuracy``.

    Args:
        settings: groups and configuration keys, the dots of the latter as double underscores (``method__lam=1``).
    """
    folder.mkdir(parents=True)
    config = config_of({key.replace("__", "."): value for key, value in settings.items()})
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if state == "failed":
        (folder / "error.txt").write_text("RuntimeError: CUDA out of memory\n\nTraceback <...>")
    if state != "done":
        return folder
    generator = np.random.default_rng(config["seed"])
    records = []
    for epoch in range(EPOCHS):
        test = float(np.clip(accuracy * (epoch + 3) / (EPOCHS + 2) + generator.normal(0, 0.01), 0, 1))
        metrics = {"acc": test, "macro_acc": test - 0.1, "f1": test - 0.12, "ece": 0.1}
        prefix = "test" if config["protocol"] == "last5" else "holdout"
        records.append(
            {
                "epoch": epoch,
                "train/memorized": min(1.0, epoch / 10 + config["seed"] / 100),
                **{f"{prefix}/{name}": value for name, value in metrics.items()},
            }
        )
    tested = None if config["protocol"] == "last5" else {"test/acc": accuracy, "test/macro_acc": accuracy - 0.1}
    memorisation = {"memorized": 0.2, "recovered": 0.6} if config["noise"].get("ratio") else {}
    (folder / "result.json").write_text(json.dumps(run_result(config, records, tested, memorisation)))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
