"""Values of the configuration against the signatures that take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st

from fer.config.compose import compose
from fer.config.instantiate import instantiate_node
from fer.config.signatures import check_arguments
from fer.errors import ConfigError
from fer.ranges import (
    Above0,
    AtLeast0,
    CountFrom1,
    CountFrom2,
    Share,
    ShareAbove0,
    ShareBelow1,
    ShareBetween,
    ViewSize,
)


def takes(
    *,
    count: CountFrom2 = 2,
    weight: AtLeast0 = 0.0,
    rate: Above0 | None = 1.0,
    share: Share = 0.5,
    inner: ShareBetween = 0.5,
    below: ShareBelow1 = 0.0,
    above: ShareAbove0 = 1.0,
    angle: Annotated[float, Interval(ge=-90, le=90)] = 0.0,
    size: ViewSize = 64,
    kind: Literal["a", "b"] = "a",
    pair: tuple[Share, Share] = (0.0, 1.0),
    several: Sequence[CountFrom1] = (),
    path: Path = Path(),
) -> None:
    """Take every kind of value that the project's constructors take."""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 1}, "at.count is 1; it must be a whole number of 2 or more"),
        ({"count": 2.0}, "at.count is 2.0; it must be a whole number of 2 or more"),
        ({"count": True}, "at.count is True; it must be a whole number of 2 or more"),
        ({"weight": -1}, "at.weight is -1; it must be a number of 0 or more"),
        ({"weight": math.inf}, "at.weight is inf; it must be a number of 0 or more"),
        ({"rate": 0}, "at.rate is 0; it must be a number above 0 or null"),
        ({"share": 1.5}, "at.share is 1.5; it must be a number of 0 to 1"),
        ({"inner": 1}, "at.inner is 1; it must be a number between 0 and 1"),
        ({"below": 1}, "at.below is 1; it must be a number of 0 or more, below 1"),
        ({"above": 0}, "at.above is 0; it must be a number above 0, at most 1"),
        ({"angle": 91}, "at.angle is 91; it must be a number of -90 to 90"),
        ({"size": 4096}, "at.size is 4096; it must be a whole number of 8 to 2048"),
        ({"kind": "c"}, "at.kind is 'c'; it must be a or b"),
        ({"pair": [0.5]}, r"at.pair is \[0.5\]; it must be a list of 2, a number of 0 to 1 each"),
        ({"pair": [0.5, 2]}, r"at.pair is \[0.5, 2\]; it must be a list of 2, a number of 0 to 1 each"),
        ({"several": [3, 0]}, r"at.several is \[3, 0\]; it must be a list, of a whole number of 1 or more each"),
        ({"path": 3}, "at.path is 3; it must be a path"),
        ({"wieght": 1}, "takes does not take at.wieght; perhaps weight"),
    ],
)
def test_a_value_outside_its_range_is_told_with_the_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}$"):
        check_arguments(takes, values, "at")


@given(st.floats(allow_nan=True))
def test_ranges_include_what_they_say(value: float) -> None:
    held = {
        "weight": 0 <= value < math.inf,
        "rate": 0 < value < math.inf,
        "share": 0 <= value <= 1,
        "inner": 0 < value < 1,
        "below": 0 <= value < 1,
        "above": 0 < value <= 1,
        "angle": -90 <= value <= 90,
    }
    for name, lies_in in held.items():
        if lies_in:
            check_arguments(takes, {name: value}, "at")
        else:
            with pytest.raises(ConfigError, match=rf"^at\.{name} is "):
                check_arguments(takes, {name: value}, "at")


class SharedKeys(TypedDict, total=False):
    lam: AtLeast0
    erase: Literal["shared", "none"]


def takes_shared(*, own: Share = 0.5, **shared: Unpack[SharedKeys]) -> None:
    """Take keys that several constructors share."""


def test_shared_keys_are_checked_as_own_ones() -> None:
    check_arguments(takes_shared, {"own": 1, "lam": 2, "erase": "none"}, "method")
    for values, said in (
        ({"lam": -1}, r"method\.lam is -1; it must be a number of 0 or more"),
        ({"erase": "both"}, r"method\.erase is 'both'; it must be shared or none"),
        ({"lamda": 1}, r"takes_shared does not take method\.lamda; perhaps lam"),
    ):
        with pytest.raises(ConfigError, match=f"^{said}$"):
            check_arguments(takes_shared, values, "method")


def test_nodes_in_nodes_are_checked_too() -> None:
    with pytest.raises(
        ConfigError, match=r"^augment\.transforms\.warp\.degrees is 200; it must be a number of 0 to 180"
    ):
        instantiate_node(
            {
                "_target_": "fer.views.augmentation.Augmentation",
                "transforms": {"warp": {"_target_": "fer.views.warps.RandomAffine", "degrees": 200}},
            },
            "augment",
        )


@pytest.mark.parametrize("key", ["method.lam", "augment.erase_probability", "callbacks.pictures.epochs"])
def test_the_shipped_values_state_their_ranges(key: str) -> None:
    """A number below every range is refused by its key, whichever constructor takes it."""
    config: Any = compose([f"{key}=-7"])
    group, name = key.rsplit(".", 1)
    node = config
    for part in group.split("."):
        node = node[part]
    with pytest.raises(ConfigError, match=rf"^{group}\.{name} is -7; it must be "):
        instantiate_node({**node}, group, _partial_=True)
