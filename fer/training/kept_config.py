"""The ``config.yaml`` of a run, perhaps a stranger's, as commands use it that read finished runs.

Such a command builds the method with its network, and where images are needed the data: no optimizer, no callback, no
logger. Code that is not known is refused by name before anything is built, text stays text (``${...}`` is never
resolved), and what is written goes below this machine's own cache folder.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer.config.cache_folder import default_cache_dir
from fer.config.known_targets import check_targets
from fer.config.settings import Settings, read_settings
from fer.data.table import DatasetError
from fer.errors import ConfigError
from fer.files.visible_text import visible_name
from fer.runs.protocol import PROTOCOLS
from fer.runs.run_folder import RunFolder

_SECTIONS = ("method", "backbone", "augment", "data", "data.reader", "noise", "trainer")
_BUILT = ("method", "backbone", "augment", "data.reader", "noise")
_OF_TRAINER = ("precision", "deterministic", "benchmark")
_NEVER_BUILT = ("optim", "callbacks", "logger", "launch")
_REMEDY = "say where it lies with --data-root DIR (fer-train continue=: data.root=DIR)"


@dataclass(frozen=True)
class ReadingOptions:
    """Options of commands that read finished runs."""

    cache_dir: str = field(default_factory=default_cache_dir)
    """Folder of decoded images and demo faces."""
    trust: Sequence[str] = ()
    """Targets that are not known here and may be run all the same."""
    data_root: str | None = None
    """Folder of the data now; ``None``: the one that the configuration names."""

    @staticmethod
    def of(options: Namespace) -> ReadingOptions:
        """Take ``--cache-dir``, ``--trust`` and ``--data-root`` from a program's command line."""
        return ReadingOptions(
            cache_dir=default_cache_dir() if options.cache_dir is None else str(options.cache_dir),
            trust=options.trust,
            data_root=None if options.data_root is None else str(options.data_root),
        )


def read_kept_config(folder: RunFolder, options: ReadingOptions) -> Settings:
    """Read and check the configuration of a run, for a process of its own on this machine.

    Raises:
        RunFolderError: there is none, or it cannot be read.
        ConfigError: it names code that is not known, lacks what a run needs, or holds a value that no run has.
    """
    config = folder.config()
    source = folder.config_file
    check_targets(config, options.trust, source)
    kept = {key: value for key, value in config.items() if key not in _NEVER_BUILT}
    for key in _SECTIONS:
        if not isinstance(section := _value(kept, key), Mapping):
            raise ConfigError(f"{source}: {key} is no section of keys and values; it is no run's configuration")
        if key in _BUILT and "_target_" not in section:
            raise ConfigError(f"{source}: {key} has no _target_; it is no run's configuration")
    for key in _OF_TRAINER:
        if isinstance(kept["trainer"].get(key), Mapping | list):
            raise ConfigError(f"{source}: trainer.{key} must be a value, not a section or a list")
    if kept.get("protocol") not in [*PROTOCOLS]:
        raise ConfigError(f"{source}: protocol is {_shown(kept.get('protocol'))}; it must be {' or '.join(PROTOCOLS)}")
    kept["trainer"] = {
        "_target_": "lightning.pytorch.Trainer",
        "accelerator": "auto",
        "devices": 1,
        "num_nodes": 1,
        "enable_progress_bar": False,
        **{key: kept["trainer"][key] for key in _OF_TRAINER if key in kept["trainer"]},
    }
    kept["cache_dir"] = options.cache_dir
    if options.data_root is not None:
        reader = {**kept["data"]["reader"], "root": options.data_root}
        kept["data"] = {**kept["data"], "root": options.data_root, "reader": reader}
    return read_settings(kept, str(source))


def check_data_root(settings: Settings) -> None:
    """Refuse to read data where there is none, unless below the cache: the demo set is drawn where it is missing.

    Raises:
        DatasetError: naming the folder.
    """
    stated = settings.data.reader.get("root")
    if not isinstance(stated, str) or not stated.strip() or "\0" in stated:
        raise ConfigError(f"the run's data.root is no path; {_REMEDY}")
    try:
        root, cache = Path(stated).expanduser().resolve(), Path(settings.cache_dir).expanduser().resolve()
        if root.is_relative_to(cache) or (root.is_dir() and any(root.iterdir())):
            return
    except (OSError, RuntimeError) as error:
        raise DatasetError(stated, [f"the run's data cannot be read: {error}"]) from error
    raise DatasetError(stated, [f"the run's data is not there; {_REMEDY}"])


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _shown(value: Any) -> str:
    text = visible_name(repr(value))
    return text if len(text) <= 80 else f"{text[:80]}..."
