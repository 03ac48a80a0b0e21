"""A run as reports see it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer.reports.epochs import RunEpochs
from fer.runs.run_folder import State

Settings = Mapping[str, Hashable]


@dataclass(frozen=True)
class Run:
    """Run, as its folder describes it.

    ``settings`` maps dotted keys of its configuration to their values and group names to the chosen options; ``named``
    are those keys that make it another run, without ``seed``. ``metrics`` are in percent and empty unless the run is
    done.
    """

    path: Path
    state: State
    settings: Settings
    named: frozenset[str]
    metrics: Mapping[str, float]
    records: Sequence[Mapping[str, Any]]
    error: str
    epochs: RunEpochs = field(default_factory=RunEpochs)
    """Epochs that the metrics and the network come from."""
    decided: Mapping[str, str] = field(default_factory=dict)
    """Values that the method chose by the data for keys whose configuration leaves that to it."""
    content: str | None = None
    """Digest of the images and true labels that it was trained and tested on, once it has a stamp."""
    clean_labels: str | None = None
    """Digest of these true labels."""
    folds: tuple[Path, ...] = ()
    """Folders of the folds, in order, if it stands for all runs of a cross-validation."""

    @property
    def seed(self) -> Hashable:
        return self.settings["seed"]

    @property
    def identity(self) -> frozenset[tuple[str, Hashable]]:
        """Identity of a run: equal for two runs if one repeats the other."""
        keys = self.named | {"seed"}
        return frozenset((key, self.settings[key]) for key in keys if self.settings[key] is not None)
