"""TransFER drops attention maps and heads in training, and only there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.small_methods import batch_of, build, build_configured
from torch import Tensor
from torch.nn import functional as F

from fer.errors import ConfigError
from fer.methods.transfer import Block, TransFER, drop_one

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
SMALL = {"blocks": 2, "heads": 2, "dimensions": 16, "zero_head": False}


def test_one_part_of_a_sample_is_dropped_with_the_probability() -> None:
    torch.manual_seed(0)
    values = drop_one(torch.ones(4000, 4, 2, 3), 0.3)
    kept = values.amin((2, 3))
    assert torch.equal(kept, values.amax((2, 3)))
    assert ((kept == 0).sum(1) <= 1).all()
    share = (kept == 0).float().mean(0)
    assert (share - 0.3 / 4).abs().max() < 0.02  # over four standard errors
    assert drop_one(values, 0.0).equal(values)
    assert (drop_one(torch.ones(50, 3), 1.0) == 0).sum(1).tolist() == [1] * 50


def test_a_block_attends_as_written_out() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 0.5).double().eval()
    tokens = torch.randn(3, 5, 8, dtype=torch.float64)
    normed = F.layer_norm(tokens, (8,), block.norm.weight, block.norm.bias, 1e-6)
    query, key, value = block.query_key_value(normed).split(8, 2)
    heads = []
    for h in range(2):
        q, k, v = (each[:, :, 4 * h : 4 * h + 4] for each in (query, key, value))
        heads.append((q @ k.transpose(1, 2) / 2).softmax(2) @ v)
    attended = tokens + block.out(torch.cat(heads, 2))
    torch.testing.assert_close(block(tokens), attended + block.mlp(block.mlp_norm(attended)))


def test_maps_are_joined_by_their_maximum() -> None:
    method = build(TransFER, **SMALL).eval()
    features = method.network.features(VIEW)
    maps = [attention(features) for attention in method.local_attentions]
    attended = torch.maximum(*maps) * features
    patches = method.to_tokens(attended).flatten(2).transpose(1, 2)
    tokens = torch.cat([method.class_token.expand(6, -1, -1), patches], 1) + method.positions
    expected = method.network.classifier(method.norm(method.blocks(tokens))[:, 0])
    torch.testing.assert_close(method.classify(VIEW), expected)
    batch = batch_of(VIEW)
    torch.testing.assert_close(method.loss(batch).total, F.cross_entropy(expected, batch.label))


def released(method: Any, view: Tensor, labels: Tensor, maps_kept: Tensor, tokens_kept: list[Tensor]) -> Tensor:
    """The loss as the released code computes it, with what it drops given: maps (B, 2), tokens (B, heads) per block."""

    def normalized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
        return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + eps).sqrt()

    def pointwise(x: Tensor, conv: Any) -> Tensor:
        return torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]

    features = method.network.backbone(view)
    maps = []
    for attention in method.local_attentions:
        x = normalized(pointwise(features, attention.layers[0]), (0, 2, 3), 1e-5).clamp(min=0)
        maps.append(torch.sigmoid(normalized(pointwise(x, attention.layers[3]), (0, 2, 3), 1e-5)))
    joined = (torch.cat(maps, 1) * maps_kept[:, :, None, None]).max(1, keepdim=True)[0]
    patches = pointwise(features * joined, method.to_tokens).flatten(2).transpose(1, 2)
    x = torch.cat([method.class_token.expand(len(view), -1, -1), patches], 1) + method.positions
    for block, kept in zip(method.blocks, tokens_kept, strict=True):
        mixed = normalized(x, (2,), 1e-6) @ block.query_key_value.weight.T
        mask = torch.ones(x.shape[:2], dtype=x.dtype)
        mask[:, : kept.shape[1]] = kept
        q, k, v = (mixed * mask[:, :, None]).chunk(3, 2)
        width = q.shape[2] // block.heads
        heads = []
        for h in range(block.heads):
            own = slice(h * width, (h + 1) * width)
            scores = (q[..., own] @ k[..., own].transpose(1, 2) / width**0.5).exp()
            heads.append(scores / scores.sum(2, keepdim=True) @ v[..., own])
        x = x + torch.cat(heads, 2) @ block.out.weight.T + block.out.bias
        inner = normalized(x, (2,), 1e-6) @ block.mlp[0].weight.T + block.mlp[0].bias
        x = x + inner * 0.5 * (1 + torch.erf(inner / 2**0.5)) @ block.mlp[2].weight.T + block.mlp[2].bias
    classifier = method.network.classifier
    z = normalized(x, (2,), 1e-6)[:, 0] @ classifier.weight.T + classifier.bias
    return -z.log_softmax(1)[range(len(z)), labels].mean()


def test_transfer_is_its_released_code() -> None:
    method = build(TransFER, **SMALL, head_drop_kind="token")
    reference = copy.deepcopy(method)
    batch = batch_of(VIEW)
    torch.manual_seed(5)
    maps_kept = drop_one(torch.ones(6, 2, dtype=torch.float64), 0.6)
    tokens_kept = [drop_one(torch.ones(6, 2, dtype=torch.float64), 0.3) for _ in method.blocks]
    assert not maps_kept.all() and not torch.cat(tokens_kept).all()
    expected = released(reference, VIEW, batch.label, maps_kept, tokens_kept)
    expected.backward()
    torch.manual_seed(5)
    loss = method.loss(batch).total
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    compared = 0
    for (name, ours), theirs in zip(method.named_parameters(), reference.parameters(), strict=True):
        if theirs.grad is not None:  # scales and shifts of norms, 1 and 0, are left out above
            compared += 1
            assert (ours.grad - theirs.grad).abs().max() <= 1e-8 * theirs.grad.abs().max() + 1e-12, name
    assert compared > 30


def test_it_starts_as_its_released_code() -> None:
    method = build(TransFER, blocks=1, heads=2, dimensions=512)
    assert not method.network.classifier.weight.any() and not method.network.classifier.bias.any()
    assert float(method.positions.detach().std()) == pytest.approx(0.02 * 0.88, rel=0.05)  # cut at two deviations
    block = method.blocks[0]
    assert block.query_key_value.bias is None and block.mlp[0].out_features == 3 * 512 and block.norm.eps == 1e-6
    defaults = build(TransFER, blocks=1)
    assert defaults.class_token.shape == (1, 1, 768) and defaults.blocks[0].heads == 8
    assert defaults.local_attentions[0].layers[0].out_channels == defaults.to_tokens.in_channels // 16


def test_nothing_is_dropped_in_tests() -> None:
    method = build(TransFER, **SMALL, map_drop=1.0, head_drop=1.0)
    assert not torch.equal(method.classify(VIEW), method.classify(VIEW))
    method.eval()
    assert torch.equal(method.classify(VIEW), method.classify(VIEW))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"branches": 1}, "method.branches is 1"),
        ({"blocks": 0}, "method.blocks is 0"),
        ({"reduction": 0}, "method.reduction is 0"),
        ({"head_drop_kind": "both"}, "method.head_drop_kind is 'both'"),
        ({"norm_eps": 0.0}, "method.norm_eps is 0.0"),
        ({"map_drop": 1.5}, "method.map_drop is 1.5"),
        ({"dimensions": 12, "heads": 8}, "method.dimensions is 12"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_configured(TransFER, **values)
