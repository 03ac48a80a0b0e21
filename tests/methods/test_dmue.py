"""DMUE's branches, latent distributions and certainty, against its formulas written out in float64."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.project import Train
from support.small_methods import CLASSES, LR, batch_of, build, build_configured, loaded
from torch import Tensor, nn
from torch.nn import functional as F

from fer.errors import ConfigError, TrainingError
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
    """Build the method in evaluation mode, so that a second pass gives the same."""
    return build(DMUE, passes="joint", **values).eval()


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


# The released code

VIEWS = torch.randn(12, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 2, 4])
FEATURES = 48
KEPT = torch.rand(CLASSES + 1, 12, FEATURES, generator=torch.Generator().manual_seed(9)) < 0.5
"""Features that dropout keeps, in the branches' order, the target branch's last."""


class GivenDropout(nn.Module):
    """Dropout by the masks of ``KEPT``, one after the other."""

    calls = 0

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return features * KEPT[self.calls - 1] * 2


def plain_norms(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.__class__ = nn.BatchNorm2d
    return module


def released(method: Any, view: Tensor, labels: Tensor, epoch: int, turn: int) -> Tensor:
    """The loss as the released code goes about it: branches are shown the samples that they are for."""
    trunk = method.network.backbone.trunk(view)
    others = [[i for i, label in enumerate(labels.tolist()) if label != c] for c in range(CLASSES)]
    own = [[i for i, label in enumerate(labels.tolist()) if label == c] for c in range(CLASSES)]
    auxiliary = [branch(trunk[rows]).mean((2, 3)) for branch, rows in zip(method.branches, others, strict=True)]
    pooled = method.network.backbone.last_stage(trunk).mean((2, 3))
    latent = [branch(trunk[rows]).mean((2, 3)) for branch, rows in zip(method.branches, own, strict=True)]
    logits = []
    for c, (features, rows) in enumerate(zip(auxiliary, others, strict=True)):
        logits.append(method.branch_classifiers[c](method.neck(features * KEPT[c][rows] * 2)))
    target = method.neck(pooled * KEPT[CLASSES] * 2)
    latent = [method.branch_classifiers[c](method.neck(features)) for c, features in enumerate(latent)]
    gram = target @ target.T
    similarity = of_branches = torch.zeros((), dtype=torch.float64)
    z = method.network.classifier(target)
    goal = torch.zeros_like(z)
    for c, rows in enumerate(others):
        mine, theirs = logits[c] @ logits[c].T, gram[rows][:, rows]
        difference = mine / mine.norm(dim=1, keepdim=True) - theirs / theirs.norm(dim=1, keepdim=True)
        similarity = similarity + (difference**2).mean() / CLASSES
        shifted = [int(labels[i]) - (int(labels[i]) > c) for i in rows]
        of_branches = of_branches - logits[c].log_softmax(1)[range(len(rows)), shifted].mean() / CLASSES
        sharp = latent[c].softmax(1) ** (1 / 1.2)
        sharp = (sharp / sharp.sum(1, keepdim=True)).detach()
        for i, row in zip(own[c], sharp, strict=True):
            goal[i, :c], goal[i, c + 1 :] = row[:c], row[c:]
    p = z.softmax(1)
    soft = (
        sum((p[i, k] * (k != labels[i]) - goal[i, k]) ** 2 for i in range(len(z)) for k in range(CLASSES)) / z.numel()
    )
    lengths = pooled.norm(dim=1)
    cosine = pooled @ pooled.T / (lengths[:, None] * lengths)
    means = torch.stack([cosine[:, rows].mean(1) for rows in own], 1)
    low, high = means.min(1, keepdim=True)[0], means.max(1, keepdim=True)[0]
    score = method.certainty(torch.cat([(means - low) / (high - low), F.one_hot(labels, CLASSES).double()], 1))
    cross_entropy = -(score * z).log_softmax(1)[range(len(z)), labels].mean()
    rising = math.exp(-5 * (1 - epoch / turn) ** 2) if epoch <= turn else 1.0
    falling = 1.0 if epoch < turn else math.exp(-((1 - turn / epoch) ** 2))
    return rising * (cross_entropy + 0.5 * soft + 1000 * similarity) + falling * of_branches


def loss_and_copy(epoch: int, **values: Any) -> tuple[Tensor, Tensor, Any, Any]:
    """Ours and the released code's, with the method and a copy of it that hold the gradients."""
    method = build(DMUE, turn=10, classifier_std=0.2, **values)
    method._trainer = type("Trainer", (), {"current_epoch": epoch})()
    method.dropout = GivenDropout()
    reference = plain_norms(copy.deepcopy(method))
    expected = released(reference, VIEWS, LABELS, epoch, 10)
    expected.backward()
    batch = batch_of(VIEWS)._replace(label=LABELS)
    loss = method.loss(batch).total
    loss.backward()
    return loss, expected, method, reference


