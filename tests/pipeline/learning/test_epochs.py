"""Which epoch is best, and when to stop, are rules over what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pipeline.learning import epochs
from pipeline.learning.epochs import Epoch
from tests.pipeline.learning import trainees

#: training accuracy, validation accuracy, validation NLL
Row = tuple[float, float, float]


def history(rows: Sequence[Row], loss: Callable[[int], float] = lambda number: 1 / number) -> list[Epoch]:
    return [
        Epoch(
            number=number,
            train_loss=loss(number) if number else None,
            train_accuracy=train if number else None,
            val_nll=nll,
            val_accuracy=accuracy,
            val_balanced_accuracy=accuracy,
            val_macro_f1=accuracy,
            learning_rate=0.1,
            seconds=1.0,
            images_per_s=9.0,
            batch_size=16,
        )
        for number, (train, accuracy, nll) in enumerate(rows)
    ]


@pytest.mark.parametrize("metric", ["balanced_accuracy", "accuracy", "macro_f1"])
def test_the_best_epoch_has_the_best_metric_then_the_lowest_nll_then_comes_first(metric: str) -> None:
    assert (
        epochs.best(history([(0, 0.6, 1.0), (0, 0.8, 1.0), (0, 0.8, 0.9), (0, 0.8, 0.9), (0, 0.7, 0.1)]), metric) == 2
    )


def test_by_nll_the_lowest_is_best() -> None:
    assert epochs.best(history([(0, 0.6, 1.0), (0, 0.8, 1.0), (0, 0.5, 0.4)]), "nll") == 2


ENDINGS: dict[str, tuple[list[Row], str | None]] = {
    "learning": ([(0, 0.5, 1.0), (0.5, 0.6, 0.9), (0.6, 0.7, 0.8), (0.7, 0.8, 0.7), (0.8, 0.85, 0.6)], None),
    "apart": ([(0, 0.5, 1.0), (0.5, 0.5, 1.0), (0.8, 0.5, 1.0), (0.9, 0.5, 1.0), (1.0, 0.5, 1.0)], "memorised"),
    "apart twice": ([(0, 0.5, 1.0), (0.5, 0.5, 1.0), (0.7, 0.5, 1.0), (0.9, 0.5, 1.0), (1.0, 0.5, 1.0)], None),
    "rising": ([(0, 0.5, 1.0), (0.5, 0.5, 1.0), (0.5, 0.5, 1.1), (0.5, 0.5, 1.2), (0.5, 0.5, 1.3)], "memorised"),
    "rising twice": ([(0, 0.5, 1.0), (0.5, 0.5, 1.2), (0.5, 0.5, 1.1), (0.5, 0.5, 1.2), (0.5, 0.5, 1.3)], None),
    # Accuracy 0.5 on 100 images has a standard error of 0.05.
    "gained": ([(0, 0.5, 1.0), (0.5, 0.56, 1.0), (0.9, 0.56, 1.1), (1.0, 0.5, 1.2), (1.0, 0.5, 1.3)], None),
    "hardly gained": (
        [(0, 0.5, 1.0), (0.5, 0.54, 1.0), (0.9, 0.5, 1.1), (1.0, 0.5, 1.2), (1.0, 0.5, 1.3)],
        "memorised",
    ),
    "still gaining": ([(0, 0.5, 1.0), (0.5, 0.5, 1.0), (0.9, 0.5, 1.1), (1.0, 0.5, 1.2), (1.0, 0.54, 1.3)], None),
    # The head itself knew its few images by heart.
    "apart from the start": ([(0, 0.6, 1.0), (1.0, 0.6, 1.0), (1.0, 0.6, 1.0), (1.0, 0.6, 1.0), (1.0, 0.6, 1.0)], None),
    "stale": ([(0, 0.5, 1.0), (0.5, 0.8, 0.5), *[(0.6, 0.7, 0.6)] * 6], "early"),
    "nearly stale": ([(0, 0.5, 1.0), (0.5, 0.8, 0.5), *[(0.6, 0.7, 0.6)] * 5], None),
    "nothing yet": ([(0, 0.5, 1.0)], None),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_run_ends_when_it_should(name: str) -> None:
    rows, expected = ENDINGS[name]
    recipe = trainees.settled(patience=6)
    assert epochs.ending(history(rows), recipe, num_val=100, num_warmup_epochs=0) == expected


def test_a_rate_that_is_too_high_for_a_while_is_no_memorising() -> None:
    rows, _ = ENDINGS["rising"]
    told = epochs.ending(history(rows, loss=float), trainees.settled(patience=6), num_val=100, num_warmup_epochs=0)
    assert told is None


def test_no_alarm_before_the_rate_has_risen() -> None:
    rows, _ = ENDINGS["apart"]
    recipe = trainees.settled(patience=0)
    assert epochs.ending(history(rows), recipe, num_val=100, num_warmup_epochs=2) is None
    assert epochs.ending(history([*rows, rows[-1]]), recipe, num_val=100, num_warmup_epochs=2) == "memorised"


def test_patience_zero_waits_to_the_end() -> None:
    rows = [(0.0, 0.5, 1.0), (0.5, 0.8, 0.5), *[(0.6, 0.7, 0.6)] * 50]
    assert epochs.ending(history(rows), trainees.settled(patience=0), num_val=100, num_warmup_epochs=0) is None


def test_by_nll_a_gain_is_two_hundredths_of_a_nat() -> None:
    recipe = trainees.settled(patience=0, metric="nll")
    for nll, expected in ((0.99, "memorised"), (0.97, None)):
        rows = [(0.0, 0.5, 1.0), (0.5, 0.5, nll), (0.9, 0.5, 1.1), (1.0, 0.5, 1.2), (1.0, 0.5, 1.3)]
        assert epochs.ending(history(rows), recipe, num_val=100, num_warmup_epochs=0) == expected
