"""Takes what a person wrote about how to train, most of it left open.

Gives a recipe that makes sense, and, for so much data and such a network, the settled recipe with nothing left open.
Knows nothing of torch: the scheduler reads recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from pipeline.learning import rules

Kind = Literal["convolution", "transformer"]
Strategy = Literal["head", "last_stage", "all"]

# The numbers of science.md 2.3: a recipe table for small budgets, from TLL, timm, BiT and Kumar et al. 2022.

#: learning rate of SGD, and of optimizers that scale their steps. TLL has 0.01 for a new head and a tenth of it for
#: the backbone; our head is solved before the backbone trains, so the backbone is what has to move. Measured with
#: mobilenet_v2 at 96 pixels, whole network, rate x share for the backbone of 0.01 x 0.1, 0.01 x 1 and 0.02 x 1:
#: sign-digits10, 50 a class, 6 epochs, from 0.82: 0.82, 0.93, 0.98; trashnet6, all, 8 epochs, from 0.60: 0.60, 0.66,
#: 0.67.
SGD_RATE, ADAPTIVE_RATE = 0.02, 1e-4
#: images from which label smoothing is worth its bias, and classes
SMOOTHED_NUM, SMOOTHED_CLASSES, SMOOTHING = 2_000, 10, 0.1
#: images from which mixup helps (BiT HyperRule: none below 20 thousand, 0.1 above)
MIXED_NUM, MIXUP = 20_000, 0.1
#: images above which TrivialAugment is taken
TRIVIAL_NUM = 5_000
#: images, and images a batch, from which BatchNorm's statistics can be trusted to training batches
BATCH_NORM_NUM, BATCH_NORM_BATCH = 5_000, 32
#: gamma of the focal loss (Lin et al. 2017)
FOCAL_GAMMA = 2.0
#: epochs at least and at most, whatever the budget of samples says
LEAST_EPOCHS, MOST_EPOCHS = 10, 100
#: most decay of the moving average of weights; it warms up (averages.decay)
EMA = 0.998
#: epochs without a better one, at least, before a run ends early: the last epochs of a falling rate gain the most
LEAST_PATIENCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train, as far as a person cares to say; "auto" or None means: decide from the data."""

    #: what trains beside the head: nothing, the units at the lowest resolution, everything
    strategy: str = "auto"
    #: whose backbone training starts from
    start: str = "pretrained"
    #: share of the champion's weights that is kept, the rest is noise (Ash & Adams 2020); None: all of it
    shrink_perturb: float | None = None
    loss: str = "cross_entropy"
    #: how much the focal loss forgives what is nearly right; None: 2
    focal_gamma: float | None = None
    #: share of the target given to all classes alike
    label_smoothing: float | None = None
    #: alpha of mixup's Beta distribution; 0: none
    mixup: float | None = None
    #: name of a class of torch.optim
    optimizer: str = "auto"
    #: further arguments of that class
    optimizer_options: Mapping[str, float | bool | str | tuple[float, ...]] = field(default_factory=dict)
    #: of the head
    learning_rate: float | None = None
    #: the backbone's learning rate, as a multiple of the head's
    backbone_scale: float | None = None
    #: not for biases and one-dimensional parameters
    weight_decay: float | None = None
    #: learning rate of each unit, as a multiple of that of the unit above it
    layer_decay: float | None = None
    schedule: str = "cosine"
    #: share of the steps in which the learning rate rises, 200 steps at most
    warmup_share: float = 0.1
    #: None: as many as the budget of samples allows
    epochs: int | None = None
    #: images seen in training, over all epochs
    budget_samples: int = 64_000
    #: images per step
    batch_size: int = 64
    #: largest norm of the gradient; 0: no limit
    gradient_clip: float = 1.0
    #: moving average of the weights: "auto", "off" or the most decay
    ema: str | float = "auto"
    #: whether BatchNorm keeps its statistics, or takes each batch's
    batch_norm: str = "auto"
    augmentation: str = "auto"
    #: whether a mirrored image is of the same class: not so for digits, letters, arrows, hands
    horizontal_flip: bool = False
    #: refit of the classifier on balanced weights, nothing, or priors inside the loss (Menon et al. 2021)
    imbalance: str = "balance"
    precision: str = "auto"
    #: epochs without a better one before training ends; 0: never; None: half of all
    patience: int | None = None
    #: what the best epoch is best in, on the validation images
    metric: str = "balanced_accuracy"
    #: training accuracy minus validation accuracy, above which a run that gained nothing has memorised
    memorisation_gap: float = 0.25
    #: processes that train together (DDP), one per device
    num_processes: int = 1

    def __post_init__(self) -> None:
        rules.check(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> Recipe:
        """Read JSON or TOML values, "auto" wherever a field may be left open; raise RecipeInvalid."""
        rules.check_fields(given, [entry.name for entry in fields(cls)])
        values = {name: None if name in rules.OPEN and value == "auto" else value for name, value in given.items()}
        return cls(**{name: _tupled(value) for name, value in values.items()})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return _as_json(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A recipe for so many images of so many classes, with nothing left open but the device's own precision."""

    strategy: str
    loss: str
    focal_gamma: float
    label_smoothing: float
    mixup: float
    optimizer: str
    optimizer_options: Mapping[str, float | bool | str | tuple[float, ...]]
    learning_rate: float
    backbone_scale: float
    weight_decay: float
    layer_decay: float
    schedule: str
    warmup_share: float
    epochs: int
    batch_size: int
    gradient_clip: float
    #: most decay; None: no average
    ema: float | None
    batch_norm: str
    augmentation: str
    horizontal_flip: bool
    imbalance: str
    #: "auto" is bf16 where the device computes in it, else fp32
    precision: str
    patience: int
    metric: str
    memorisation_gap: float
    num_processes: int

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> Settled:
        """Read what `as_dict` gave."""
        return cls(**{name: _tupled(value) for name, value in given.items()})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return _as_json(asdict(self))


def settle(recipe: Recipe, *, num_train: int, num_classes: int, kind: Kind, strategy: Strategy) -> Settled:
    """Decide what the recipe leaves open, for so many training images; science.md 2.3 has the table."""
    is_large, epochs = num_train >= SMOOTHED_NUM and num_classes >= SMOOTHED_CLASSES, _epochs(recipe, num_train)
    optimizer = _optimizer(recipe, kind)
    is_sgd = optimizer == "SGD"
    return Settled(
        strategy=strategy,
        loss=recipe.loss,
        focal_gamma=_given(recipe.focal_gamma, FOCAL_GAMMA),
        label_smoothing=_given(recipe.label_smoothing, SMOOTHING if is_large and recipe.loss != "bce" else 0.0),
        mixup=_given(recipe.mixup, MIXUP if num_train >= MIXED_NUM else 0.0),
        optimizer=optimizer,
        optimizer_options=_optimizer_options(recipe, optimizer),
        learning_rate=_given(recipe.learning_rate, SGD_RATE if is_sgd else ADAPTIVE_RATE),
        backbone_scale=_given(recipe.backbone_scale, 1.0),
        weight_decay=_given(recipe.weight_decay, 5e-4 if is_sgd else 0.05),
        layer_decay=_given(recipe.layer_decay, 1.0 if kind == "convolution" else 0.75),
        schedule=recipe.schedule,
        warmup_share=recipe.warmup_share,
        epochs=epochs,
        batch_size=min(recipe.batch_size, max(1, num_train)),
        gradient_clip=recipe.gradient_clip,
        ema=_ema(recipe.ema),
        batch_norm=_batch_norm(recipe, num_train),
        augmentation=_augmentation(recipe, num_train),
        horizontal_flip=recipe.horizontal_flip,
        imbalance=recipe.imbalance,
        precision=recipe.precision,
        patience=recipe.patience if recipe.patience is not None else max(LEAST_PATIENCE, epochs // 2),
        metric=recipe.metric,
        memorisation_gap=recipe.memorisation_gap,
        num_processes=recipe.num_processes,
    )


# ---------------------------------------------------------------- settling


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _epochs(recipe: Recipe, num_train: int) -> int:
    if recipe.epochs is not None:
        return recipe.epochs
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, round(recipe.budget_samples / max(1, num_train))))


def _optimizer(recipe: Recipe, kind: Kind) -> str:
    if recipe.optimizer != "auto":
        return recipe.optimizer
    return "SGD" if kind == "convolution" else "AdamW"


def _optimizer_options(recipe: Recipe, optimizer: str) -> Mapping[str, float | bool | str | tuple[float, ...]]:
    if optimizer == "SGD" and not recipe.optimizer_options:
        return {"momentum": 0.9, "nesterov": True}
    return recipe.optimizer_options


def _ema(setting: str | float) -> float | None:
    if setting == "off":
        return None
    return EMA if isinstance(setting, str) else float(setting)


def _batch_norm(recipe: Recipe, num_train: int) -> str:
    if recipe.batch_norm != "auto":
        return recipe.batch_norm
    is_enough = num_train >= BATCH_NORM_NUM and recipe.batch_size >= BATCH_NORM_BATCH
    return "train" if is_enough else "frozen"


def _augmentation(recipe: Recipe, num_train: int) -> str:
    if recipe.augmentation != "auto":
        return recipe.augmentation
    return "trivial" if num_train > TRIVIAL_NUM else "crop_flip"


# ---------------------------------------------------------------- JSON


def _tupled(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _tupled(entry) for name, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _as_json(values: dict[str, object]) -> dict[str, object]:
    options = values["optimizer_options"]
    listed = {name: list(entry) if isinstance(entry, tuple) else entry for name, entry in dict(options).items()}  # type: ignore[call-overload]
    return {**values, "optimizer_options": listed}
