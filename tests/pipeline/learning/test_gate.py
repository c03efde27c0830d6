"""The gate promotes what is no worse, names what is, and says so when it cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import gate as simulation
from pipeline.errors import GateInvalid, RecipeInvalid
from pipeline.learning import gate
from pipeline.learning.gate import Check, GatePolicy, Measured, Verdict

CLASSES = tuple("abcdefghij")
#: gives the two names of causes; the reason is then never what decides
ASKED = frozenset({"drift"})


def measured(version: str, answers: np.ndarray, classes: tuple[str, ...] = CLASSES, **fields: object) -> Measured:
    given = {
        "version": version,
        "classes": classes,
        "logits": 4.0 * torch.nn.functional.one_hot(torch.from_numpy(answers), len(classes)).float(),
        "temperature": 1.0,
        "test_digest": "test",
        "preprocess_digest": "pixels",
    }
    return Measured(**{**given, **fields})


def truth(num: int, num_classes: int = 10) -> np.ndarray:
    return np.arange(num) % num_classes


def wrong_at(targets: np.ndarray, rows: list[int] | range | np.ndarray, num_classes: int = 10) -> np.ndarray:
    """Give the right answers, but for the next class at some rows."""
    answers = targets.copy()
    answers[list(rows)] = (answers[list(rows)] + 1) % num_classes
    return answers


def check(verdict: Verdict, name: str) -> Check:
    return next(found for found in verdict.checks if found.name == name)


def equals(num: int, num_wrong: int, **fields: object) -> tuple[np.ndarray, Measured, Measured]:
    """Give labels, challenger and champion with as many mistakes each, on different images."""
    targets = truth(num)
    challenger = measured("challenger", wrong_at(targets, range(num_wrong)), **fields)
    return targets, challenger, measured("champion", wrong_at(targets, range(num_wrong, 2 * num_wrong)))


# ---------------------------------------------------------------- promote and hold


def test_an_equal_challenger_is_promoted_if_something_asks_for_it_and_held_if_nothing_does() -> None:
    targets, challenger, champion = equals(1000, 20)
    asked = gate.judge(challenger, champion, targets, causes=ASKED)
    assert (asked.verdict, asked.warnings) == ("promote", ())
    assert asked.reason == "It is no worse, and asked for by drift (20 images gained, 20 lost, p = 0.56)."
    unasked = gate.judge(challenger, champion, targets, causes=frozenset({"new_labels"}))
    assert unasked.verdict == "hold"
    assert unasked.reason.endswith("and nothing asks for it.")
    assert [found.name for found in unasked.checks if found.passed is False] == ["reason"]


def test_a_better_challenger_needs_no_reason() -> None:
    targets = truth(1000)
    challenger = measured("challenger", wrong_at(targets, range(10)))
    champion = measured("champion", wrong_at(targets, range(40)))
    found = gate.judge(challenger, champion, targets)
    assert (found.verdict, found.reason) == ("promote", "It is better: 30 images gained, 0 lost, p = 9.3e-10.")


def test_which_causes_count_is_the_policys_choice() -> None:
    targets, challenger, champion = equals(1000, 20)
    policy = GatePolicy(causes=frozenset({"new_labels"}))
    assert gate.judge(challenger, champion, targets, policy, causes=frozenset({"new_labels"})).verdict == "promote"
    assert gate.judge(challenger, champion, targets, policy, causes=ASKED).verdict == "hold"


def test_the_same_arguments_give_the_same_verdict_and_it_survives_the_ledger() -> None:
    targets, challenger, champion = equals(700, 30)
    first, again = (gate.judge(challenger, champion, torch.from_numpy(targets), causes=ASKED) for _ in range(2))
    assert first == again
    stored = json.loads(json.dumps(first.as_dict(), allow_nan=False))
    assert Verdict.from_dict(stored) == Verdict.from_dict(first.as_dict())
    assert Verdict.from_dict(stored).reason == first.reason
    assert GatePolicy.from_dict(stored["numbers"]["policy"]) == GatePolicy()


# ---------------------------------------------------------------- too little, or worse


def test_a_hundred_images_are_too_few() -> None:
    targets, challenger, champion = equals(100, 5)
    found = gate.judge(challenger, champion, targets, causes=ASKED)
    assert found.verdict == "underpowered"
    assert "too few test images to tell (a has 10)" in found.reason


def test_a_hundred_images_are_enough_for_a_challenger_that_is_far_better() -> None:
    targets = truth(100)
    champion = measured("champion", wrong_at(targets, range(20)))
    assert gate.judge(measured("challenger", targets), champion, targets).verdict == "promote"


@pytest.mark.parametrize(("num", "margin"), [(2800, 0.01), (2799, 0.02), (700, 0.02), (699, 0.03), (0, 0.03)])
def test_the_margin_shrinks_with_the_number_of_images(num: int, margin: float) -> None:
    assert GatePolicy().margin(num) == margin


def test_a_challenger_that_is_worse_by_three_points_is_rejected() -> None:
    targets = truth(2000)
    challenger = measured("challenger", wrong_at(targets, range(0, 2000, 10 + 1)))
    found = gate.judge(challenger, measured("champion", wrong_at(targets, range(1, 600, 5))), targets, causes=ASKED)
    assert found.verdict == "reject"
    assert check(found, "non_inferiority").asks_for == "reject"
    assert found.reason.endswith("it is worse.")


def test_a_class_that_lost_thirty_points_is_named_though_all_in_all_it_is_better() -> None:
    targets = np.concatenate([np.zeros(40, dtype=np.int64), 1 + np.arange(1960) % 9])
    challenger = measured("challenger", wrong_at(targets, range(12)))
    champion = measured("champion", wrong_at(targets, range(1000, 1052)))
    found = gate.judge(challenger, champion, targets, causes=ASKED)
    assert challenger.logits.argmax(dim=1).eq(torch.from_numpy(targets)).double().mean() == pytest.approx(0.994)
    assert found.verdict == "reject"
    assert found.reason == "Significantly worse: a (recall -30 points on 40 images)."
    assert check(found, "classes").numbers["worse"] == ["a"]


def test_a_class_that_lost_a_little_is_a_warning() -> None:
    targets = truth(300)
    challenger = measured("challenger", wrong_at(targets, [0, 10, 20, 30]))
    champion = measured("champion", wrong_at(targets, [1, 2, 3, 4]))
    found = gate.judge(challenger, champion, targets, causes=ASKED)
    assert found.verdict == "promote"
    assert found.warnings == ("a lost 13 points of recall on 30 images.",)


def test_a_class_of_few_images_is_not_judged_on_its_own() -> None:
    targets = truth(190)
    challenger = measured("challenger", wrong_at(targets, range(0, 190, 10)))
    champion = measured("champion", wrong_at(targets, range(1, 190, 5)))
    found = check(gate.judge(challenger, champion, targets), "classes")
    assert (found.passed, found.numbers["num_judged"]) == (None, 0)


def test_poorer_scores_are_rejected_though_every_answer_is_the_same() -> None:
    targets, challenger, champion = equals(1000, 20)
    for temperature, verdict in [(1.0, "promote"), (1.05, "promote"), (2.0, "reject")]:
        found = gate.judge(replace(challenger, temperature=temperature), champion, targets, causes=ASKED)
        assert found.verdict == verdict
    assert found.reason.endswith("its scores are poorer.")


@pytest.mark.parametrize(
    ("now_s", "before_s", "verdict"),
    [(0.0109, 0.01, "promote"), (0.0112, 0.01, "hold"), (None, 0.01, "promote"), (0.5, None, "promote")],
)
def test_a_slower_challenger_is_held(now_s: float | None, before_s: float | None, verdict: str) -> None:
    targets, challenger, champion = equals(1000, 20)
    challenger = replace(challenger, seconds_per_image=now_s)
    champion = replace(champion, seconds_per_image=before_s)
    assert gate.judge(challenger, champion, targets, causes=ASKED).verdict == verdict


# ---------------------------------------------------------------- integrity


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_no_number_is_rejected(number: float) -> None:
    targets, challenger, champion = equals(1000, 20)
    challenger.logits[7, 3] = number
    found = gate.judge(challenger, champion, targets, causes=ASKED)
    assert (found.verdict, found.reason) == ("reject", "challenger gives logits or a temperature that are no numbers.")
    assert gate.judge(challenger, None, targets).verdict == "reject"


@pytest.mark.parametrize(
    "classes", [CLASSES[:9], ("b", "a", *CLASSES[2:]), ("new", *CLASSES)], ids=["lacks one", "reordered", "in front"]
)
def test_classes_must_be_the_champions_with_new_ones_behind(classes: tuple[str, ...]) -> None:
    targets = truth(1000, 9)
    challenger = measured("challenger", targets, classes)
    found = gate.judge(challenger, measured("champion", targets), targets, causes=ASKED)
    assert found.verdict == "reject"
    assert "lacks classes of champion, or has them in another order" in found.reason


def test_other_preprocessing_is_rejected_unless_the_policy_allows_it() -> None:
    targets, challenger, champion = equals(1000, 20, preprocess_digest="other pixels")
    assert gate.judge(challenger, champion, targets, causes=ASKED).verdict == "reject"
    policy = GatePolicy(must_share_preprocess=False)
    assert gate.judge(challenger, champion, targets, policy, causes=ASKED).verdict == "promote"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"test_digest": "other"}, "different test images"),
        ({"logits": torch.zeros(999, 10)}, r"gave \[999, 10\] logits for 1000 images"),
        ({"logits": torch.zeros(1000, 9)}, "10 classes"),
    ],
)
def test_what_was_not_measured_on_the_same_images_is_an_error(change: dict[str, object], sentence: str) -> None:
    targets, challenger, champion = equals(1000, 20)
    with pytest.raises(GateInvalid, match=sentence):
        gate.judge(challenger, replace(champion, **change), targets)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_is_an_error(label: int) -> None:
    targets, challenger, champion = equals(1000, 20)
    targets[5] = label
    with pytest.raises(GateInvalid, match="is no class"):
        gate.judge(challenger, champion, targets)


# ---------------------------------------------------------------- classes that come and go


def test_new_classes_are_a_reason_and_their_images_are_not_held_against_the_challenger() -> None:
    targets = truth(1000)
    challenger = measured("challenger", wrong_at(targets, [9, 0, 10]))
    champion = measured("champion", np.minimum(wrong_at(targets, [0, 20]), 4), CLASSES[:5])
    found = gate.judge(challenger, champion, targets)
    assert found.verdict == "promote"
    assert "asked for by new_class" in found.reason
    assert found.numbers["new_classes"] == list("fghij")
    assert found.numbers["new_recall"] == pytest.approx(1 - 1 / 500)
    assert found.numbers["num_compared"] == 500


def test_a_new_class_that_was_not_learned_is_no_reason() -> None:
    targets = truth(1000)
    challenger = measured("challenger", np.minimum(targets, 8))
    champion = measured("champion", np.minimum(targets, 8), CLASSES[:9])
    found = gate.judge(challenger, champion, targets)
    assert found.verdict == "hold"
    assert found.warnings == ("No test image of the new classes (j) is recognised.",)


def test_known_images_taken_for_a_new_class_are_counted_as_lost_and_warned_of() -> None:
    targets = truth(900, 9)
    answers = targets.copy()
    answers[:5] = 9
    found = gate.judge(measured("challenger", answers), measured("champion", targets, CLASSES[:9]), targets)
    assert found.warnings == ("5 images of known classes are now taken for a new one.",)
    assert check(found, "reason").numbers["lost"] == 5


def grown(num: int, taken: range) -> tuple[np.ndarray, Measured, Measured]:
    """Give labels 0 to 8, a challenger that takes some rows for class 9 and a champion that does not know it."""
    targets = truth(num, 9)
    logits = torch.nn.functional.one_hot(torch.from_numpy(targets), 10).float() * 4.0
    logits[list(taken), 9] = 5.0
    return targets, measured("challenger", targets, logits=logits), measured("champion", targets, CLASSES[:9])


def test_a_few_images_taken_for_a_new_class_keep_nobody_from_learning_it() -> None:
    targets, challenger, champion = grown(900, range(30))
    found = gate.judge(challenger, champion, targets)
    assert found.verdict == "promote"
    assert "Balanced accuracy among the classes that both know 1.000" in check(found, "non_inferiority").sentence
    assert found.warnings == ("30 images of known classes are now taken for a new one.",)


def test_a_new_class_that_swallows_the_known_ones_is_rejected_though_each_is_small() -> None:
    targets, challenger, champion = grown(171, range(0, 171, 5))
    found = gate.judge(challenger, champion, targets)
    assert found.verdict == "reject"
    assert found.reason == "Significantly worse: the known classes together (recall -20 points on 171 images)."


def test_without_an_image_of_a_class_that_both_know_nothing_can_be_said() -> None:
    targets = truth(400, 2) + 8
    challenger = measured("challenger", targets)
    found = gate.judge(challenger, measured("champion", np.zeros(400, dtype=int), CLASSES[:8]), targets)
    assert found.verdict == "underpowered"


def test_a_removed_class_is_a_masked_column_and_no_fault() -> None:
    targets, challenger, champion = equals(999, 20)
    kept = targets != 9
    logits = challenger.logits[kept].clone()
    logits[:, 9] = -torch.inf
    challenger = replace(challenger, logits=logits)
    champion = replace(champion, logits=champion.logits[kept])
    assert gate.judge(challenger, champion, targets[kept], causes=ASKED).verdict == "promote"
    targets[0] = 9
    with pytest.raises(GateInvalid, match="removed class"):
        gate.judge(challenger, champion, targets[kept])


# ---------------------------------------------------------------- the first version


@pytest.mark.parametrize(
    ("num", "num_wrong", "verdict"),
    [(200, 20, "promote"), (20, 3, "promote"), (4, 1, "underpowered"), (200, 180, "hold"), (200, 176, "underpowered")],
)
def test_the_first_version_must_beat_the_largest_class_with_confidence(num: int, num_wrong: int, verdict: str) -> None:
    targets = truth(num)
    found = gate.judge(measured("first", wrong_at(targets, range(num_wrong))), None, targets)
    assert (found.verdict, found.checks[-1].name) == (verdict, "majority")


def test_a_first_version_that_names_the_largest_class_has_learned_nothing() -> None:
    targets = np.array([0] * 90 + [1] * 10)
    found = gate.judge(measured("first", np.zeros(100, dtype=np.int64)), None, targets)
    assert found.verdict == "hold"
    assert found.reason == (
        "Accuracy 0.900 on 100 images, 0.836 at least (95% sure); always naming the largest class gives 0.900; "
        "it has learned nothing."
    )


def test_a_first_version_without_test_images_is_underpowered() -> None:
    assert gate.judge(measured("first", truth(0)), None, []).verdict == "underpowered"


# ---------------------------------------------------------------- the policy


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"alfa": 0.1}, "no setting 'alfa'; 'alpha'?"),
        ({"alpha": 0.7}, "alpha lies in"),
        ({"alpha": "high"}, "has no sense"),
        ({"margins": [[100, 0.02]]}, "from many images to 0"),
        ({"margins": [[0, 0.03], [700, 0.02]]}, "from many images to 0"),
        ({"margins": 3}, "has no sense"),
        ({"max_class_drop": -0.1}, "cannot be negative"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeInvalid, match=sentence.replace("?", r"\?")):
        GatePolicy.from_dict(given)


def test_a_policy_may_name_what_differs_only() -> None:
    policy = GatePolicy.from_dict({"margins": [[500, 0.01], [0, 0.05]], "causes": ["age"], "min_class": 30})
    assert policy == GatePolicy(margins=((500, 0.01), (0, 0.05)), causes=frozenset({"age"}), min_class=30)


# ---------------------------------------------------------------- how often it is wrong


@pytest.mark.parametrize("scene", simulation.SCENES, ids=lambda scene: f"{scene.name} ({scene.num_images})")
def test_in_a_simulation_the_gate_keeps_its_promises(scene: simulation.Scene) -> None:
    rounds = 100
    assert list(simulation.broken(scene, simulation.play(scene, rounds), rounds)) == []
