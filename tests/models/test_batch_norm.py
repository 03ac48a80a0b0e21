"""BatchNorm over several ranks is BatchNorm of the whole batch on one device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.ranks import Ranks
from torch import Tensor, nn

from fer.models.batch_norm import (
    groups_apart,
    keep_views_apart,
    make_groupable,
    reestimate_statistics,
    sum_over_ranks,
    synchronize_statistics,
)

CHANNELS, STEPS, VIEWS = 5, 2, 2
SHARES = {2: (3, 2), 3: (4, 1, 2)}
"""Samples of a view that every rank holds."""

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""Relative to the largest value. bfloat16 is that of inputs and outputs; parameters and statistics are float32."""

Outcome = dict[str, Tensor]


def network(dtype: torch.dtype) -> nn.Sequential:
    """Input and output of the BatchNorm can be of another type than its parameters, as under autocast."""
    norm = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.3).to(torch.float32 if dtype == torch.bfloat16 else dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(1, -1, CHANNELS))
    return nn.Sequential(norm)


def batches(samples: int) -> tuple[Tensor, Tensor]:
    """Views of whole batches (STEPS, VIEWS, samples, C, 3, 2), far from mean 0 and variance 1, and output gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (STEPS, VIEWS, samples, CHANNELS, 3, 2)
    images, gradients = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return images * torch.linspace(0.5, 4, CHANNELS)[:, None, None].double() + 10, gradients


def outcome(net: nn.Sequential, images: list[Tensor], gradients: list[Tensor]) -> Outcome:
    """Take training steps on (n, C, H, W) and collect outputs, gradients and statistics."""
    outputs, inputs = [], []
    for image, gradient in zip(images, gradients, strict=True):
        leaf = image.detach().requires_grad_()
        output = net(leaf)
        output.backward(gradient.to(output.dtype))
        outputs.append(output.detach())
        inputs.append(leaf.grad)
    weight, bias = (parameter.grad for parameter in net.parameters())
    statistics = {name: value.clone() for name, value in net[0].named_buffers()}
    return {"outputs": torch.stack(outputs), "inputs": torch.stack(inputs), "weight": weight, "bias": bias} | statistics


def outcome_of_rank(dtype: torch.dtype, per_view: bool, channels_last: bool, shares: list[int]) -> tuple[Outcome, bool]:
    """Take the steps on this rank, as one joint batch of both views or as a batch for each view."""
    net = network(dtype)
    if per_view:
        keep_views_apart(net)
    synchronize_statistics(net, torch.device("cpu"))
    rank = torch.distributed.get_rank()
    images, gradients = (whole.split(shares, 2)[rank].to(dtype) for whole in batches(sum(shares)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    merge = (lambda t: t.flatten(1, 2)) if per_view else (lambda t: t.flatten(0, 1))
    parts = [[part.contiguous(memory_format=layout) for part in merge(whole)] for whole in (images, gradients)]
    values = outcome(net, *parts)
    for name in ("outputs", "inputs"):
        values[name] = values[name].reshape(images.shape)
    return values, net.train()(parts[0][0]).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("per_view", [False, True], ids=["whole", "per_view"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("count", SHARES)
def test_ranks_with_uneven_shares_normalize_as_one_device_does(
    count: int, dtype: torch.dtype, per_view: bool, ranks: dict[int, Ranks]
) -> None:
    shares = SHARES[count]
    images, gradients = (whole.to(dtype).double().flatten(0, 1) for whole in batches(sum(shares)))
    expected = outcome(network(torch.float64), list(images), list(gradients))  # torch's own, each view as a batch
    answers = ranks[count](outcome_of_rank, dtype, per_view, count == 2, shares)
    assert all(keeps_layout for _, keeps_layout in answers)
    values = [value for value, _ in answers]

    def compare(name: str, actual: Tensor) -> None:
        limit = TOLERANCE[dtype] * float(expected[name].abs().max())
        torch.testing.assert_close(actual.double(), expected[name].double(), rtol=0, atol=limit, msg=lambda m: name + m)

    for name in ("outputs", "inputs"):
        assert all(value[name].dtype == dtype for value in values)
        compare(name, torch.cat([value[name] for value in values], 2).flatten(0, 1))
    for name in ("weight", "bias"):
        compare(name, torch.stack([value[name].double() for value in values]).sum(0))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert all(torch.equal(value[name], values[0][name]) for value in values)
        compare(name, values[0][name])


OF_RANKS = ([0, 1, 2, 0], [2, 2, 0])
"""Groups of every rank's samples: the second one has none of group 1, and group 2 leaves no trace."""


def outcome_of_groups(groups: list[list[int]]) -> Outcome:
    net = network(torch.float64)
    make_groupable(net)
    rank = 0
    if torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
        synchronize_statistics(net, torch.device("cpu"))
    image, gradient = (whole[0, 0].split([len(own) for own in groups])[rank] for whole in batches(7))
    with groups_apart(net, torch.eye(3)[groups[rank]], tracked=2):
        return outcome(net, [image], [gradient])


