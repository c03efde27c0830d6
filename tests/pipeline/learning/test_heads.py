"""A head is the exact solution, fair to rare classes, grown without damage, never fitted on a part of the classes."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pipeline import digits
from pipeline.errors import RecipeInvalid, SnapshotInvalid
from pipeline.learning import heads, layers
from pipeline.learning.heads import Head
from tests import builders
from tests.pipeline.learning.clusters import clusters


def positive(*, num: int, dim: int, num_classes: int, separation: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give features as a network's last ReLU leaves them: none negative, each on its own scale."""
    features, targets = clusters(num=num, dim=dim, num_classes=num_classes, separation=separation, seed=seed)
    return features.relu() * torch.linspace(0.1, 10, dim), targets


def rare(*, num_common: int, num_rare: int, seed: int) -> tuple[Tensor, Tensor]:
    """Give two overlapping classes of such sizes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor([0] * num_common + [1] * num_rare)
    direction = torch.nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(99)), dim=0)
    return torch.randn(len(targets), 8, generator=generator) + 2 * targets[:, None] * direction, targets


def recalls(head: Head, features: Tensor, targets: Tensor) -> Tensor:
    is_right = (heads.logits(head, features).argmax(dim=1) == targets).float()
    return torch.stack([is_right[targets == number].mean() for number in range(int(targets.max()) + 1)])


# ---------------------------------------------------------------- the fit


@pytest.mark.parametrize(("num", "dim"), [(400, 30), (60, 200)], ids=["more images", "more features"])
@pytest.mark.parametrize("l2", [300.0, 10.0])
@pytest.mark.parametrize("is_balanced", [False, True], ids=["plain", "balanced"])
def test_the_fit_is_scikit_learns_to_the_fourth_digit(num: int, dim: int, l2: float, is_balanced: bool) -> None:
    features, targets = positive(num=num, dim=dim, num_classes=4)
    targets = torch.where(torch.arange(num) % 3 == 0, 0, targets)
    solve = heads.balance if is_balanced else heads.fit
    ours = heads.logits(solve(features, targets, 4, l2=l2), features).double()
    standard = StandardScaler().fit_transform(features.double().numpy())
    theirs = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=5000, class_weight="balanced" if is_balanced else None)
    expected = torch.from_numpy(theirs.fit(standard, targets.numpy()).decision_function(standard))
    # Adding one number to all logits of an image changes nothing.
    assert (ours - ours.mean(dim=1, keepdim=True) - expected + expected.mean(dim=1, keepdim=True)).abs().max() < 1e-4


def test_the_same_features_give_the_same_bits() -> None:
    features, targets = positive(num=300, dim=40, num_classes=5)
    first, second = (heads.fit(features, targets.tolist(), 5, l2=3.0) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.dtype == torch.float32
    assert first.weight.shape == (5, 40)


def test_rounding_in_the_features_moves_no_logit_by_1e_4() -> None:
    features, targets = positive(num=300, dim=100, num_classes=5)
    noise = 1 + 1e-6 * torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    first, second = (heads.fit(values, targets, 5, l2=10.0) for values in (features, features * noise))
    assert (heads.logits(first, features) - heads.logits(second, features)).abs().max() < 1e-4


def test_features_that_never_vary_are_no_obstacle() -> None:
    features, targets = positive(num=50, dim=6, num_classes=2, separation=20.0)
    features = torch.cat([features, torch.full((50, 2), 7.0)], dim=1)
    assert recalls(heads.fit(features, targets, 2, l2=1.0), features, targets).tolist() == [1.0, 1.0]
    constant = heads.fit(torch.ones(9, 3), [0, 0, 0, 0, 0, 0, 1, 1, 1], 2, l2=1.0)
    assert heads.logits(constant, torch.ones(1, 3)).softmax(dim=1)[0].tolist() == pytest.approx(
        [2 / 3, 1 / 3], abs=1e-4
    )


@pytest.mark.parametrize(
    ("features", "targets", "removed", "sentence"),
    [
        (torch.ones(4, 2), [0, 0, 1, 1], (), "number 2 have no example"),
        (torch.ones(4, 2), [2, 2, 2, 2], (), "number 0, 1 have no example.*never on new labels alone"),
        (torch.ones(4, 2), [0, 1, 2, 3], (), "does not exist"),
        (torch.ones(4, 2), [0, 1, 2, 2], (1,), "was removed"),
        (torch.ones(4, 2), [0, 0, 0, 0], (1, 2), "two classes at least"),
        (torch.full((3, 2), float("nan")), [0, 1, 2], (), "not finite"),
    ],
    ids=["a class missing", "new labels alone", "unknown class", "removed class", "one class", "not finite"],
)
def test_what_is_not_all_of_the_classes_is_refused(
    features: Tensor, targets: list[int], removed: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(SnapshotInvalid, match=sentence):
        heads.fit(features, targets, 3, l2=1.0, removed=removed)
    with pytest.raises(SnapshotInvalid, match=sentence):
        heads.choose_l2(features, targets, 3, removed=removed)


def test_a_removed_class_keeps_its_number_and_never_wins() -> None:
    features, targets = clusters(num=300, dim=20, num_classes=4, separation=6.0)
    kept = targets != 1
    head = heads.balance(features[kept], targets[kept], 4, l2=1.0, removed=[1])
    assert head.num_classes == 4
    scores = heads.logits(head, features).softmax(dim=1)
    assert float(scores[:, 1].max()) < 1e-4
    assert float((scores.argmax(dim=1) == targets)[kept].float().mean()) > 0.97


# ---------------------------------------------------------------- rare classes


def balanced_accuracy(head: Head, seed: int) -> float:
    return float(recalls(head, *rare(num_common=2000, num_rare=2000, seed=seed)).mean())


def test_balancing_the_classifier_raises_balanced_accuracy_at_100_to_1() -> None:
    features, targets = rare(num_common=2000, num_rare=20, seed=1)
    plain = heads.fit(features, targets, 2, l2=10.0)
    assert balanced_accuracy(plain, 2) < 0.62
    for better in (heads.balance(features, targets, 2, l2=10.0), heads.adjust(plain, targets)):
        assert balanced_accuracy(better, 2) > 0.80


def test_balanced_twice_is_refused() -> None:
    features, targets = rare(num_common=200, num_rare=20, seed=1)
    adjusted = heads.adjust(heads.fit(features, targets, 2, l2=10.0), targets)
    with pytest.raises(RecipeInvalid, match="twice"):
        heads.adjust(adjusted, targets)
    with pytest.raises(RecipeInvalid, match="twice"):
        heads.adjust(heads.balance(features, targets, 2, l2=10.0), targets)


def test_adjusting_subtracts_tau_times_the_log_of_the_share() -> None:
    head = Head(weight=torch.zeros(3, 2), bias=torch.zeros(3))
    adjusted = heads.adjust(head, [0] * 6 + [1] * 2, tau=0.5)
    assert adjusted.bias.exp().square().tolist() == pytest.approx([8 / 6, 8 / 2, 1.0])
    assert torch.equal(adjusted.weight, head.weight)


def test_class_weights_make_classes_count_alike() -> None:
    weights = heads.class_weights([0] * 6 + [1] * 2 + [3] * 4, 4)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0, 0.0, 1.0])


# ---------------------------------------------------------------- new classes


def test_a_new_class_is_imprinted_and_the_old_rows_keep_their_bits() -> None:
    every, every_target = positive(num=1200, dim=64, num_classes=6, separation=6.0)
    features, targets = every[:600], every_target[:600]
    old = targets < 5
    head = heads.fit(features[old], targets[old], 5, l2=10.0)
    grown = heads.imprint(head, features, targets, 6)
    assert torch.equal(heads.logits(grown, features)[:, :5], heads.logits(head, features))
    assert torch.equal(grown.weight[:5], head.weight)
    found = recalls(grown, every[600:], every_target[600:])
    assert float(found[5]) > 0.8
    assert float(found[:5].mean()) > 0.9


def test_the_refit_keeps_classes_that_a_batch_of_labels_lacks() -> None:
    every, every_target = positive(num=1600, dim=64, num_classes=5, separation=5.0)
    features, targets, unseen, unseen_targets = every[:600], every_target[:600], every[600:], every_target[600:]
    before = recalls(heads.balance(features[:300], targets[:300], 5, l2=10.0), unseen, unseen_targets)
    # The later labels are of classes 0 and 1 alone; all that was labelled before is fitted again with them.
    taken = torch.cat([torch.arange(300), 300 + torch.nonzero(targets[300:] < 2)[:, 0]])
    after = recalls(heads.balance(features[taken], targets[taken], 5, l2=10.0), unseen, unseen_targets)
    assert float((before - after)[2:].max()) < 0.02


def test_new_labels_alone_cannot_be_imprinted() -> None:
    features, targets = positive(num=60, dim=8, num_classes=3)
    head = heads.fit(features[targets < 2], targets[targets < 2], 2, l2=1.0)
    with pytest.raises(SnapshotInvalid, match="never on new labels alone"):
        heads.imprint(head, features[targets == 2], targets[targets == 2], 3)


def test_two_new_classes_come_after_a_removed_one() -> None:
    features, targets = clusters(num=500, dim=32, num_classes=5, separation=8.0)
    old = (targets < 3) & (targets != 1)
    head = heads.fit(features[old], targets[old], 3, l2=10.0, removed=[1])
    grown = heads.imprint(head, features[targets != 1], targets[targets != 1], 5, removed=[1])
    found = recalls(grown, features, targets)
    assert float(found[1]) == 0.0
    assert float(found[[0, 2, 3, 4]].min()) > 0.9


# ---------------------------------------------------------------- heads in networks


def test_a_head_goes_into_a_network_and_comes_out_the_same() -> None:
    network = builders.tiny_network(3)
    found = layers.layers(network, digits.SIZE)
    head = Head(weight=torch.randn(6, 64, generator=torch.Generator().manual_seed(0)), bias=torch.arange(6.0))
    heads.apply(network, found, head)
    again = heads.of(network, found)
    assert torch.equal(again.weight, head.weight)
    assert torch.equal(again.bias, head.bias)
    network.get_parameter("14.bias").data.zero_()
    assert float(again.bias[5]) == 5.0
