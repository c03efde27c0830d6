"""An average forgets where it began within the run; loosened weights keep what they should."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.learning import averages
from tests.pipeline.learning import trainees


def test_the_decay_warms_up_to_its_most() -> None:
    assert averages.decay(500, 0.998) == pytest.approx(0.9906, abs=5e-5)  # science.md 2.3
    assert averages.decay(1, 0.998) == pytest.approx(1 - 2**-0.75)
    assert averages.decay(10**6, 0.998) == 0.998


@pytest.mark.parametrize("num_steps", [10, 100, 500, 10_000])
def test_little_is_left_of_the_initial_weights(num_steps: int) -> None:
    assert averages.leftover(num_steps, 0.998) <= 0.05


@pytest.mark.parametrize(("decay", "left"), [(0.9999, 0.951), (0.999, 0.606)])
def test_a_constant_decay_would_not_forget_in_five_hundred_steps(decay: float, left: float) -> None:
    assert decay**500 == pytest.approx(left, abs=1e-3)
    assert averages.leftover(500, decay) <= 0.05  # as it warms up


def test_an_average_of_constant_weights_ends_at_those_weights() -> None:
    network, twin = trainees.network(seed=1), trainees.network(seed=0)
    begun = copy.deepcopy(twin)
    names = list(network.state_dict())
    average = averages.Average(network, twin, names, 0.998)
    for _ in range(500):
        average.update()
    assert average.num_steps == 500
    share = averages.leftover(500, 0.998)
    for name in ("0.weight", "11.weight"):
        ours, start, end = (one.state_dict()[name] for one in (twin, begun, network))
        assert torch.allclose(ours, start * share + end * (1 - share), atol=1e-5)


def test_statistics_are_averaged_too_and_counters_copied() -> None:
    network, twin = trainees.network(), trainees.network()
    average = averages.Average(network, twin, list(network.state_dict()), 0.5)
    network.train()
    network(torch.rand(4, 3, 16, 16))
    average.update()
    half = (1 - averages.decay(1, 0.5)) * network.state_dict()["1.running_mean"]
    assert torch.allclose(twin.state_dict()["1.running_mean"], half)
    assert twin.state_dict()["1.num_batches_tracked"] == 1


def test_only_what_is_named_is_averaged() -> None:
    network, twin = trainees.network(seed=1), trainees.network(seed=0)
    begun = copy.deepcopy(twin)
    averages.Average(network, twin, ["11.weight"], 0.9).update()
    assert torch.equal(twin.state_dict()["0.weight"], begun.state_dict()["0.weight"])
    assert not torch.equal(twin.state_dict()["11.weight"], begun.state_dict()["11.weight"])


# ---------------------------------------------------------------- shrink and perturb


def test_weights_are_loosened_and_biases_and_norms_stay() -> None:
    network = trainees.network()
    begun = copy.deepcopy(network)
    averages.shrink_perturb(network, list(network.state_dict()), keep=0.5, seed=0)
    new, old = network.state_dict(), begun.state_dict()
    for name in ("1.weight", "1.bias", "11.bias", "1.running_mean"):
        assert torch.equal(new[name], old[name])
    left = new["4.weight"] - 0.5 * old["4.weight"]
    assert float(left.std()) == pytest.approx(averages.PERTURB * float(old["4.weight"].std()), rel=0.1)


def test_the_same_seed_loosens_alike() -> None:
    networks = [trainees.network() for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        averages.shrink_perturb(network, list(network.state_dict()), keep=0.5, seed=seed)
    assert trainees.equal(networks[0], networks[1])
    assert not trainees.equal(networks[0], networks[2])


def test_statistics_are_measured_anew() -> None:
    network = trainees.network()
    batches = [torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    averages.refresh_statistics(network, batches)
    first = torch.stack([network[0](batch).mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    assert torch.allclose(network.state_dict()["1.running_mean"], first, atol=1e-5)
    assert network[1].momentum == 0.1
    assert network.training
