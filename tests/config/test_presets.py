"""Composed values of every file in ``conf/experiment``, compared with a table that is written independently.

The table holds literals, so that a change of a group's default cannot change a published run unnoticed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fer.config.compose import CONFIG_DIR, compose
from fer.config.instantiate import instantiate_node

FILES = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
AUGMENTS = sorted(path.stem for path in (CONFIG_DIR / "augment").glob("*.yaml"))
FOR_SEVERAL_METHODS = {"ce_raf_db", "eac_raf_db", "eac_open_faces"}
"""Files without method keys and learning rate: they serve several methods and backbones, so tests pin both."""

Table = dict[str, Any]

VIEWS: Table = {
    "_target_": "fer.views.augmentation.Augmentation", "size": 224, "transforms": {}, "test_resize": None,
    "flip_probability": 0.5, "pixel_noise_probability": 0.0, "pixel_noise_variance": 30.0, "flip_excludes_noise": False,
    "erase_probability": 0.5, "erase_area": [0.02, 0.25], "erase_aspect": [0.3, 3.3], "erase_aspect_law": "log_uniform",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip
EAC_VIEWS = VIEWS | {"flip_probability": 0.0, "pixel_noise_probability": 0.5}
FLIP_OR_NOISE = VIEWS | {"flip_probability": 0.25, "pixel_noise_probability": 0.25, "flip_excludes_noise": True}
RESIZE_256 = {"_target_": "fer.views.crops.Resize", "size": 256}
RESIZE_224 = {"_target_": "fer.views.crops.Resize", "size": 224}


ALL_TRAINED: Table = {"frozen": [], "layer_decay": 1.0, "frozen_batch_norm": False}
"""Keys of every optimizer; no published run sets them, so the files leave them to conf/train.yaml."""


def exponential(lr: float, weight_decay: float, gamma: float) -> Table:
    return ALL_TRAINED | {
        "lr": lr, "weight_decay": weight_decay, "gamma": gamma,
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "fused": None, "lr": lr,
                      "weight_decay": weight_decay},
        "scheduler": {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "_partial_": True, "gamma": gamma},
    }  # fmt: skip


def sgd(lr: float, weight_decay: float, milestones: list[int]) -> Table:
    return ALL_TRAINED | {
        "lr": lr, "weight_decay": weight_decay, "gamma": 0.1, "momentum": 0.9, "milestones": milestones,
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": lr, "momentum": 0.9,
                      "weight_decay": weight_decay},
        "scheduler": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "_partial_": True, "milestones": milestones,
                      "gamma": 0.1},
    }  # fmt: skip


def adam_with(scheduler: Table, **values: float) -> Table:
    table = exponential(values["lr"], values["weight_decay"], 0.9) | {"scheduler": {**scheduler, "_partial_": True}}
    return {**table, "gamma": values.get("gamma", 0.9)}


def resnet(depth: int, stem: str = "imagenet", stages: int = 4, partial: bool = False) -> Table:
    return {
        "_target_": "fer.models.backbones.resnet", "depth": depth, "stem": stem, "stages": stages, "weights": None,
        "weights_sha256": None, "allow_partial_weights": partial,
    }  # fmt: skip


def recipe(
    batch_size: int, epochs: int, optim: Table, method: Table, augment: Table, *, backbone: Table | None = None
) -> Table:
    return {
        "batch_size": batch_size, "max_epochs": epochs, "optim": optim, "method": method, "augment": augment,
        "backbone": backbone or resnet(18), "precision": "32-true", "protocol": "last5", "train_samples": None,
        "sampling": "uniform", "sync_batchnorm": True, "noise": ("fer.data.noise.none", 0.0),
        "reader": "fer.data.readers.raf_db.read", "expected": [12271, 3068], "store_size": 100,
    }  # fmt: skip


EAC_METHOD: Table = {
    "_target_": "fer.methods.eac.EAC", "lam": 5.0, "erase": "released", "pixel_noise_on_second_view": None,
    "forward": "two_pass", "logit_adjustment": 0.0,
}  # fmt: skip

PUBLISHED: dict[str, Table] = {
    "eac_raf_db": recipe(32, 60, exponential(2e-4, 1e-4, 0.9), EAC_METHOD, EAC_VIEWS),
    "ce_raf_db": recipe(
        32, 60, exponential(2e-4, 1e-4, 0.9),
        {"_target_": "fer.methods.ce.CrossEntropy", "class_weights": None, "class_weight_beta": 0.999,
         "logit_adjustment": 0.0},
        EAC_VIEWS,
    ),
    "eac_open_faces": recipe(
        32, 10, exponential(2e-4, 1e-4, 0.9), EAC_METHOD | {"erase": "shared"}, EAC_VIEWS | {"size": 48},
        backbone=resnet(18, stem="no_pool", partial=True),
    )
    | {"precision": "bf16-mixed", "train_samples": 1000, "noise": ("fer.data.noise.symmetric", 0.3), "expected": None},
    "ad_corre_raf_db": recipe(
        50, 300, exponential(1e-3, 0.0, 0.998),
        {"_target_": "fer.methods.ad_corre.AdCorre", "embeddings": 10, "dimensions": 256, "dropout": 0.5,
         "ce_weight": 50.0, "gradients": False, "absent": "batch_mean", "adaptive": False, "window": 1000},
        VIEWS | {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        backbone=resnet(50),
    ),
    "dacl_raf_db": recipe(
        64, 60, sgd(0.01, 5e-4, [20, 40]),
        {"_target_": "fer.methods.dacl.DACL", "weight": 0.01, "center_lr": 0.5, "attentive": True,
         "initialization": "released"},
        VIEWS | {
            "transforms": {"resize": RESIZE_256, "crop": {"_target_": "fer.views.crops.RandomFiveCrop", "size": 224}},
            "test_resize": 256, "erase_probability": 0.0,
            "mean": [0.5752, 0.4495, 0.4012], "std": [0.2086, 0.1911, 0.1827],
        },
    ),
    "dmue_raf_db": recipe(
        72, 36,
        adam_with(
            {"_target_": "fer.methods.core.schedules.plateaus", "starts": [0, 6, 12, 22, 25],
             "factors": [1.0, 0.5, 0.1, 0.5, 0.1], "fast_starts": [0, 4, 8, 14, 22, 25],
             "fast_factors": [1.0, 0.5, 0.1, 0.01, 0.05, 0.01]},
            lr=1e-4, weight_decay=1e-4,
        ),
        {"_target_": "fer.methods.dmue.DMUE", "soft_weight": 0.5, "similarity_weight": 1000.0, "temperature": 1.2,
         "turn": 10, "dropout": 0.5, "classifier_lr_factor": 10.0, "classifier_std": 0.001, "passes": "released",
         "learn_certainty": False, "learn_neck": False, "skip_incomplete": True},
        VIEWS | {
            "transforms": {
                "resize": RESIZE_256, "crop": {"_target_": "fer.views.crops.RandomCrop", "size": 224, "padding": 0},
            },
            "test_resize": 256, "pixel_noise_probability": 0.25, "erase_aspect_law": "uniform",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        },
    ),
    "lde_raf_db": recipe(
        128, 80,
        adam_with(
            {"_target_": "torch.optim.lr_scheduler.LinearLR", "start_factor": 1.0, "end_factor": 0.0,
             "total_iters": 80},
            lr=1e-3, weight_decay=0.0,
        ),
        {"_target_": "fer.methods.lde.LDE", "neighbours": 8, "momentum": 0.9, "weight": 1.0},
        VIEWS | {
            "transforms": {
                "resize": RESIZE_224,
                "crop": {"_target_": "fer.views.crops.RandomResizedCrop", "size": 224, "scale": [0.75, 1.0],
                         "ratio": [0.75, 1.3333333], "law": "torchvision"},
                "jitter": {"_target_": "fer.views.color.ColorJitter", "brightness": 0.4, "contrast": 0.4,
                           "saturation": 0.4, "hue": 0.0},
            },
            "erase_probability": 0.2, "erase_area": [0.02, 0.2],
            "mean": [0.5412, 0.4324, 0.3795], "std": [0.2485, 0.2182, 0.2066],
        },
    ),
    "man_raf_db": recipe(
        128, 100, exponential(1e-3, 1e-4, 0.9),
        {"_target_": "fer.methods.man.MAN", "warm_up": 10, "mutual_weight": 0.6, "consistency_weight": 1.0,
         "over_networks": "mean", "schedule": "released", "split_views": "augmented", "separate_groups": True,
         "strong_operations": 2, "strong_level": 10, "evaluated": "mean"},
        VIEWS | {
            "transforms": {
                "jitter_and_move": {
                    "_target_": "fer.views.warps.RandomApply", "probability": 0.5, "transforms": [
                        {"_target_": "fer.views.color.ColorJitter", "brightness": 0.25, "contrast": 0.25,
                         "saturation": 0.25, "hue": 0.25},
                        {"_target_": "fer.views.warps.RandomAffine", "degrees": 0.0, "translate": [0.1, 0.1],
                         "scale": [1.0, 1.25]},
                    ],
                },
            },
        },
    ),
    "nla_raf_db": recipe(
        32, 60, exponential(1e-4, 1e-4, 0.9), {"_target_": "fer.methods.nla.NLA", "js_reduction": "sum"},
        VIEWS | {
            "pixel_noise_probability": 0.5, "erase_area": [0.02, 0.3],
            "mean": [0.577, 0.4494, 0.4001], "std": [0.2628, 0.2395, 0.2383],
        },
    ),
    "ran_raf_db": recipe(
        128, 60, sgd(0.1, 1e-4, [18, 30, 48]),
        {"_target_": "fer.methods.ran.RAN", "crops": "released", "num_crops": 5, "crop_size": 0.75, "margin": 0.1,
         "region_loss": "softmax", "softmax": True, "passes": "separate"},
        VIEWS | {"flip_probability": 0.0, "erase_probability": 0.0},
    ),
    "resup_raf_db": recipe(
        96, 30,
        adam_with(
            {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [10, 20], "gamma": 0.1},
            lr=2e-4, weight_decay=0.0, gamma=0.1,
        ),
        {"_target_": "fer.methods.resup.ReSup", "agreement": 5.0, "agreement_from": 1, "weights": "step",
         "evaluated": "first"},
        VIEWS | {
            "transforms": {
                "resize": RESIZE_224,
                "move": {"_target_": "fer.views.warps.RandomApply", "probability": 0.2, "transforms": [
                    {"_target_": "fer.views.crops.RandomCrop", "size": 224, "padding": 32},
                ]},
            },
        },
    ),
    "rul_raf_db": recipe(
        64, 60, exponential(2e-4, 1e-4, 0.9),
        {"_target_": "fer.methods.rul.RUL", "dimensions": 64, "dropout": 0.4, "classifier_lr_factor": 10.0},
        FLIP_OR_NOISE,
    ),
    "scn_raf_db": recipe(
        64, 70, exponential(1e-3, 1e-4, 0.9),
        {"_target_": "fer.methods.scn.SCN", "high_share": 0.7, "rank_margin": 0.07, "relabel_from": 9,
         "relabel_margin": 0.2, "relabel_group": "all", "lam": 0.0, "erase": "shared"},
        FLIP_OR_NOISE | {"erase_aspect_law": "uniform"},
    ),
    "transfer_raf_db": recipe(
        64, 40, sgd(1e-4, 1e-4, [15, 30]),
        {"_target_": "fer.methods.transfer.TransFER", "branches": 2, "reduction": 16, "map_drop": 0.6, "blocks": 8,
         "heads": 8, "dimensions": 768, "mlp_ratio": 3.0, "qkv_bias": False, "norm_eps": 1e-6, "head_drop": 0.3,
         "head_drop_kind": "token", "zero_head": True},
        VIEWS | {
            "size": 112, "erase_area": [0.02, 0.4], "erase_aspect": [0.3, 3.3333333], "erase_aspect_law": "uniform",
            "transforms": {
                "crop": {"_target_": "fer.views.crops.RandomResizedCrop", "size": 112, "scale": [0.08, 1.0],
                         "ratio": [0.75, 1.3333333], "law": "paddle"},
                "rand_augment": {"_target_": "fer.views.paddle_rand_augment.PaddleRandAugment", "operations": 2,
                                 "level": 5},
            },
        },
        backbone=resnet(18, stem="no_pool", stages=3),
    ),
}  # fmt: skip


def composed(*overrides: str) -> Table:
    config: Any = OmegaConf.to_container(compose([*overrides, "data.root=x"]), resolve=True)
    kept = (
        "batch_size", "optim", "method", "augment", "backbone", "protocol", "train_samples", "sampling",
        "sync_batchnorm",
    )  # fmt: skip
    return {key: config[key] for key in kept} | {
        "max_epochs": config["trainer"]["max_epochs"], "precision": config["trainer"]["precision"],
        "noise": (config["noise"]["_target_"], config["noise"]["ratio"]), "store_size": config["data"]["store_size"],
        "reader": config["data"]["reader"]["_target_"], "expected": config["data"]["reader"]["expected"],
    }  # fmt: skip


def written(group: str, name: str) -> Table:
    table: Table = yaml.safe_load((CONFIG_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return table


def test_every_experiment_is_in_the_table() -> None:
    assert sorted(PUBLISHED) == FILES


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_composes_to_the_published_values(name: str) -> None:
    assert composed(f"experiment={name}") == PUBLISHED[name]


@pytest.mark.parametrize("name", FILES)
def test_an_experiments_file_tells_the_whole_recipe(name: str) -> None:
    file, shared = written("experiment", name), name in FOR_SEVERAL_METHODS
    chosen = {key.removeprefix("override /") for entry in file["defaults"] for key in entry}
    assert chosen == {"data", "noise", "backbone", "method", "augment", "optim"}
    assert {"protocol", "train_samples", "sampling", "batch_size", "optim", "trainer", "data"} <= file.keys()
    assert {"max_epochs", "precision"} <= file["trainer"].keys() and "store_size" in file["data"]
    not_written = {"lr"} if shared else set()
    assert PUBLISHED[name]["optim"].keys() - not_written - file["optim"].keys() <= {"gamma", *ALL_TRAINED}
    schedule = {**file["optim"]["scheduler"], **file["optim"]}
    assert PUBLISHED[name]["optim"]["scheduler"].keys() - {"_partial_"} <= schedule.keys()
    if shared:
        assert "method" not in file and "lr" not in file["optim"]
    else:
        assert {"_target_", *file.get("method", {})} == PUBLISHED[name]["method"].keys()


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augmentations_file_writes_every_value_itself(name: str) -> None:
    assert written("augment", name).keys() == VIEWS.keys()


@pytest.mark.parametrize("method", ["ce", "scn", "vac"])
@pytest.mark.parametrize("name", sorted(FOR_SEVERAL_METHODS))
def test_eacs_pipeline_serves_other_methods(name: str, method: str) -> None:
    config, alone = composed(f"experiment={name}", f"method={method}"), compose([f"method={method}"])
    assert config["method"].keys() == alone.method.keys()
    assert {**config, "method": None} == {**PUBLISHED[name], "method": None}


@pytest.mark.parametrize(
    ("backbone", "lr"), [("resnet18", 2e-4), ("resnet50", 1e-4), ("resnet50_vggface2", 1e-4), ("mobilenet_v2", 2e-4)]
)
@pytest.mark.parametrize("name", sorted(FOR_SEVERAL_METHODS))
def test_eacs_learning_rate_is_the_backbones(name: str, backbone: str, lr: float) -> None:
    config = composed(f"experiment={name}", f"backbone={backbone}")
    assert config["optim"] == exponential(lr, 1e-4, 0.9) and config["method"] == PUBLISHED[name]["method"]


@pytest.mark.parametrize("name", ["eac_raf_db", "rul_raf_db", "lde_raf_db"])
def test_another_optimizer_is_not_mixed_with_the_recipes(name: str) -> None:
    optim = composed(f"experiment={name}", "optim=sgd")["optim"]
    with pytest.raises(Exception, match="does not take"):
        instantiate_node(optim["optimizer"], "optim.optimizer", params=[torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("eac_raf_db", [2e-4 * 0.9**epoch for epoch in range(60)]),
        ("ad_corre_raf_db", [1e-3 * 0.998**epoch for epoch in range(300)]),
        ("dacl_raf_db", [1e-2] * 20 + [1e-3] * 20 + [1e-4] * 20),
        ("lde_raf_db", [1e-3 * (1 - epoch / 80) for epoch in range(80)]),
        ("ran_raf_db", [1e-1] * 18 + [1e-2] * 12 + [1e-3] * 18 + [1e-4] * 12),
        ("resup_raf_db", [2e-4] * 10 + [2e-5] * 10 + [2e-6] * 10),
        ("transfer_raf_db", [1e-4] * 15 + [1e-5] * 15 + [1e-6] * 10),
    ],
)
def test_the_learning_rate_falls_as_published(name: str, rates: list[float]) -> None:
    optim = compose([f"experiment={name}"]).optim
    optimizer = instantiate(optim.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    scheduler = instantiate(optim.scheduler)(optimizer)
    assert optimizer.defaults.get("betas", (0.9, 0.999)) == (0.9, 0.999)
    assert not optimizer.defaults.get("decoupled_weight_decay")
    found = []
    for _ in rates:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(rates)