@pytest.mark.parametrize("epoch", [0, 7, 10, 20])
def test_dmue_is_its_released_code(epoch: int) -> None:
    loss, expected, method, reference = loss_and_copy(epoch, learn_certainty=False)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for (name, ours), theirs in zip(method.named_parameters(), reference.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (name.startswith(("certainty", "neck"))), name
        if ours.grad is not None:
            largest = theirs.grad.abs().max()
            assert (ours.grad - theirs.grad).abs().max() <= 1e-8 * largest + 1e-12, name
    for (name, ours), theirs in zip(method.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


def test_certainty_and_neck_learn_where_asked() -> None:
    _, _, method, reference = loss_and_copy(7, learn_certainty=True, learn_neck=True)
    for part in ("certainty", "neck"):
        pairs = zip(getattr(method, part).parameters(), getattr(reference, part).parameters(), strict=True)
        gradients = [(ours.grad, theirs.grad) for ours, theirs in pairs if ours.requires_grad]
        assert gradients
        for ours, theirs in gradients:
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert not any(parameter.requires_grad for parameter in build(DMUE).neck.parameters())


def test_classifiers_start_small() -> None:
    method = build(DMUE, backbone=lambda: backbones.tiny(width=64))
    weights = torch.cat([c.weight.flatten() for c in (method.network.classifier, *method.branch_classifiers)])
    assert float(weights.detach().std()) == pytest.approx(0.001, rel=0.05)


def test_batches_with_too_few_of_a_class_are_skipped_where_asked(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no batch of the epoch has two samples of each class"):
        train(tmp_path / "small", "method=dmue", "method.skip_incomplete=true", "batch_size=3", "trainer.max_epochs=1")
    whole = ["method=dmue", "method.skip_incomplete=true", "trainer.max_epochs=1"]
    assert train(tmp_path / "whole", *whole)
    method = build(DMUE, skip_incomplete=True)
    method._trainer = type("Trainer", (), {"training": True, "world_size": 1})()
    for labels, skipped in ((LABELS, False), (LABELS[:9], True), (LABELS[:10], False)):
        method.on_before_batch_transfer(loaded(VIEWS)._replace(label=labels), 0)
        assert method._skips == skipped
    method.on_before_batch_transfer(loaded(VIEWS)._replace(label=LABELS[:9]), 0)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = method.configure_optimizers()["optimizer"]
    method.training_step(loaded(VIEWS), 0)["loss"].backward()
    method.on_before_optimizer_step(optimizer)
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not optimizer.state


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
    with pytest.raises(ConfigError, match="trunk"):
        build_configured(DMUE, backbone=Unsplit)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"soft_weight": -1.0}, "method.soft_weight is -1.0"),
        ({"temperature": 0.0}, "method.temperature is 0.0"),
        ({"turn": -1}, "method.turn is -1"),
        ({"dropout": 1.0}, "method.dropout is 1.0"),
        ({"passes": "both"}, "method.passes is 'both'"),
        ({"classifier_std": 0.0}, "method.classifier_std is 0.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(DMUE, **values)
