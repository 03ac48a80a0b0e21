"""Settings of a run, checked and typed once; everything below ``fer.launch`` takes them in this form.

Pydantic checks kinds and ranges, so that a new key is one line here. What an option's own code takes (``Node``) is
checked against the signature of its ``_target_`` where it is built, see ``fer.config.instantiate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fer.config.devices import check_accelerator, devices_per_node
from fer.config.trainer_keys import check_trainer_keys
from fer.config.wrong_settings import in_words, value_at
from fer.errors import ConfigError
from fer.ranges import COMPILE_MODES, MOST_PIXELS

_ONLY_FOR_TRAINING = (
    "trainer", "trainer.max_epochs", "trainer.enable_progress_bar", "optim", "launch", "callbacks", "logger",
    "output_dir", "unnamed_keys",
)  # fmt: skip
"""Keys that are needed for training only."""


def _no_truth_value(value: Any) -> Any:
    """Refuse true and false where a number belongs; Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth_value), Field(strict=True)]
Count = Annotated[Whole, Field(ge=1)]
"""A whole number of 1 or more."""
WholeFrom0 = Annotated[Whole, Field(ge=0)]
Truth = Annotated[bool, Field(strict=True)]
FolderPath = Annotated[str, Field(strict=True, pattern=r"\S")]
Node = Annotated[Mapping[str, Any], Field(strict=False)]
"""Description of an object: ``_target_`` and its arguments."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


class DataSettings(_Section):
    """The ``data`` group."""

    reader: Node
    store_size: Annotated[Count, Field(le=MOST_PIXELS)]
    """Edge of the decoded images, pixels."""
    on_bad_image: Literal["error", "skip"]
    root: Any = None


class EvaluationSettings(_Section):
    """The ``evaluation`` group."""

    batch_norm: Literal["running", "reestimated"] = "running"
    batches: Count = 100
    """Batches of training samples that statistics are estimated from."""
    labels: Literal["majority", "any"] = "majority"
    share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the votes that makes a class a right answer under ``any``."""


class OptimSettings(_Section):
    """The ``optim`` group."""

    optimizer: Node
    scheduler: Node | None
    lr: Any = None
    frozen: tuple[Annotated[str, Field(strict=True)], ...] = ()
    layer_decay: Annotated[float, BeforeValidator(_no_truth_value), Field(strict=True, gt=0, le=1)] = 1.0
    frozen_batch_norm: Truth = False


class SearchSettings(_Section):
    """Which trial of a search a run is; the sweeper says so to each of its jobs."""

    storage: FolderPath
    """See ``fer.training.study.open_storage``."""
    study: Annotated[str, Field(strict=True)]
    trial: WholeFrom0
    """Number of the trial in the study."""
    pruner: Node


class LaunchSettings(_Section):
    """Settings of the start of jobs; nothing here changes a result."""

    max_restarts: WholeFrom0 = 1


class TrainerSettings(_Section):
    """The ``trainer`` group; other keys of it are arguments of Lightning's Trainer."""

    accelerator: Any
    devices: Any
    num_nodes: Count
    max_epochs: Count = 1
    enable_progress_bar: Truth = False
    node: Node = Field(default_factory=dict)
    """The whole group, with its ``_target_``."""

    @model_validator(mode="before")
    @classmethod
    def _keep_all(cls, values: Any) -> Any:
        return {**values, "node": dict(values)} if isinstance(values, Mapping) and "node" not in values else values

    @property
    def ranks_per_node(self) -> int:
        """Devices, and so ranks, on each machine."""
        return devices_per_node(self.node)

    @property
    def world_size(self) -> int:
        """Ranks on all machines."""
        return self.num_nodes * self.ranks_per_node


