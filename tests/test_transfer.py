"""TransFER drops attention maps and heads in training, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_methods import batch_of, build
from torch.nn import functional as F

from fer.methods.transfer import Block, TransFER, drop_one

VIEW = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
SMALL = {"blocks": 2, "heads": 2, "dimensions": 16}


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
    normed = F.layer_norm(tokens, (8,), block.norm.weight, block.norm.bias)
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
        ({"map_drop": 1.5}, "method.map_drop is 1.5"),
        ({"dimensions": 12, "heads": 8}, "method.dimensions is 12"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(TransFER, **values)
