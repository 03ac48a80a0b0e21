"""Metrics against independent calculations in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fer.methods.core.metrics import EvaluationMetrics, TrainingStatistics
from fer.views.batch import Batch

NAMES = tuple("abcdefg")
K = len(NAMES)
SEEDS = st.integers(0, 2**32 - 1)


# Evaluation.


def expected_summary(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    predicted = probabilities.argmax(1)
    recalls, scores = {}, {}
    for k in range(K):
        true_positive = ((predicted == k) & (labels == k)).sum()
        support, claimed = (labels == k).sum(), (predicted == k).sum()
        if support:
            recalls[k] = true_positive / support
            precision = true_positive / claimed if claimed else 0.0
            both = precision + recalls[k]
            scores[k] = 2 * precision * recalls[k] / both if both else 0.0
    confidence, right = probabilities.max(1), predicted == labels
    error = 0.0
    for b in range(15):
        upper = confidence < (b + 1) / 15 if b < 14 else confidence <= 1
        inside = (confidence >= b / 15) & upper
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return {
        "acc": right.mean(),
        "macro_acc": np.mean(list(recalls.values())),
        "f1": np.mean(list(scores.values())),
        "ece": error,
        **{f"recall/{NAMES[k]}": recalls.get(k, 0.0) for k in range(K)},
    }


def sample(seed: int, count: int, classes: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Probabilities over all K classes and labels of the first ``classes`` alone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, K, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return (sharpness * logits).softmax(1), labels


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, K), st.sampled_from([0.3, 1.0, 5.0, 100.0]), st.integers(1, 4))
def test_summary_equals_the_formulas(seed: int, count: int, classes: int, sharpness: float, batches: int) -> None:
    probabilities, labels = sample(seed, count, classes, sharpness)
    metrics = EvaluationMetrics(K)
    for p, y in zip(probabilities.chunk(batches), labels.chunk(batches), strict=True):
        metrics.update(p, y)
    summary = metrics.summary(NAMES)
    expected = expected_summary(probabilities.double().numpy(), labels.numpy())
    assert summary == pytest.approx(expected, abs=1e-6)
    assert list(summary) == list(expected)


def certain(*predicted: int) -> Tensor:
    return torch.eye(K)[list(predicted)]


def summary_of(probabilities: Tensor, labels: list[int]) -> dict[str, float]:
    metrics = EvaluationMetrics(K)
    metrics.update(probabilities, torch.tensor(labels))
    return metrics.summary(NAMES)


def test_classes_without_labels_do_not_enter_the_means_even_where_they_are_predicted() -> None:
    summary = summary_of(certain(0, 0, 1, 6), [0, 0, 1, 1])
    assert summary["macro_acc"] == pytest.approx((1 + 1 / 2) / 2)
    assert summary["f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert summary["recall/g"] == 0


def test_macro_accuracy_weighs_classes_and_accuracy_weighs_samples() -> None:
    summary = summary_of(certain(0, 0, 0, 0, 0, 0), [0, 0, 0, 0, 0, 1])
    assert summary["acc"] == pytest.approx(5 / 6)
    assert summary["macro_acc"] == pytest.approx(1 / 2)


def confident(share: float) -> Tensor:
    """One prediction of the first class."""
    return torch.tensor([[share] + [(1 - share) / (K - 1)] * (K - 1)])


@pytest.mark.parametrize("edge", range(3, 15))
def test_bins_are_fifteenths(edge: int) -> None:
    below, above = (edge - 0.1) / 15, (edge + 0.1) / 15
    # Right below the edge and wrong above it: in one bin the two errors would cancel.
    summary = summary_of(torch.cat([confident(below), confident(above)]), [0, 1])
    assert summary["ece"] == pytest.approx((1 - below) / 2 + above / 2, abs=1e-6)
    # Wide apart within a bin they do.
    above = (edge + 0.9) / 15
    summary = summary_of(torch.cat([confident((edge + 0.1) / 15), confident(above)]), [0, 1])
    assert summary["ece"] == pytest.approx(abs(1 - (edge + 0.1) / 15 - above) / 2, abs=1e-6)


def test_a_confidence_of_one_shares_a_bin_with_what_is_just_below() -> None:
    # One certain and wrong, one almost certain and right: in one bin, |0.5 - 0.975|.
    summary = summary_of(torch.cat([certain(1), confident(0.95)]), [0, 0])
    assert summary["ece"] == pytest.approx(0.475, abs=1e-6)


def test_calibration_error_of_honest_probabilities_is_small_and_of_bragging_ones_large() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20_000, K, generator=generator).softmax(1)
    labels = torch.multinomial(honest, 1, generator=generator)[:, 0].tolist()
    assert summary_of(honest, labels)["ece"] < 0.02
    assert summary_of((8 * honest.log()).softmax(1), labels)["ece"] > 0.3


def test_evaluation_over_ranks_and_after_a_reset() -> None:
    probabilities, labels = sample(0, 41, K, 1.0)
    whole = summary_of(probabilities, labels.tolist())
    ranks = [EvaluationMetrics(K) for _ in range(2)]
    for rank, metrics in enumerate(ranks):
        metrics.update(certain(3), torch.tensor([4]))
        metrics.reset()
        metrics.update(probabilities[rank::2], labels[rank::2])
        metrics.update(probabilities[:0], labels[:0])
    ranks[0].merge_state(ranks[1])
    assert ranks[0].summary(NAMES) == pytest.approx(whole, abs=1e-12)


# Training.


def batch_of(labels: list[int], clean: list[int]) -> Batch:
    count = len(labels)
    return Batch(torch.empty(count), torch.tensor(labels), torch.tensor(clean), torch.arange(count))


def logits_of(predicted: list[int]) -> Tensor:
    return 3 * torch.eye(K)[predicted] + torch.linspace(0, 1, K)


SAMPLE = st.tuples(st.integers(0, K - 1), st.integers(0, K - 1), st.integers(-1, K - 1))
BATCHES = st.lists(st.tuples(st.lists(SAMPLE, min_size=1, max_size=12), st.floats(-5, 5)), min_size=1, max_size=5)
Batches = list[tuple[list[tuple[int, int, int]], float]]


def fed(batches: Batches) -> TrainingStatistics:
    return feed(TrainingStatistics(), batches)


def feed(statistics: TrainingStatistics, batches: Batches) -> TrainingStatistics:
    for samples, value in batches:
        predicted, labels, clean = (list(column) for column in zip(*samples, strict=True))
        parts = {"loss": torch.tensor(value, requires_grad=True), "loss_cls": torch.tensor(2 * value)}
        statistics.update(logits_of(predicted), batch_of(labels, clean), parts)
    return statistics


def expected_statistics(batches: Batches) -> dict[str, float]:
    predicted, label, clean = np.array([sample for samples, _ in batches for sample in samples]).T
    sizes = np.array([len(samples) for samples, _ in batches])
    losses = np.array([value for _, value in batches])
    expected = {
        "loss": (sizes * losses).sum() / sizes.sum(),
        "loss_cls": 2 * (sizes * losses).sum() / sizes.sum(),
        "acc": (predicted == label).mean(),
    }
    known = clean != -1
    wrong = known & (clean != label)
    if known.any():
        expected["acc_clean"] = (predicted == clean)[known].mean()
    if wrong.any():
        expected["memorized"] = (predicted == label)[wrong].mean()
        expected["recovered"] = (predicted == clean)[wrong].mean()
    return expected


@settings(max_examples=25, deadline=None)
@given(BATCHES)
def test_statistics_equal_a_calculation_over_all_samples(batches: Batches) -> None:
    assert fed(batches).compute() == pytest.approx(expected_statistics(batches), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(BATCHES, BATCHES)
def test_statistics_summed_over_ranks_are_those_of_one_device(here: Batches, there: Batches) -> None:
    summed = fed(here)
    summed.merge_state(fed(there))
    assert summed.compute() == pytest.approx(expected_statistics(here + there), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(BATCHES, BATCHES)
def test_statistics_go_on_from_what_was_kept_as_if_never_interrupted(before: Batches, after: Batches) -> None:
    kept = fed(before).sums_so_far()
    resumed = fed(after[:1])  # is dropped
    resumed.go_on_from(kept)
    assert feed(resumed, after).compute() == fed(before + after).compute()


def keys_of(labels: list[int], clean: list[int]) -> set[str]:
    statistics = TrainingStatistics()
    statistics.update(logits_of(labels), batch_of(labels, clean), {"loss": torch.tensor(1.0)})
    return set(statistics.compute()) - {"loss"}


def test_what_is_not_defined_has_no_key() -> None:
    assert keys_of([0, 1], [-1, -1]) == {"acc"}
    assert keys_of([0, 1], [0, -1]) == {"acc", "acc_clean"}
    assert keys_of([0, 1], [0, 2]) == {"acc", "acc_clean", "memorized", "recovered"}


def test_a_sample_without_true_label_counts_neither_as_wrong_nor_as_memorized() -> None:
    statistics = TrainingStatistics()
    statistics.update(logits_of([1, 2, 3, 4]), batch_of([1, 2, 3, 5], [-1, 0, 3, 4]), {"loss": torch.tensor(2.0)})
    shares = {"acc": 3 / 4, "acc_clean": 2 / 3, "memorized": 0.5, "recovered": 0.5}
    assert statistics.compute() == pytest.approx({"loss": 2.0, **shares})


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_statistics_hold_no_graph_and_start_anew_after_a_reset() -> None:
    statistics = TrainingStatistics()
    logits = logits_of([0]).requires_grad_()
    statistics.update(logits, batch_of([1], [0]), {"loss": logits.sum()})
    assert not statistics.loss_sums.requires_grad and not statistics.is_empty
    statistics.reset()
    assert statistics.is_empty and statistics.compute() == {}


def test_sums_count_in_float64_whatever_the_precision_of_the_network() -> None:
    statistics = TrainingStatistics().to(torch.float16)
    for _ in range(3):
        statistics.update(logits_of([0]).half(), batch_of([0], [0]), {"loss": torch.tensor(60_000.0).half()})
    assert statistics.compute()["loss"] == float(torch.tensor(60_000.0).half())


def test_checkpoints_hold_no_statistics_of_their_first_rank() -> None:
    assert not fed([([(0, 0, 0)], 1.0)]).state_dict()


def test_parts_of_the_loss_stay_the_same_for_an_epoch() -> None:
    statistics = fed([([(0, 0, 0)], 1.0)])
    other = {"loss": torch.tensor(1.0), "loss_kl": torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"are loss, loss_kl after loss, loss_cls; a method must return the same"):
        statistics.update(logits_of([0]), batch_of([0], [0]), other)
    statistics.reset()
    statistics.update(logits_of([0]), batch_of([0], [0]), other)
    assert {"loss", "loss_kl"} <= set(statistics.compute())
