"""Fine-tuning of a backbone: parts that stay as they are, and learning rates that fall towards the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fer.errors import ConfigError
from fer.models.batch_norm import freeze_statistics


@dataclass(frozen=True)
class FineTuning:
    """Choices about a backbone that begins with pretrained weights; the defaults leave it alone.

    They lie on its modules, so that copies of them, such as DMUE's branches, are trained as their originals are.
    """

    frozen: tuple[str, ...] = ()
    """Names of modules whose parameters are not trained; their BatchNorm stays in evaluation mode."""
    layer_decay: float = 1.0
    """Learning rate of a stage over that of the stage after it, above 0 and at most 1; see ``stages``."""
    frozen_batch_norm: bool = False
    """True if all BatchNorm of the backbone stays in evaluation mode; its scales and shifts still learn."""

    def apply(self, backbone: nn.Module) -> None:
        """Prepare a backbone, in place.

        Raises:
            ConfigError: a name of ``frozen`` is none of a module with parameters.
            TypeError: see ``freeze_statistics``.
        """
        named = {name: module for name, module in backbone.named_modules() if name and _has_parameters(module)}
        for name in self.frozen:
            if name not in named:
                there = ", ".join(part for stage in stages(backbone) for part in stage)
                raise ConfigError(
                    f"optim.frozen holds {name!r}, which is no module of the backbone, {type(backbone).__name__}, with "
                    f"parameters; choose from {there}, or modules inside these"
                )
            named[name].requires_grad_(False)
            freeze_statistics(named[name])
        if self.frozen_batch_norm:
            freeze_statistics(backbone)
        if self.layer_decay != 1:
            _slow_down(backbone, self.layer_decay)


def stages(backbone: nn.Module) -> list[dict[str, nn.Module]]:
    """Divide a backbone into stages, from the input on, each a table of its modules by name.

    A stage is a child with parameters; neighboring single layers, such as a stem's convolution and BatchNorm, are one
    stage together. Of a backbone with one such child alone, as MobileNetV2 is, the child's children are the stages.
    """
    parts = _children(backbone)
    while len(parts) == 1:
        ((name, only),) = parts.items()
        inside = _children(only)
        if not inside:
            break
        parts = {f"{name}.{inner}": module for inner, module in inside.items()}
    found: list[dict[str, nn.Module]] = []
    after_layer = False
    for name, module in parts.items():
        is_layer = not _children(module)
        if is_layer and after_layer:
            found[-1][name] = module
        else:
            found.append({name: module})
        after_layer = is_layer
    return found


def parameter_factors(module: nn.Module) -> dict[int, float]:
    """Factors of the learning rate by ``id`` of the parameter, of those inside ``module`` that have one but 1."""
    return {
        id(parameter): float(inner.stage_factor)  # type: ignore[arg-type]
        for inner in module.modules()
        if hasattr(inner, "stage_factor")
        for parameter in inner.parameters(recurse=False)
    }


def _slow_down(backbone: nn.Module, decay: float) -> None:
    """Write each module's factor as its attribute ``stage_factor``, which copies of the module keep."""
    divided = stages(backbone)
    # Parameters beside all stages, such as a position code, belong to the first one.
    _mark(backbone, decay ** len(divided))
    for number, stage in enumerate(divided):
        for module in stage.values():
            _mark(module, decay ** (len(divided) - number))


def _mark(module: nn.Module, factor: float) -> None:
    for inner in module.modules():
        inner.stage_factor = factor  # type: ignore[assignment]


def _children(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if _has_parameters(child)}


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
