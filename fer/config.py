"""Where the configuration stands, how it is composed outside ``@hydra.main``, and how a run folder gets its name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

_PACKAGED = Path(__file__).resolve().parent / "conf"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parent.parent / "conf"
"""``fer/conf`` in an installed wheel, the top-level ``conf`` in a checkout."""

_IN_NAME = {"method", "method.lam", "backbone", "noise", "noise.ratio", "seed", "data", "experiment", "sweep"}
_MAX_NAME = 120


def compose(overrides: list[str], config_name: str = "train") -> DictConfig:
    """Compose a configuration as the command line would.

    Raises:
        hydra.errors.HydraException: an override does not fit the configuration.
    """
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose(config_name, overrides=overrides, return_hydra_config=False)


def run_group(root: Any) -> str:
    """The folder above a run: the sweep's name, else the experiment's, else the data set's."""
    choices = root.hydra.runtime.choices
    return str(choices.get("sweep") or choices.get("experiment") or choices["data"])


def run_name(root: Any) -> str:
    """``<method>-<backbone>-<noise><ratio>-lam<lambda>`` and every other key given on the command line.

    Keys that cannot change a result (``unnamed_keys``) stay out. A name longer than 120 characters ends in a hash.
    """
    choices = root.hydra.runtime.choices
    ratio = OmegaConf.select(root, "noise.ratio")
    lam = OmegaConf.select(root, "method.lam")
    shown_ratio = "" if ratio is None or choices["noise"] == "none" else f"{ratio:g}"
    parts = [str(choices["method"]), str(choices["backbone"]), f"{choices['noise']}{shown_ratio}"]
    if lam is not None:
        parts.append(f"lam{lam:g}")
    unnamed = tuple(root.unnamed_keys)
    for override in sorted(root.hydra.overrides.task):
        key, _, value = override.lstrip("+~").partition("=")
        if key not in _IN_NAME and not any(key == skip or key.startswith(f"{skip}.") for skip in unnamed):
            shown = value.rstrip("/").rsplit("/", 1)[-1]
            # "=" would have to be quoted in `fer-eval run=FOLDER`, "/" would make another folder.
            parts.append(re.sub(r"[^\w.@+-]+", "_", f"{key}@{shown}"))
    name = "-".join(parts)
    if len(name) > _MAX_NAME:
        name = f"{name[: _MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


OmegaConf.register_new_resolver("run_group", lambda *, _root_: run_group(_root_), replace=True)
OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)
