"""Takes nothing. Gives how often the gate is wrong, by simulating champions and challengers whose difference is known.

Knows nothing of training: a model here is the share of images on which it is right. `python -m bench.gate` prints the
table and ends with 1 where a promise is broken. Logits are drawn, the verdicts are the real ones of gate.judge.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.learning import gate

#: Share of images that the champion has right.
ACCURACY = 0.9
#: Logit of the answer; the others have 0.
LOGIT = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A champion, a challenger and what the gate may make of them."""

    name: str
    num_images: int
    #: Share of images that only one of the two has right.
    discordance: float
    #: Accuracy of the challenger minus that of the champion.
    difference: float
    num_classes: int = 10
    #: Images of class 0, and what is added to its difference; None: all classes are alike.
    rare: tuple[int, float] | None = None
    causes: frozenset[str] = frozenset({"drift"})
    #: Verdict -> largest share of it that is right.
    at_most: dict[str, float] = field(default_factory=dict)
    #: Verdict -> smallest.
    at_least: dict[str, float] = field(default_factory=dict)


NO_CAUSE: frozenset[str] = frozenset()
#: What this and, with fewer rounds, the tests hold the gate to.
SCENES = (
    Scene(
        name="equal, nothing asks for it",
        num_images=2000, discordance=0.1, difference=0, causes=NO_CAUSE, at_most={"promote": 0.05, "reject": 0.05},
    ),
    Scene(
        name="equal, nothing asks for it",
        num_images=1000, discordance=0.05, difference=0, causes=NO_CAUSE, at_most={"promote": 0.05, "reject": 0.05},
    ),
    Scene(
        name="equal, drift asks for it",
        num_images=2000, discordance=0.1, difference=0, at_most={"reject": 0.05}, at_least={"promote": 0.8},
    ),
    Scene(
        name="equal, many small classes",
        num_images=2000, discordance=0.1, difference=0, num_classes=40, at_most={"reject": 0.05},
    ),
    Scene(name="3 points worse", num_images=2000, discordance=0.1, difference=-0.03, at_most={"promote": 0.01}),
    Scene(name="worse by the margin", num_images=300, discordance=0.05, difference=-0.03, at_most={"promote": 0.05}),
    Scene(name="worse by the margin", num_images=1000, discordance=0.05, difference=-0.02, at_most={"promote": 0.05}),
    Scene(name="worse by the margin", num_images=2000, discordance=0.1, difference=-0.02, at_most={"promote": 0.05}),
    Scene(name="worse by the margin", num_images=5000, discordance=0.05, difference=-0.01, at_most={"promote": 0.05}),
    Scene(
        name="better, but one class of 40 is 30 points worse",
        num_images=2000, discordance=0.1, difference=0.02, rare=(40, -0.32), at_most={"promote": 0.05},
        at_least={"reject": 0.9},
    ),
    Scene(
        name="equal, too few images",
        num_images=100, discordance=0.1, difference=0, at_most={"promote": 0.05, "reject": 0.05},
        at_least={"underpowered": 0.9},
    ),
    Scene(name="2 points better", num_images=2000, discordance=0.1, difference=0.02, causes=NO_CAUSE,
          at_least={"promote": 0.8}),
)  # fmt: skip


def main() -> int:
    """Play every scene and print what the gate made of it."""
    from worker.cli import output  # the tests play scenes too, and need no terminal

    parser = argparse.ArgumentParser(prog="bench.gate", description="Simulate how often the gate is wrong.")
    parser.add_argument("--rounds", type=int, default=1000, help="bouts of each scene")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    started_s = time.perf_counter()
    played = [(scene, play(scene, rounds)) for scene in SCENES]
    output.table(
        f"The gate, {rounds} bouts each",
        ("challenger", "images", "differing", "promote", "hold", "reject", "underpowered", "promised"),
        (
            (scene.name, scene.num_images, f"{scene.discordance:.0%}",
             *(f"{shares[outcome]:.1%}" for outcome in ("promote", "hold", "reject", "underpowered")),
             "; ".join(broken(scene, shares, rounds)) or "kept")
            for scene, shares in played
        ),
    )  # fmt: skip
    output.console().print(f"{time.perf_counter() - started_s:.0f} s")
    return int(any(list(broken(scene, shares, rounds)) for scene, shares in played))


def play(scene: Scene, rounds: int, seed: int = 0) -> dict[str, float]:
    """Give the share of each verdict over so many bouts."""
    generator = np.random.default_rng(seed)
    verdicts = Counter(judged(scene, generator, number).verdict for number in range(rounds))
    return {outcome: verdicts[outcome] / rounds for outcome in gate.GRAVITY}


def broken(scene: Scene, shares: dict[str, float], rounds: int) -> Iterator[str]:
    """Say which promises the shares break, by more than twice the simulation's own error."""
    for outcome, limit in scene.at_most.items():
        if shares[outcome] > limit + 2 * (limit * (1 - limit) / rounds) ** 0.5:
            yield f"{outcome} is more than {limit:.0%}"
    for outcome, limit in scene.at_least.items():
        if shares[outcome] < limit - 2 * (limit * (1 - limit) / rounds) ** 0.5:
            yield f"{outcome} is less than {limit:.0%}"


def judged(scene: Scene, generator: np.random.Generator, seed: int) -> gate.Verdict:
    """Draw one test set with the answers of both, and judge it."""
    num, targets = scene.num_images, _targets(scene)
    differences = np.full(num, scene.difference)
    if scene.rare:
        differences[targets == 0] += scene.rare[1]
    discordance = np.maximum(scene.discordance, np.abs(differences))
    lost, gained = (discordance - differences) / 2, (discordance + differences) / 2
    drawn = generator.random(num)
    is_lost, is_gained = drawn < lost, (drawn >= lost) & (drawn < discordance)
    is_both = (drawn >= discordance) & (drawn < gained + ACCURACY)
    wrong = (targets + generator.integers(1, scene.num_classes, num)) % scene.num_classes
    champion = _measured("champion", np.where(is_lost | is_both, targets, wrong), scene.num_classes)
    challenger = _measured("challenger", np.where(is_gained | is_both, targets, wrong), scene.num_classes)
    return gate.judge(challenger, champion, targets, causes=scene.causes, seed=seed)


def _targets(scene: Scene) -> np.ndarray:
    if not scene.rare:
        return np.arange(scene.num_images) % scene.num_classes
    rest = np.arange(scene.num_images - scene.rare[0]) % (scene.num_classes - 1) + 1
    return np.concatenate([np.zeros(scene.rare[0], dtype=np.int64), rest])


def _measured(version: str, answers: np.ndarray, num_classes: int) -> gate.Measured:
    logits = torch.nn.functional.one_hot(torch.from_numpy(answers), num_classes).float() * LOGIT
    return gate.Measured(
        version=version,
        classes=tuple(map(str, range(num_classes))),
        logits=logits,
        temperature=1.0,
        test_digest="the same",
        preprocess_digest="the same",
    )


if __name__ == "__main__":
    sys.exit(main())
