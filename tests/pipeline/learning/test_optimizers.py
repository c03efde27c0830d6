"""Optimizers are named as torch names them; each parameter learns at the rate of its depth, each step at its share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.errors import RecipeInvalid
from pipeline.learning import layers, optimizers
from tests.pipeline.learning import trainees


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_that_may_be_named_takes_steps(name: str) -> None:
    network = trainees.network()
    recipe = trainees.settled(optimizer=name, learning_rate=0.01)
    optimizer = optimizers.build(network, layers.layers(network, trainees.SIZE), recipe)
    assert type(optimizer).__name__ == name
    before = [parameter.detach().clone() for parameter in network.parameters()]
    torch.autograd.backward(network(torch.ones(2, 3, trainees.SIZE, trainees.SIZE)).square().sum())
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_the_usual_optimizers_are_offered() -> None:
    assert {"SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"} <= set(optimizers.names())


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("Adamw", {}, "did you mean AdamW?"),
        ("sgd", {}, "did you mean SGD?"),
        ("Zzz", {}, "it has"),
        ("Optimizer", {}, "no optimizer 'Optimizer'"),
        ("LBFGS", {}, "again and again"),
        ("SparseAdam", {}, "sparse gradients"),
        ("Muon", {}, "matrices only"),
        ("SGD", {"momentun": 0.9}, "did you mean momentum?"),
        ("SGD", {"beta": 0.9}, "it takes"),
        ("SGD", {"lr": 0.9}, "takes no option 'lr'"),
        ("SGD", {"maximize": True}, "takes no option 'maximize'"),
        ("SGD", {"nesterov": True}, "cannot be made"),
        ("Adam", {"betas": (2.0, 0.9)}, "cannot be made"),
        ("Adam", {"betas": "fast"}, "cannot be made"),
    ],
    ids=str,
)
def test_what_torch_does_not_offer_is_refused(name: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeInvalid) as refused:
        optimizers.check_optimizer(name, options)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("name", "options"), [("auto", {}), ("SGD", {"momentum": 0.9, "nesterov": True})], ids=str)
def test_what_torch_offers_is_taken(name: str, options: dict[str, object]) -> None:
    optimizers.check_optimizer(name, options)


def test_every_parameter_that_trains_is_in_one_group_with_the_recipes_numbers() -> None:
    network = trainees.network()
    parts = layers.layers(network, trainees.SIZE)
    recipe = trainees.settled(learning_rate=0.4, backbone_scale=0.1, weight_decay=0.01)
    groups = optimizers.build(network, parts, recipe).param_groups
    listed = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in listed} == {id(parameter) for parameter in network.parameters()}
    assert len(listed) == len(list(network.parameters()))
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    for name, parameter in network.named_parameters():
        rate = 0.4 if name.startswith(parts.head) else 0.04
        decay = 0.01 if parameter.ndim > 1 else 0.0
        assert found[id(parameter)] == pytest.approx((rate, decay)), name


def test_rates_fall_by_a_quarter_with_every_layer_below_the_head() -> None:
    wide = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    network = nn.Sequential(*wide)
    parts = layers.layers(network, trainees.SIZE)
    recipe = trainees.settled(learning_rate=0.64, backbone_scale=1.0, layer_decay=0.75, weight_decay=0.0)
    groups = optimizers.build(network, parts, recipe).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    of = {name: rates[id(parameter)] for name, parameter in network.named_parameters()}
    assert (of["5.weight"], of["2.weight"], of["0.weight"]) == pytest.approx((0.64, 0.48, 0.36))


def test_what_is_frozen_is_in_no_group() -> None:
    network = trainees.network()
    parts = layers.layers(network, trainees.SIZE)
    layers.freeze(network, parts, "head")
    groups = optimizers.build(network, parts, trainees.settled(strategy="head")).param_groups
    assert sum(len(group["params"]) for group in groups) == 2


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("cosine", {10: 1.0, 32.5: 0.8535534, 55: 0.5, 99: 0.0003046}),
        ("linear", {10: 1.0, 55: 0.5, 99: 1 / 90}),
        ("constant", {10: 1.0, 99: 1.0}),
        ("step", {10: 1.0, 29: 1.0, 30: 0.1, 59: 0.1, 60: 0.01, 90: 0.001, 99: 0.001}),
    ],
)
def test_rates_follow_the_schedule(name: str, at: dict[float, float]) -> None:
    schedule = optimizers.schedule(trainees.settled(schedule=name), 100)
    assert schedule.num_warmup == 10
    assert [schedule.scale(step) for step in range(10)] == pytest.approx([(step + 1) / 11 for step in range(10)])
    for step, scale in at.items():
        assert schedule.scale(step) == pytest.approx(scale, rel=1e-4), step  # type: ignore[arg-type]


def test_warm_up_takes_two_hundred_steps_at_most() -> None:
    assert optimizers.schedule(trainees.settled(), 10_000).num_warmup == 200
    assert optimizers.schedule(trainees.settled(warmup_share=0), 10_000).num_warmup == 0
    assert all(math.isfinite(optimizers.schedule(trainees.settled(), 1).scale(step)) for step in range(2))


def test_the_scale_is_of_each_groups_own_peak() -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.01)])
    optimizers.set_scale(optimizer, [0.1, 0.01], 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])
