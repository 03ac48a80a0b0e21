"""SCN ranks importances, scales logits by them and cures labels."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_methods import CLASSES, batch_of, build, build_configured, loaded
from support.transcription import assert_equal_to
from torch import Tensor
from torch.nn import functional as F

from fer.config.compose import compose
from fer.errors import ConfigError
from fer.methods.scn import SCN, rank_regularization


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=20, unique=True), st.floats(0.1, 0.9), st.floats(0, 1))
def test_the_ranking_wants_a_margin_between_the_groups_means(values: list[float], share: float, margin: float) -> None:
    importance = torch.tensor(values, dtype=torch.float64)
    loss, is_low = rank_regularization(importance, share, margin)
    ranked, count = sorted(values, reverse=True), math.floor(share * len(values))
    high, low = ranked[:count], ranked[count:]
    assert sorted(importance[is_low].tolist(), reverse=True) == pytest.approx(low)
    expected = max(0.0, margin - (sum(high) / len(high) - sum(low) / len(low))) if high and low else 0.0
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def steady(**values: Any) -> Any:
    method = build(SCN, **values)
    method.network.eval()  # a second pass gives the same
    return method


VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_logits_are_scaled_by_the_importance_in_training_and_test() -> None:
    method = steady(relabel_from=99)
    features, logits = method.network(VIEW)
    importance = torch.sigmoid(features.mean((2, 3)) @ method.importance.weight[0] + method.importance.bias)
    scaled = importance[:, None] * logits
    batch = batch_of(VIEW)
    loss = method.loss(batch)
    torch.testing.assert_close(loss.logits, scaled)
    torch.testing.assert_close(method.classify(VIEW), scaled)
    torch.testing.assert_close(loss.parts["loss_cls"], F.cross_entropy(scaled, batch.label))
    rank, _ = rank_regularization(importance, 0.7, 0.15)
    torch.testing.assert_close(loss.total, loss.parts["loss_cls"] + rank)


def test_predictions_hold_the_importance() -> None:
    method = steady()
    image = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    method.augmentation.double()
    out = method.predict_step(loaded(image), 0)
    assert out["importance"].shape == (6,) and ((out["importance"] > 0) & (out["importance"] < 1)).all()
    torch.testing.assert_close(out["probabilities"], method(image).softmax(1).float())


@pytest.mark.parametrize("group", ["low", "all"])
def test_relabeling_changes_doubted_labels_and_every_later_loss(group: str) -> None:
    method = steady(relabel_from=0, relabel_margin=0.01, relabel_group=group)
    batch = batch_of(VIEW)
    first = method.loss(batch)
    p = first.logits.detach().softmax(1)
    features, _ = method.network(VIEW)
    importance = torch.sigmoid(features.mean((2, 3)) @ method.importance.weight[0] + method.importance.bias)
    low = set(importance.argsort(descending=True)[math.floor(0.7 * 6) :].tolist())
    expected = []
    for i, label in enumerate(batch.label.tolist()):
        doubted = float(p[i].max() - p[i, label]) > 0.01 and (group == "all" or i in low)
        expected.append(int(p[i].argmax()) if doubted else label)
    assert method.labels.tolist() == expected != batch.label.tolist()
    second = method.loss(batch)
    torch.testing.assert_close(second.parts["loss_cls"], F.cross_entropy(first.logits, torch.tensor(expected)))
    assert float(second.parts["loss_cls"]) != pytest.approx(float(first.parts["loss_cls"]))
    changed = sum(now != then for now, then in zip(expected, batch.label.tolist(), strict=True))
    assert float(second.parts["relabeled"]) == pytest.approx(changed / 6)


def released_scn(twin: Any, batch: Any) -> Tensor:
    """The released step of 6 samples, of which ``floor(0.7 * 6)`` are the high group."""
    pooled = twin.network.backbone(VIEW).mean((2, 3))
    alpha = [1 / (1 + torch.exp(-(twin.importance.weight[0] @ f + twin.importance.bias[0]))) for f in pooled]
    total = torch.zeros((), dtype=torch.float64)
    for n, label in enumerate(twin.labels[batch.index].tolist()):
        z = alpha[n] * (twin.network.classifier.weight @ pooled[n] + twin.network.classifier.bias)
        total = total + (z.exp().sum().log() - z[label]) / 6
        p = (z.detach().exp() / z.detach().exp().sum()).tolist()
        if max(p) - p[label] > 0.05:
            twin.labels[batch.index[n]] = p.index(max(p))
    ranked = sorted(alpha, key=lambda value: -float(value.detach()))
    gap = sum(ranked[:4]) / 4 - sum(ranked[4:]) / 2
    return torch.as_tensor(total + torch.relu(0.07 - gap))


def test_scn_is_the_released_algorithm_labels_included() -> None:
    method = build(SCN, rank_margin=0.07, relabel_from=0, relabel_margin=0.05, relabel_group="all")
    twin, batch = copy.deepcopy(method), batch_of(VIEW)
    for _ in range(2):  # the second step learns from the new labels
        assert_equal_to(released_scn, method, batch)
        released_scn(twin, batch)
        assert method.labels.tolist() == twin.labels.tolist() != batch.label.tolist()


@pytest.mark.parametrize(("group", "experiment"), [("low", []), ("all", ["experiment=scn_raf_db", "data.root=x"])])
def test_the_preset_relabels_as_released(group: str, experiment: list[str]) -> None:
    assert compose(["method=scn", *experiment]).method.relabel_group == group


def test_nothing_is_relabeled_before_its_epoch() -> None:
    method = steady(relabel_from=1, relabel_margin=0.0, relabel_group="all")
    method.loss(batch_of(VIEW))
    assert method.labels.tolist() == (torch.arange(6) % CLASSES).tolist()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"high_share": 1.0}, "method.high_share is 1.0"),
        ({"rank_margin": -0.1}, "method.rank_margin is -0.1"),
        ({"relabel_margin": float("nan")}, "method.relabel_margin is nan"),
        ({"relabel_group": "high"}, "method.relabel_group is 'high'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(SCN, **values)
