"""MAN against its released algorithm, written out in float64: losses, gradients and statistics of BatchNorm."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.epochs import in_epoch
from support.project import Train
from support.small_methods import batch_of, build, build_configured, raw_images
from torch import Tensor, nn
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.man import AMBIGUOUS, CLEAN, MAN, NOISY

VIEWS = tuple(torch.randn(2, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))
GROUPS = {
    "all": [CLEAN, CLEAN, AMBIGUOUS, NOISY, AMBIGUOUS, NOISY],
    "one sample each": [CLEAN, NOISY, AMBIGUOUS, CLEAN, CLEAN, CLEAN],
    "none clean": [AMBIGUOUS, NOISY, NOISY, AMBIGUOUS, NOISY, NOISY],
    "clean alone": [CLEAN] * 6,
    "noisy alone": [NOISY] * 6,
}


def released(first: nn.Module, second: nn.Module, labels: Tensor, groups: list[int], epoch: int, epochs: int) -> Tensor:
    """The loss of a batch as the released code goes about it: group after group, every one a pass of its own."""
    rows = {group: [i for i, own in enumerate(groups) if own == group] for group in (CLEAN, NOISY, AMBIGUOUS)}
    weak, strong = VIEWS
    total = torch.zeros((), dtype=torch.float64)
    if rows[CLEAN]:
        chosen = rows[CLEAN]
        for net in (first, second):
            log_p = net(weak[chosen])[1].log_softmax(1)
            total = total - 0.5 * log_p[range(len(chosen)), labels[chosen]].sum() / len(chosen)
    if rows[NOISY]:
        chosen = rows[NOISY]
        for net in (first, second):
            p, q = (net(view[chosen])[1].softmax(1) for view in (weak, strong))
            total = total + 1.0 * 0.5 * ((p - q) ** 2).sum() / p.numel()
    if rows[AMBIGUOUS]:
        chosen = rows[AMBIGUOUS]
        p, q = (net(weak[chosen])[1].softmax(1) for net in (first, second))
        share = 0.9 * math.exp(-0.65 * (1 - epoch / (0.9 * epochs)) ** 2)
        supervised = -(p.log() + q.log())[range(len(chosen)), labels[chosen]].sum() / len(chosen)
        mimicry = ((p - q) * (p.log() - q.log())).sum() / len(chosen)
        total = total + 0.6 * (0.5 * (1 - share) * supervised + 0.5 * share * mimicry)
    return total


def both(method: Any) -> tuple[nn.Module, nn.Module]:
    """Copies of its networks with torch's own BatchNorm."""
    copies = copy.deepcopy(method.network), copy.deepcopy(method.second_network)
    for net in copies:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = nn.BatchNorm2d
    return copies


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize("epoch", [10, 45, 99])
def test_man_is_its_released_code(groups: list[int], epoch: int) -> None:
    method = in_epoch(build(MAN), epoch).train()
    copies = both(method)
    method.group.copy_(torch.tensor(groups))
    batch = batch_of(*VIEWS)
    expected = released(*copies, batch.label, groups, epoch + 1, 100)
    expected.backward()
    loss = method.loss(batch)
    loss.total.backward()
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    for net, reference in zip((method.network, method.second_network), copies, strict=True):
        for (name, ours), theirs in zip(net.named_parameters(), reference.parameters(), strict=True):
            largest = theirs.grad.abs().max()
            assert (ours.grad - theirs.grad).abs().max() <= 1e-8 * largest + 1e-12, name
        for (name, ours), theirs in zip(net.named_buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


def test_sums_over_networks_count_twice_but_for_mutual_learning() -> None:
    halves, sums = (in_epoch(build(MAN, over_networks=name), 45) for name in ("mean", "sum"))
    for method in (halves, sums):
        method.group.copy_(torch.tensor(GROUPS["all"]))
    first, second = halves.loss(batch_of(*VIEWS)).parts, sums.loss(batch_of(*VIEWS)).parts
    ratios = {name: (second[name] / first[name]).item() for name in first if name.startswith("loss")}
    assert ratios == pytest.approx({"loss_cls": 2.0, "loss_mutual": 1.0, "loss_consistency": 2.0})


@pytest.mark.parametrize(("over_networks", "factor"), [("mean", 0.5), ("sum", 1.0)])
def test_man_warms_up_by_cross_entropy_of_both_networks(over_networks: str, factor: float) -> None:
    method = in_epoch(build(MAN, warm_up=10, over_networks=over_networks), 9)
    method.group.fill_(NOISY)
    batch = batch_of(*VIEWS)
    expected = sum(F.cross_entropy(net(VIEWS[0])[1], batch.label) for net in (method.network, method.second_network))
    torch.testing.assert_close(method.loss(batch).total, factor * expected)


def test_the_share_of_mutual_learning_falls_again_or_is_held() -> None:
    share = build(MAN).mutual_share
    assert [share(epoch, 100) for epoch in (0, 44, 89, 99)] == pytest.approx(
        [0.9 * math.exp(-0.65 * (1 - e / 90) ** 2) for e in (1, 45, 90, 100)]
    )
    share = build(MAN, schedule="held").mutual_share
    assert [share(epoch, 100) for epoch in (0, 45, 90, 99)] == pytest.approx(
        [0.9 * math.exp(-0.65), 0.9 * math.exp(-0.65 / 4), 0.9, 0.9]
    )


def test_without_separate_groups_batch_norm_sees_the_batch() -> None:
    method = in_epoch(build(MAN, separate_groups=False), 45).train()
    copies = both(method)
    method.group.copy_(torch.tensor(GROUPS["all"]))
    found = method.loss(batch_of(*VIEWS))
    torch.testing.assert_close(found.logits, copies[0](VIEWS[0])[1])


def test_the_strong_view_is_drawn_for_each_image_and_not_erased() -> None:
    method = build(MAN)
    image = raw_images(1).expand(8, -1, -1, -1)
    method.augmentation.erase_probability = method.augmentation.pixel_noise_probability = 0.0
    weak, strong = method.make_views(image)
    assert torch.equal(weak[0], weak[1])
    assert len({tuple(each.flatten().tolist()) for each in strong}) > 4
    method.augmentation.erase_probability = 1.0
    method.strong.operations, method.strong.cutout, method.border = 0, 0, 0
    weak, strong = method.make_views(image)
    plain = method.augmentation.test_view(image)
    assert not torch.equal(weak, plain)
    assert all(torch.equal(each, plain[0]) or torch.equal(each, plain[0].flip(-1)) for each in strong)


def test_groups_are_made_on_augmented_views_unless_asked(train: Train, tmp_path: Any) -> None:
    """Resuming amid training repeats them bit for bit; see test_methods."""
    states = {}
    for views in ("augmented", "plain"):
        more = ["method=man", "method.warm_up=1", f"method.split_views={views}", "trainer.max_epochs=2"]
        train(tmp_path / views, *more)
        states[views] = torch.load(tmp_path / views / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(states["augmented"]["group"], states["plain"]["group"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"warm_up": -1}, "method.warm_up is -1"),
        ({"mutual_weight": -1.0}, "method.mutual_weight is -1.0"),
        ({"over_networks": "half"}, "method.over_networks is 'half'"),
        ({"schedule": "ours"}, "method.schedule is 'ours'"),
        ({"strong_level": 11}, "method.strong_level is 11"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(MAN, **values)