def test_groups_of_a_joint_batch_are_batches_of_their_own(ranks: dict[int, Ranks]) -> None:
    members = torch.tensor([*OF_RANKS[0], *OF_RANKS[1]])
    image, gradient = (whole[0, 0] for whole in batches(7))
    net, last = network(torch.float64), network(torch.float64)
    rows = [(members == group).nonzero()[:, 0] for group in range(3)]
    parts = [outcome(each, [image[row]], [gradient[row]]) for each, row in zip((net, net, last), rows, strict=True)]
    answers = ranks[2](outcome_of_groups, [*OF_RANKS])
    for values in ([outcome_of_groups([members.tolist()])], answers):
        for name in ("outputs", "inputs"):
            found = torch.cat([value[name][0] for value in values])
            for row, part in zip(rows, parts, strict=True):
                torch.testing.assert_close(found[row], part[name][0], rtol=1e-12, atol=1e-12)
        for name in ("weight", "bias"):
            # Gradients of the first two groups add up in their network.
            expected = parts[1][name] + parts[2][name]
            torch.testing.assert_close(sum(value[name] for value in values), expected, rtol=1e-12, atol=1e-12)
        for value in values:
            for name, expected in net.named_buffers():
                torch.testing.assert_close(value[name.split(".")[-1]], expected, rtol=1e-12, atol=1e-12)


def sum_and_gradient(share: int) -> tuple[Tensor, Tensor]:
    """Every rank makes something else of the sum of the ranks' values."""
    rank = torch.distributed.get_rank()
    value = torch.arange(share, dtype=torch.float64).add(rank).requires_grad_()
    total = sum_over_ranks(value)
    (total**3 * (rank + 1)).sum().backward()
    return total.detach(), value.grad


@pytest.mark.parametrize("count", [2, 3])
def test_sum_over_ranks_has_the_gradient_of_all_that_is_made_of_it(count: int, ranks: dict[int, Ranks]) -> None:
    values = [torch.arange(4.0, dtype=torch.float64).add(rank).requires_grad_() for rank in range(count)]
    total = torch.stack(values).sum(0)
    sum((total**3 * (rank + 1)).sum() for rank in range(count)).backward()
    for (summed, gradient), value in zip(ranks[count](sum_and_gradient, 4), values, strict=True):
        assert torch.equal(summed, total.detach())
        torch.testing.assert_close(gradient, value.grad, rtol=1e-15, atol=0)


@pytest.mark.parametrize("per_view", [False, True])
def test_evaluation_normalizes_by_running_statistics_without_other_ranks(per_view: bool) -> None:
    plain, synced = network(torch.float32).eval(), network(torch.float32).eval()
    if per_view:
        keep_views_apart(synced)
    synchronize_statistics(synced, torch.device("cpu"))
    assert synced.state_dict().keys() == plain.state_dict().keys()
    image = torch.randn(3, CHANNELS, 2, 2)
    assert torch.equal(synced(image), plain(image))


@pytest.mark.parametrize("per_view", [False, True])
def test_on_a_gpu_torchs_own_normalizes_every_view(per_view: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    normalize, seen = nn.SyncBatchNorm.forward, []

    def record(module: nn.SyncBatchNorm, input: Tensor) -> Tensor:
        seen.append(input)
        return normalize(module, input)

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", record)
    synced, plain = network(torch.float64), network(torch.float64)
    if per_view:
        keep_views_apart(synced)
    synchronize_statistics(synced, torch.device("cuda"))
    images, gradients = (whole[0].flatten(0, 1) for whole in batches(3))
    views = images.chunk(VIEWS) if per_view else [images]
    # Without a process group it is a BatchNorm of this device.
    values = outcome(synced, [images], [gradients])
    assert [len(view) for view in seen] == [len(view) for view in views]
    expected = outcome(plain, list(views), list(gradients.chunk(len(views))))
    for name in ("outputs", "inputs"):
        expected[name] = expected[name].reshape(values[name].shape)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    assert synced[0].process_group is None  # all ranks
    synced.eval()(images)
    assert torch.equal(seen[-1], images)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("other", [nn.BatchNorm1d, nn.BatchNorm3d, type("Mine", (nn.BatchNorm2d,), {})])
def test_another_batch_norm_is_refused_by_name(other: Any, device: str) -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), other(2))
    with pytest.raises(TypeError, match=rf"{other.__name__} cannot be synchronized; .* or sync_batchnorm=false"):
        synchronize_statistics(net, torch.device(device))


@pytest.mark.parametrize("make", [lambda _: None, keep_views_apart, make_groupable])
def test_reestimated_statistics_are_means_over_batches(make: Any) -> None:
    """Statistics of the second layer are those of what the first one gives in evaluation mode."""
    torch.manual_seed(0)
    first, second, unreached = (nn.BatchNorm2d(CHANNELS).double() for _ in range(3))
    whole = nn.ModuleDict({"used": nn.Sequential(first, nn.Dropout(), second), "unused": unreached})
    for norm in (first, second, unreached):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
    make(whole)
    kept = {name: value.clone() for name, value in unreached.state_dict().items()}
    data = [torch.randn(8, CHANNELS, 3, 2, dtype=torch.float64) * 3 + 2 for _ in range(5)]
    whole.train()
    reestimate_statistics(whole, (lambda x=x: whole["used"](x) for x in data))
    mean = torch.stack([x.mean((0, 2, 3)) for x in data]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in data]).mean(0)
    torch.testing.assert_close(first.running_mean, mean)
    torch.testing.assert_close(first.running_var, variance)
    # In training mode each batch was normalized by itself, so that the second layer saw mean bias, deviation weight.
    torch.testing.assert_close(second.running_mean, first.bias.data, atol=1e-9, rtol=0)
    assert all(torch.equal(value, kept[name]) for name, value in unreached.state_dict().items())
    assert whole.training and all(module.training for module in whole.modules())
    assert first.momentum == 0.1 and int(first.num_batches_tracked) == 0
    x = data[0]
    assert not torch.equal(first.eval()(x), first.train()(x))
