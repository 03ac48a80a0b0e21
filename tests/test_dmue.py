"""DMUE's branches, latent distributions and certainty, against its formulas written out in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_methods import CLASSES, LR, batch_of, build
from torch import nn
from torch.nn import functional as F

from fer.methods.dmue import DMUE, latent_distribution, similarity_matrix
from fer.models import backbones

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_the_latent_distribution_is_that_of_the_branch_without_the_label() -> None:
    logits = torch.randn(4, 3, 3, dtype=torch.float64)  # 4 classes, 3 samples
    labels = torch.tensor([0, 2, 3])
    found = latent_distribution(logits, labels, 1.2)
    for i, label in enumerate(labels.tolist()):
        p = [float(v) ** (1 / 1.2) for v in logits[label, i].softmax(0)]
        expected = [v / sum(p) for v in p]
        expected.insert(label, 0.0)
        assert found[i].tolist() == pytest.approx(expected)


def test_similarities_have_rows_of_unit_length() -> None:
    rows = torch.randn(5, 3, dtype=torch.float64)
    gram = rows @ rows.T
    torch.testing.assert_close(similarity_matrix(rows), gram / gram.norm(dim=1, keepdim=True))
    assert not similarity_matrix(torch.zeros(2, 3)).any()


def steady(**values: Any) -> Any:
    """In evaluation mode, so that a second pass gives the same."""
    return build(DMUE, **values).eval()


def test_the_loss_is_the_sum_of_its_parts_on_the_samples_they_are_for() -> None:
    method = steady()
    batch = batch_of(VIEW)
    trunk = method.network.backbone.trunk(VIEW)
    pooled = method.network.backbone.layer4(trunk).mean((2, 3))
    features = method.neck(pooled)
    logits = method.network.classifier(features)
    torch.testing.assert_close(method.classify(VIEW), logits)
    pairs = zip(method.branches, method.branch_classifiers, strict=True)
    branch_logits = [classifier(method.neck(branch(trunk).mean((2, 3)))) for branch, classifier in pairs]
    cross_entropies, similarities, soft = [], [], 0.0
    for c in range(CLASSES):
        rows = [i for i in range(6) if int(batch.label[i]) != c]
        shifted = torch.tensor([int(batch.label[i]) - (int(batch.label[i]) > c) for i in rows])
        cross_entropies.append(F.cross_entropy(branch_logits[c][rows], shifted))
        similarities.append(F.mse_loss(similarity_matrix(branch_logits[c][rows]), similarity_matrix(features[rows])))
    for i, label in enumerate(batch.label.tolist()):
        p = (branch_logits[label][i] / 1.2).softmax(0).tolist()
        p.insert(label, 0.0)
        q = logits[i].softmax(0).tolist()
        soft += sum(((0 if k == label else q[k]) - p[k]) ** 2 for k in range(CLASSES)) / (6 * CLASSES)
    likeness = []
    for i in range(6):
        row = []
        for k in range(CLASSES):
            cosines = [F.cosine_similarity(pooled[i], pooled[j], dim=0) for j in range(6) if int(batch.label[j]) == k]
            row.append(sum(cosines) / len(cosines))
        scaled = [(v - min(row)) / (max(row) - min(row)) for v in row]
        likeness.append(torch.stack([*scaled, *F.one_hot(batch.label[i], CLASSES).double()]))
    certainty = method.certainty(torch.stack(likeness))
    loss = method.loss(batch)
    torch.testing.assert_close(loss.parts["loss_cls"], F.cross_entropy(certainty * logits, batch.label))
    torch.testing.assert_close(loss.parts["loss_branches"], torch.stack(cross_entropies).mean())
    torch.testing.assert_close(loss.parts["loss_similarity"], torch.stack(similarities).mean())
    assert float(loss.parts["loss_soft"]) == pytest.approx(soft)
    of_target, of_branches = method.weights(0)
    parts = loss.parts
    target = parts["loss_cls"] + 0.5 * parts["loss_soft"] + 1000 * parts["loss_similarity"]
    torch.testing.assert_close(loss.total, of_target * target + of_branches * parts["loss_branches"])


def test_weights_turn_from_the_branches_to_the_target() -> None:
    method = build(DMUE, turn=10)
    for epoch, expected in {
        0: (math.exp(-5), 1.0),
        5: (math.exp(-1.25), 1.0),
        10: (1.0, 1.0),
        20: (1.0, math.exp(-0.25)),
    }.items():
        assert method.weights(epoch) == pytest.approx(expected)
    assert build(DMUE, turn=0).weights(0) == (1.0, 1.0)


def test_a_class_may_fill_a_batch() -> None:
    batch = batch_of(VIEW)._replace(label=torch.full((6,), 2), clean_label=torch.full((6,), 2))
    assert build(DMUE).loss(batch).total.isfinite()


def test_branches_begin_as_the_last_stage_and_learn_by_themselves() -> None:
    method = build(DMUE)
    stage = method.network.backbone.layer4
    assert all(torch.equal(branch.conv1.weight, stage.conv1.weight) for branch in method.branches)
    method.loss(batch_of(VIEW)).parts["loss_branches"].backward()
    assert all(branch.conv1.weight.grad.any() for branch in method.branches) and stage.conv1.weight.grad is None
    groups = method.configure_optimizers()["optimizer"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([LR, 10 * LR])
    assert len(groups[1]["params"]) == CLASSES + 1


@pytest.mark.parametrize("backbone", [backbones.resnet(depth=18), backbones.mobilenet_v2(), backbones.tiny()])
def test_backbones_are_their_last_stage_on_their_trunk(backbone: Any) -> None:
    backbone.eval()
    x = torch.randn(1, 3, 64, 64)
    trunk = backbone.trunk(x)
    torch.testing.assert_close(backbone(x), backbone.last_stage(trunk))
    assert trunk.shape != backbone(x).shape


class Unsplit(nn.Module):
    num_features = 3


def test_a_backbone_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="trunk"):
        build(DMUE, backbone=Unsplit)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"soft_weight": -1.0}, "method.soft_weight is -1.0"),
        ({"temperature": 0.0}, "method.temperature is 0.0"),
        ({"turn": -1}, "method.turn is -1"),
        ({"dropout": 1.0}, "method.dropout is 1.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(DMUE, **values)