class Settings(_Section):
    """Settings of a run, resolved."""

    seed: WholeFrom0
    protocol: Any
    """Name of one of ``fer.runs.protocol.PROTOCOLS``."""
    holdout_share: float = 0.1
    folds: Annotated[Count, Field(ge=2)] = 5
    fold: WholeFrom0 = 0
    persons: FolderPath | None = None
    """List of who is on which image, see ``fer.data.persons``."""
    soft_labels: Truth = False
    batch_size: Count
    """Samples of a step over all devices."""
    train_samples: Count | None = None
    sampling: Literal["uniform", "balanced", "progressive"] = "uniform"
    """Order of the training samples, see ``fer.data.loading.samplers``."""
    num_workers: WholeFrom0 = 0
    channels_last: Truth
    compile: Truth | Literal[COMPILE_MODES]  # type: ignore[valid-type]
    sync_batchnorm: Truth = True
    image_cache: Truth = True
    cache_dir: FolderPath
    data: DataSettings
    method: Node
    backbone: Node
    augment: Node
    noise: Node | None
    trainer: TrainerSettings
    launch: LaunchSettings = LaunchSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    optim: OptimSettings | None = None
    """``None`` in a process that trains nothing."""
    callbacks: Mapping[str, Any] = Field(default_factory=dict)
    search: SearchSettings | None = None
    logger: Annotated[Mapping[str, Node | None], BeforeValidator(lambda value: value or {})] = {}
    """Description of each logger by its name."""
    choices: Mapping[str, str | None] = Field(default_factory=dict)
    """Chosen option of every group."""

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        """Refuse a fold that there is not, or that would change nothing."""
        tests_on_fold = self.protocol == "folds"
        if not tests_on_fold and self.fold:
            raise ConfigError(f"fold={self.fold} needs protocol=folds; leave it out, or add that")
        if self.fold >= self.folds:
            raise ConfigError(f"fold is {self.fold}; it must be one of 0 to {self.folds - 1}, for folds={self.folds}")
        if tests_on_fold and self.evaluation.labels == "any":
            raise ConfigError("evaluation.labels=any does not go with protocol=folds: folds are tested by their labels")
        return self

    @property
    def noise_ratio(self) -> Any:
        return (self.noise or {}).get("ratio")

    def changed(self, **values: Any) -> Self:
        """Copy the settings with other values, which are not checked."""
        return self.model_copy(update=values)

    def on(self, accelerator: str) -> Self:
        """Copy the settings for another accelerator."""
        node = {**self.trainer.node, "accelerator": accelerator}
        return self.changed(trainer=self.trainer.model_copy(update={"accelerator": accelerator, "node": node}))


def read_settings(config: Mapping[str, Any], source: str = "") -> Settings:
    """Check a resolved configuration, plain containers, and give it types.

    Args:
        config: of a run, perhaps without what only training needs.
        source: file that it comes from, for the message.

    Raises:
        ConfigError: a key is missing or has a value of another kind or outside its range; the message names it.
    """
    present = {key: value for key, value in config.items() if not (key == "callbacks" and value is None)}
    try:
        return Settings.model_validate(present)
    except ValidationError as error:
        said = in_words(error.errors(include_url=False), config)
        raise ConfigError(f"{source}: {said}" if source else said) from error


def check_for_training(config: Mapping[str, Any], *, ranks_exist: bool) -> Settings:
    """Check settings that can be trained on this machine, and give them types.

    Args:
        config: resolved configuration, plain containers.
        ranks_exist: whether a process for every rank runs already.

    Raises:
        ConfigError: naming the key.
    """
    for key in _ONLY_FOR_TRAINING:
        *above, name = key.split(".")
        section = value_at(config, above)
        if name not in section if isinstance(section, Mapping) else section is None:
            raise ConfigError(f"missing required key {key}")
    settings = read_settings(config)
    if settings.optim is None:
        raise ConfigError("optim is None; it must be a section of keys and values")
    if not isinstance(config["output_dir"], str) or not config["output_dir"].strip():
        raise ConfigError(f"output_dir is {config['output_dir']!r}; it must be the path of a folder")
    unnamed = config["unnamed_keys"]
    if not (isinstance(unnamed, list) and all(isinstance(key, str) for key in unnamed)):
        raise ConfigError(f"unnamed_keys is {unnamed!r}; it must be a list of keys")
    check_trainer_keys(config)
    check_accelerator(settings.trainer.node)
    ranks = settings.trainer.world_size
    if settings.batch_size % ranks:
        raise ConfigError(
            f"batch_size={settings.batch_size} is the total over all devices and must divide evenly among {ranks}; "
            f"choose a multiple of {ranks}"
        )
    if settings.trainer.num_nodes > 1 and not ranks_exist:
        raise ConfigError(
            "trainer.num_nodes above 1 needs a process for every rank: start torchrun with -m fer.cli.train on each "
            "machine"
        )
    return settings
