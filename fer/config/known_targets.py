"""Targets (``_target_``) that a kept configuration may name, by key; all others need the user's trust.

Known to a section are the targets of the files shipped in ``conf`` for it, torch's optimizers and schedules, and entry
points of installed packages in the group ``fer.<section>``::

    [project.entry-points."fer.method"]
    mine = "my_package.mine:Mine"
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fer.errors import ConfigError
from fer.files.visible_text import visible_name

_PACKAGED = Path(__file__).resolve().parents[1] / "conf"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "conf"
"""``fer/conf`` in an installed wheel, the top-level ``conf`` in a checkout."""

# Keys at which a node may stand, and the folder of conf with its options.
_PLACES = {
    r"method": "method",
    r"backbone": "backbone",
    r"augment": "augment",
    r"augment\.transforms\.[^.\[\]]+(\.transforms\[\d+\])*": "augment",
    r"noise": "noise",
    r"data\.reader": "data",
    r"optim\.(optimizer|scheduler)": "optim",
    r"callbacks\.[^.]+": "callbacks",
    r"logger\.[^.]+": "logger",
    r"trainer": "trainer",
}
_SHIPPED = re.compile(r"^\s*(?:- )?_target_: *([\w.]+)", re.MULTILINE)
_OF_TORCH = re.compile(r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w*")
_HYDRAS_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}


def check_targets(config: Mapping[str, Any], trusted: Collection[str], source: Path) -> None:
    """Refuse a configuration with a target that is not known at its key, before anything of it is imported.

    Args:
        config: plain containers out of a file.
        trusted: further targets, which the user allows anywhere.
        source: the file, for the message.

    Raises:
        ConfigError: naming every such target, and how to allow it.
    """
    refused = []
    for place, node in _nodes(config):
        target = node.get("_target_")
        if any(not isinstance(key, str) for key in node):
            raise ConfigError(f"{source}: {place} has a key that is no text")
        if reserved := sorted(key for key in node if key.startswith("_") and key not in _HYDRAS_KEYS):
            raise ConfigError(f"{source}: {place}.{visible_name(reserved[0])} has no place in a kept configuration")
        if not isinstance(target, str):
            raise ConfigError(f"{source}: {place}._target_ is no text")
        if target not in trusted and not _is_known(place, target):
            refused.append((place, visible_name(target)))
    if refused:
        lines = "".join(f"\n  {place}: {target}" for place, target in refused)
        names = [*dict.fromkeys(target for _, target in refused)]
        raise ConfigError(
            f"{source} names code that is not known here, and nothing was run:{lines}\n"
            f"If you know it and trust it, allow it with {' '.join(f'--trust {name}' for name in names)} "
            f"(fer-train continue=: trust=[{','.join(names)}])"
        )


def _nodes(value: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find every mapping with a ``_target_`` at any depth, with its dotted key."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield place, value
        for name, inner in value.items():
            yield from _nodes(inner, f"{place}.{visible_name(name)}" if place else visible_name(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nodes(inner, f"{place}[{number}]")


def _is_known(place: str, target: str) -> bool:
    section = next((section for pattern, section in _PLACES.items() if re.fullmatch(pattern, place)), None)
    if section is None:
        return False
    return target in _known(section) or (section == "optim" and _OF_TORCH.fullmatch(target) is not None)


@cache
def _known(section: str) -> frozenset[str]:
    files = sorted((CONFIG_DIR / section).glob("*.yaml"))
    shipped = {target for file in files for target in _SHIPPED.findall(file.read_text(encoding="utf-8"))}
    installed = {entry.value.replace(":", ".") for entry in metadata.entry_points(group=f"fer.{section}")}
    return frozenset(shipped | installed)
