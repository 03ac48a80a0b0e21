"""Composition of configurations outside ``@hydra.main``, and names of run folders.

Resolvers: ``${run_group:}``, ``${run_name:}`` and ``${default_cache_dir:}``; ``${epochs:10,60,2}``, a paper's epoch 10
of 60, scaled to ``trainer.max_epochs``, at least 2; ``${pixels:256,224}``, a paper's 256 pixels for views of 224,
scaled to ``augment.size``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fer.config.cache_folder import default_cache_dir
from fer.config.known_targets import CONFIG_DIR
from fer.config.tidy_numbers import tidy
from fer.errors import ConfigError

__all__ = ["CONFIG_DIR", "compose", "run_group", "run_name", "translate_errors"]

_IN_NAME = {"method", "method.lam", "backbone", "noise", "noise.ratio", "seed"}
_MAX_NAME = 120
_MAX_SHOWN = 500


def compose(overrides: list[str]) -> DictConfig:
    """Compose the configuration of a training as the command line would.

    Raises:
        hydra.errors.HydraException, ConfigError: an override does not fit the configuration.
    """
    with translate_errors(overrides), initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose("train", overrides=overrides, return_hydra_config=False)


@contextmanager
def translate_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Turn errors that Hydra does not translate, such as that of ``noise=0.3``, into a ``ConfigError``.

    Raises:
        hydra.errors.HydraException, ConfigError: an override does not fit the configuration.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException):
        raise
    except (ValueError, TypeError) as error:
        given = " ".join(overrides)
        shown = given if len(given) <= _MAX_SHOWN else f"{given[:_MAX_SHOWN]}..."
        raise ConfigError(f"Hydra cannot apply {shown}: {error}") from error


def run_group(root: Any) -> str:
    """Name the folder above a run: the sweep's name, else the experiment's, else the data set's."""
    return str(root.hydra.runtime.choices[_group_key(root)])


def run_name(root: Any) -> str:
    """Name a run ``<method>-<backbone>-<noise><ratio>-lam<lambda>``, plus every other key of the command line.

    The name omits ``unnamed_keys``, which cannot change a result, and the name of the group. Paths are cut to their
    last component; for ``data.root`` only that component counts, since data may move. A name that does not show its
    values in full, or is longer than 120 characters, ends in a hash of them.
    """
    choices = root.hydra.runtime.choices
    ratio, lam = (OmegaConf.select(root, key) for key in ("noise.ratio", "method.lam"))
    shown_ratio = "" if ratio is None or choices["noise"] == "none" else _number(ratio)
    fixed = [str(choices["method"]), str(choices["backbone"]), f"{choices['noise']}{shown_ratio}"]
    if lam is not None:
        fixed.append(f"lam{_number(lam)}")
    extra = sorted(_extra_overrides(root).items())
    # "=" would have to be quoted in `fer-train continue=FOLDER`.
    given = [*fixed, *(f"{key}@{value}" for key, value in extra)]
    shown = [_plain(part) for part in fixed]
    shown += [f"{_plain(key)}@{_plain(_last_part(value))}" for key, value in extra]
    name = "-".join(shown)
    if shown != given or len(name) > _MAX_NAME:
        digest = hashlib.sha256(json.dumps([fixed, extra]).encode()).hexdigest()
        name = f"{name[: _MAX_NAME - 9]}-{digest[:8]}"
    return name


def scaled_epochs(epoch: float, of: float, max_epochs: int, least: int = 0) -> int:
    """Scale a paper's epoch, in a training of ``of`` epochs, to a training of ``max_epochs``.

    Args:
        epoch: as published.
        of: epochs of the published training.
        max_epochs: epochs of this one.
        least: the smallest number that makes sense for the method; short trainings get it instead of 0.
    """
    return min(max(round(epoch / of * max_epochs), least), max(max_epochs, 0))


def stated_epochs(value: Any) -> list[int] | None:
    """Read the arguments of ``${epochs:...}`` from a value's text: epoch, total, least; ``None`` for any other text."""
    found = re.fullmatch(r"\$\{epochs: *(\d+), *(\d+)(?:, *(\d+))?\}", str(value))
    return None if found is None else [int(found[1]), int(found[2]), int(found[3] or 0)]


def keys_by_epochs(cfg: DictConfig) -> dict[str, list[int] | None]:
    """Find the keys whose values depend on ``trainer.max_epochs``, directly or through other keys.

    Args:
        cfg: composed and not resolved.

    Returns:
        For each dotted key the result of ``stated_epochs``; ``None`` if it refers to the number in another way.
    """
    epochs = OmegaConf.select(cfg, "trainer.max_epochs")
    if not isinstance(epochs, int):
        return {}
    others = []
    for number in (1, epochs + 1, 2 * epochs, 1_000_000 * epochs):
        other = copy.deepcopy(cfg)
        with open_dict(other):
            other.trainer.max_epochs = number
        others.append(other)
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    found = {}
    for key, text in _references(raw):
        now = OmegaConf.select(cfg, key)
        if any(_selected(other, key) != now for other in others):
            found[key] = stated_epochs(text)
    return found


def _references(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Find the values that contain interpolations, lists as a whole; skip keys that say where files are written."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _references(value, f"{key}.")
        elif "${" in str(value) and key not in ("output_dir", "cache_dir", "trainer.max_epochs") and name != "hydra":
            yield key, str(value)


def _selected(cfg: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException as error:  # a resolver refuses this number
        return error


def _group_key(root: Any) -> str:
    choices = root.hydra.runtime.choices
    return next((key for key in ("sweep", "experiment") if choices.get(key)), "data")


def _extra_overrides(root: Any) -> dict[str, str]:
    """Pick the overrides that neither the name's fixed part nor the group shows; the last one wins for each key."""
    elsewhere = {*_IN_NAME, _group_key(root)}
    unnamed = tuple(root.unnamed_keys)
    overrides: Any = OmegaConf.to_container(root.hydra.overrides.task, resolve=False)
    extra = {}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        changed = key.lstrip("~")
        if key == "data.root":
            extra[key] = _last_part(value.strip("'"))
        elif key not in elsewhere and not any(changed == skip or changed.startswith(f"{skip}.") for skip in unnamed):
            extra[key] = _tidy_text(value)
    return extra


def _tidy_text(value: str) -> str:
    """Write a number of the command line as ``tidy`` makes it, and leave other text alone."""
    if not re.fullmatch(r"-?\d*\.\d{15,}(e-?\d+)?", value):
        return value
    return repr(tidy(float(value)))


def _number(value: Any) -> str:
    """Write a number shortly: ``0`` for 0.0; all digits if six do not identify it."""
    if not isinstance(value, float):
        return str(value)
    value = tidy(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII)


OmegaConf.register_new_resolver("default_cache_dir", default_cache_dir, replace=True)
OmegaConf.register_new_resolver("run_group", lambda *, _root_: run_group(_root_), replace=True)
OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)
OmegaConf.register_new_resolver(
    "epochs",
    lambda epoch, of, least=0, *, _root_: scaled_epochs(epoch, of, _root_.trainer.max_epochs, least),
    replace=True,
)
OmegaConf.register_new_resolver(
    "pixels", lambda pixels, of, *, _root_: round(pixels / of * _root_.augment.size), replace=True
)
