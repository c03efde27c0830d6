"""Wrong labels are found without trusting a head on what it was taught, and leaks between splits are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.learning import audit
from pipeline.learning.audit import Leak
from pipeline.learning.evaluation import OutOfFold


def found_for(probabilities: Tensor) -> OutOfFold:
    return OutOfFold(probabilities=probabilities, folds=torch.arange(len(probabilities)) % 5)


def flipped(num: int = 2000, share: float = 0.05, seed: int = 0) -> tuple[OutOfFold, np.ndarray, np.ndarray]:
    """Give probabilities of a fair classifier, labels of which a share is wrong, and which."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 5, num)
    logits = generator.normal(0, 1, (num, 5))
    logits[np.arange(num), truth] += 3.5
    is_flipped = generator.random(num) < share
    labels = np.where(is_flipped, (truth + generator.integers(1, 5, num)) % 5, truth)
    return found_for(torch.from_numpy(logits).softmax(dim=1)), labels, is_flipped


def test_flipped_labels_are_found() -> None:
    probabilities, labels, is_flipped = flipped()
    flags = np.zeros(len(labels), dtype=bool)
    for suspect in audit.suspects(probabilities, labels.tolist(), ["train"] * len(labels)):
        flags[suspect.index] = True
    precision, recall = (flags & is_flipped).sum() / flags.sum(), (flags & is_flipped).sum() / is_flipped.sum()
    assert precision >= 0.9
    assert recall >= 0.6


def test_clean_labels_raise_few_suspicions() -> None:
    probabilities, labels, _ = flipped(share=0.0)
    assert len(audit.suspects(probabilities, labels.tolist(), ["train"] * len(labels))) < 0.01 * len(labels)


def test_the_test_split_comes_first_and_the_least_probable_label_leads() -> None:
    probabilities, labels, _ = flipped()
    splits = np.random.default_rng(1).choice(["train", "val", "test"], len(labels), p=[0.75, 0.1, 0.15]).tolist()
    found = audit.suspects(probabilities, torch.from_numpy(labels), splits)
    order = [(audit.SPLITS.index(splits[suspect.index]), suspect.p_label) for suspect in found]
    assert {place for place, _ in order} == {0, 1, 2}
    assert order == sorted(order)


def test_a_suspect_says_what_it_has_and_what_it_may_deserve() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]])
    (found,) = audit.suspects(found_for(probabilities), [0, 0, 1, 1, 1], ["test"] * 5)
    assert (found.index, found.label, found.suggested) == (4, 1, 0)
    assert (found.p_label, found.p_suggested) == pytest.approx((0.05, 0.95))


def test_a_class_that_nobody_is_labelled_with_is_never_suggested() -> None:
    probabilities = torch.tensor([[0.2, 0.1, 0.7]] * 4 + [[0.1, 0.8, 0.1]] * 4)
    assert audit.suspects(found_for(probabilities), [0] * 4 + [1] * 4, ["train"] * 8) == []


def test_in_sample_probabilities_are_refused() -> None:
    probabilities, labels, _ = flipped(num=50)
    with pytest.raises(TypeError, match="out-of-fold"):
        audit.suspects(probabilities.probabilities, labels.tolist(), ["train"] * 50)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as many labels"):
        audit.suspects(found_for(torch.full((3, 2), 0.5)), [0, 1], ["train"] * 3)


# ---------------------------------------------------------------- leaks


def turned(dhash: int, *bits: int) -> int:
    for bit in bits:
        dhash ^= 1 << bit
    return dhash


A, B = 0xF0F0_1234_5678_9ABC, 0x0123_4567_89AB_CDEF


def test_near_duplicates_in_different_splits_are_leaks() -> None:
    hashes = [A, turned(A, 0, 63, 30, 7), turned(A, 0, 63, 30, 7, 9), B, B, B]
    splits = ["train", "test", "val", "val", "train", "val"]
    assert audit.leaks(hashes, splits) == [
        Leak(first=0, second=1, distance=4),
        Leak(first=1, second=2, distance=1),
        Leak(first=3, second=4, distance=0),
        Leak(first=4, second=5, distance=0),
    ]


def test_pictures_that_only_hash_alike_are_none() -> None:
    hashes, splits = [A, A, A], ["train", "test", "test"]
    assert audit.leaks(hashes, splits, lambda one, other: {one, other} == {0, 2}) == [
        Leak(first=0, second=2, distance=0)
    ]


def test_what_is_in_no_split_leaks_nothing() -> None:
    assert audit.leaks([A, A], ["excluded", "test"]) == audit.leaks([], []) == audit.leaks([A], ["test"]) == []


def test_every_pair_of_many_is_compared() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 1500, dtype=np.uint64).tolist()
    hashes[1400] = turned(hashes[3], 1)
    splits = ["train"] * 700 + ["test"] * 800
    assert audit.leaks(hashes, splits) == [Leak(first=3, second=1400, distance=1)]
