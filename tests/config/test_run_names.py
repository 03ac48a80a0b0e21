"""A run folder is named by what was asked for: the same command finds it again, another one gets another folder."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from support.project import PROJECT
from support.run_dirs import run_dir

from fer.config.compose import run_name
from fer.config.quoting import quote_foreign_paths
from fer.config.tidy_numbers import tidy

UNNAMED = ["output_dir", "cache_dir", "data.root", "logger", "trainer.accelerator"]
LONG = ["+optim.optimizer.betas=[0.8,0.95]", "augment.erase_aspect=[0.25,4.0]", "+trainer.gradient_clip_val=0.125"]


def run_dirs_of_command(folder: Path, *arguments: str) -> list[str]:
    """The same for a command line in a process of its own, through ``hydra.main`` and its sweeper, without training."""
    program = folder / "show.py"
    program.write_text(
        "import hydra\n"
        "from hydra.core.hydra_config import HydraConfig\n"
        "from fer.config.compose import CONFIG_DIR\n"
        "@hydra.main(version_base='1.3', config_path=str(CONFIG_DIR), config_name='train')\n"
        "def show(cfg):\n"
        "    print('folder', HydraConfig.get().runtime.output_dir)\n"
        "show()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "1"}
    command = [sys.executable, str(program), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found = re.findall("^folder (.*)$", done.stdout, flags=re.MULTILINE)
    return [str(Path(path).relative_to(folder / "outputs")) for path in found]


def root_with(overrides: Sequence[str], ratio: object = 0.3, lam: object = 5.0) -> DictConfig:
    """Build the part of a composed configuration that names are made of."""
    choices = {"method": "eac", "backbone": "resnet18", "noise": "symmetric", "data": "raf_db"}
    return OmegaConf.create({
        "noise": {"ratio": ratio},
        "method": {"lam": lam},
        "unnamed_keys": UNNAMED,
        "hydra": {"runtime": {"choices": choices}, "overrides": {"task": list(overrides)}},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("data=raf_db", "raf_db/eac-resnet18-none-lam5/seed0"),
        ("data=raf_db method=ce", "raf_db/ce-resnet18-none/seed0"),
        ("data=raf_db noise=symmetric noise.ratio=0.3 seed=7", "raf_db/eac-resnet18-symmetric0.3-lam5/seed7"),
        ("data=raf_db noise=pair noise.ratio=0.25 method.lam=2.5", "raf_db/eac-resnet18-pair0.25-lam2.5/seed0"),
        ("data=raf_db noise=class_dependent backbone=tiny", "raf_db/eac-tiny-class_dependent-lam5/seed0"),
        ("experiment=eac_raf_db", "eac_raf_db/eac-resnet18-none-lam5/seed0"),
        ("experiment=eac_raf_db method=ce", "eac_raf_db/ce-resnet18-none/seed0"),
        (
            "experiment=eac_raf_db data=folder data.root=x",
            "eac_raf_db/eac-resnet18-none-lam5-data@folder-data.root@x/seed0",
        ),
    ],
)
def test_folder_says_group_method_backbone_noise_lam_and_seed(overrides: str, expected: str) -> None:
    assert run_dir(*overrides.split()) == expected


def test_other_overrides_are_appended_in_sorted_order() -> None:
    expected = "raf_db/eac-resnet18-none-lam5-batch_size@64-noise.seed@3-trainer.min_epochs@2/seed0"
    overrides = ["+trainer.min_epochs=2", "noise.seed=3", "batch_size=64"]
    assert {run_dir("data=raf_db", *order) for order in (overrides, overrides[::-1])} == {expected}


def test_what_cannot_change_a_result_is_not_in_the_name() -> None:
    unnamed = [
        "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "num_workers=3",
        "trainer.log_every_n_steps=1", "cache_dir=/somewhere", "launch.max_restarts=3", "logger=none",
        "+callbacks.extra._target_=some.Callback", "hydra.job.name=other",
    ]  # fmt: skip
    assert run_dir("data=raf_db", *unnamed) == "raf_db/eac-resnet18-none-lam5/seed0"
    assert run_dir("data=raf_db", "~callbacks") == "raf_db/eac-resnet18-none-lam5/seed0"


def test_paths_are_shown_by_their_last_part_and_told_apart() -> None:
    names = [run_dir("data=raf_db", f"backbone.weights={path}") for path in ("/one/w.pth", "/two/w.pth")]
    assert len(set(names)) == 2
    for name in names:
        assert re.fullmatch(r"raf_db/eac-resnet18-none-lam5-backbone\.weights@w\.pth-[0-9a-f]{8}/seed0", name)
    assert (
        run_dir("data=raf_db", "backbone.weights=w.pth") == "raf_db/eac-resnet18-none-lam5-backbone.weights@w.pth/seed0"
    )


def test_data_is_known_by_the_name_of_its_folder() -> None:
    here, moved, other = (run_dir("data=raf_db", f"data.root={path}") for path in ("/a/faces/", "b/faces", "/a/others"))
    assert here == moved == "raf_db/eac-resnet18-none-lam5-data.root@faces/seed0"
    assert other == "raf_db/eac-resnet18-none-lam5-data.root@others/seed0"
    commands = [quote_foreign_paths(["data=raf_db", f"data.root={path}"]) for path in ("/größe/faces", "b/faces")]
    assert {run_dir(*command) for command in commands} == {here}


@settings(max_examples=60)
@given(
    st.text(st.sampled_from("ab1 =(){}'\"\\/$:#*?%@~"), max_size=9),
    st.sampled_from("ü日=#"),
    st.text(st.sampled_from("ab1 /"), max_size=4),
)
def test_a_training_reads_paths_of_any_letters_as_they_were_typed(before: str, foreign: str, after: str) -> None:
    path = f"{before}{foreign}{after}".strip()
    (argument,) = quote_foreign_paths([f"data.root={path}"])
    assert OmegaConf.create({"root": OverridesParser.create().parse_override(argument).value()}).root == path


@pytest.mark.parametrize(
    "argument", ["data.root=a b/c", "data.root=ü,b", "data.root='ü'", "noise.path=[ü]", "method.lam=ü", "data=raf_db"]
)
def test_what_hydra_reads_or_makes_a_sweep_of_is_left_alone(argument: str) -> None:
    assert quote_foreign_paths([argument]) == [argument]


def test_long_names_are_cut_and_stay_the_same_between_processes(tmp_path: Path) -> None:
    folder = run_dir("data=raf_db", *LONG)
    name = folder.split("/")[1]
    assert len(name) == 120
    assert name.startswith("eac-resnet18-none-lam5-augment.erase_aspect@_0.25_4.0_-optim.optimizer.betas@")
    assert run_dirs_of_command(tmp_path, "data=raf_db", *reversed(LONG)) == [folder]


def test_long_names_that_differ_only_in_the_cut_part_are_told_apart() -> None:
    names = {run_dir("data=raf_db", *LONG, f"train_samples={number}") for number in (100, 101)}
    assert len(names) == 2


def as_overrides(values: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


_keys = st.sampled_from(["batch_size", "augment.size", "backbone.weights", "data.reader.root"])
# Few characters, those that cannot stand in a name among them, so that near misses are frequent.
_values = st.text("a_-/@ ", max_size=3)
_overrides = st.dictionaries(_keys, _values, max_size=2)


@settings(max_examples=150, deadline=None)
@given(_overrides, _keys, _values, _values)
def test_different_overrides_never_share_a_name(values: dict[str, str], key: str, value: str, other: str) -> None:
    asked = [values, {**values, key: value}, {**values, key: other}]
    different = {frozenset(one.items()) for one in asked}
    assert len({run_name(root_with(as_overrides(one))) for one in asked}) == len(different)


@settings(max_examples=50, deadline=None)
@given(_overrides, st.randoms(use_true_random=False))
def test_order_plus_signs_unnamed_and_overruled_values_do_not_matter(values: dict[str, str], random: Random) -> None:
    name = run_name(root_with(as_overrides(values)))
    shuffled = [f"{random.choice(['', '+', '++'])}{override}" for override in as_overrides(values)]
    shuffled += ["trainer.accelerator=cpu", "logger=none", "output_dir=/else/where", "seed=9"]
    random.shuffle(shuffled)
    overruled = [f"{key}=overruled" for key in values]
    assert run_name(root_with([*overruled, *shuffled])) == name


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_no_two_ratios_or_lambdas_share_a_name(first: float, second: float) -> None:
    count = len({tidy(first), tidy(second)})
    assert len({run_name(root_with([], ratio=value)) for value in (first, second)}) == count
    assert len({run_name(root_with([], lam=value)) for value in (first, second)}) == count


@pytest.mark.parametrize(("number", "other"), [(5, 5.0), (0, 0.0)])
def test_equal_numbers_give_the_same_name(number: int, other: float) -> None:
    assert run_name(root_with([], ratio=number, lam=number)) == run_name(root_with([], ratio=other, lam=other))


def test_a_removed_key_is_not_a_given_one() -> None:
    assert len({run_name(root_with([override])) for override in ("~optim.lr", "optim.lr=", "optim.lr=~")}) == 3


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(_keys, st.text(max_size=60)))
def test_names_are_plain_file_names(values: dict[str, str]) -> None:
    name = run_name(root_with(as_overrides(values)))
    assert re.fullmatch(r"[A-Za-z0-9_.@+-]{1,120}", name)


def test_jobs_of_a_sweep_are_named_by_their_own_overrides(tmp_path: Path) -> None:
    sweep = ["-m", "experiment=eac_raf_db", "method=ce,eac", "noise=symmetric", "noise.ratio=0,0.3", "batch_size=64"]
    assert run_dirs_of_command(tmp_path, *sweep, "seed=3", "num_workers=2") == [
        f"eac_raf_db/{method}-resnet18-symmetric{ratio}{lam}-batch_size@64/seed3"
        for method, lam in (("ce", ""), ("eac", "-lam5"))
        for ratio in ("0", "0.3")
    ]


@pytest.mark.parametrize(("sum_", "number"), [(0.1 + 0.2, 0.3), (0.1 * 3, 0.3), (0.7 + 0.1, 0.8), (1.1 + 2.2, 3.3)])
def test_what_sums_leave_behind_is_no_other_number(sum_: float, number: float) -> None:
    assert sum_ != number and tidy(sum_) == number
    assert tidy({"a": [sum_, "x", None, True]}) == {"a": [number, "x", None, True]}
    assert run_name(root_with([], ratio=sum_)) == run_name(root_with([], ratio=number))
    assert run_name(root_with([f"method.lam={sum_!r}"])) == run_name(root_with([f"method.lam={number!r}"]))
    assert run_name(root_with([f"augment.erase_probability={sum_!r}"])) == run_name(
        root_with([f"augment.erase_probability={number!r}"])
    )


@given(st.floats(allow_nan=False))
def test_tidying_changes_a_number_by_four_units_in_the_last_place_at_most(value: float) -> None:
    assert abs(tidy(value) - value) <= 4 * math.ulp(value) if math.isfinite(value) else tidy(value) == value
    assert tidy(tidy(value)) == tidy(value)
