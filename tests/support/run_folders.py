"""Run folders written without training, for the tests of reports."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fer.config.compose import compose
from fer.launch.run_job import resolve
from fer.runs.protocol import PROTOCOLS, run_result

GROUPS = {"method": "eac", "backbone": "resnet18", "data": "raf_db", "noise": "symmetric"}
EPOCHS = 7


@cache
def _composed(groups: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    choices = {**dict(groups), "augment": "eac", "optim": "adam", "experiment": None, "sweep": None}
    return resolve(compose([f"{group}={option}" for group, option in groups]), choices)


def write_run(folder: Path, settings: Mapping[str, Any], *, accuracy: float = 0.8, state: str = "done") -> Path:
    """Write a run folder with a real configuration.

    Args:
        settings: options of groups, and values of dotted keys.
        accuracy: share that is the headline under both protocols; the best of the seven test epochs is 0.02 above it.
        state: ``done``, ``failed`` or ``incomplete``.
    """
    groups = {group: settings.get(group, option) for group, option in GROUPS.items()}
    config = copy.deepcopy(_composed(tuple(groups.items())))
    for key in settings.keys() - groups.keys():
        *path, name = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node[name] = settings[key]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if state == "failed":
        (folder / "error.txt").write_text("RuntimeError: out of <memory> & luck_50%\n\nTraceback")
    if state == "done":
        _write_outcome(folder, config, accuracy)
    return folder


def _write_outcome(folder: Path, config: Mapping[str, Any], accuracy: float) -> None:
    is_last5 = config["protocol"] == "last5"
    memorization = {"memorized": 0.2, "recovered": 0.6} if config["noise"].get("ratio") else {}
    records = []
    for epoch in range(EPOCHS):
        record = {"epoch": epoch, **_metrics("test" if is_last5 else "holdout", accuracy + 0.01 * (epoch - 4))}
        if memorization:
            record["train/memorized"] = epoch / 10 + config["seed"] / 100
        records.append(record)
    result = run_result(
        PROTOCOLS[config["protocol"]],
        records,
        None if is_last5 else _metrics("test", accuracy),
        choices=config["choices"],
        seed=config["seed"],
        noise_ratio=config["noise"].get("ratio"),
        lam=config["method"].get("lam"),
        evaluation={"batch_norm": "running", "batches": 100},
        memorization=memorization,
        skipped={},
    )
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _metrics(prefix: str, accuracy: float) -> dict[str, float]:
    shares = {"acc": accuracy, "macro_acc": accuracy - 0.1, "f1": accuracy - 0.12, "ece": 0.9 - accuracy}
    return {f"{prefix}/{name}": share for name, share in shares.items()}
