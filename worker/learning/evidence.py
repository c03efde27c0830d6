"""Takes a plan as its run's row has it. Gives it as the page shows it: the cell, the decision, each number's meaning.

Knows nothing of how it was measured.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.learning import report


def plan_of(planned: Mapping[str, Any]) -> report.PlanFacts:
    """Give the plan's section of a page."""
    plan = planned["plan"]
    trained = {"head": "the head alone", "last_stage": "the last stage and the head", "all": "all layers"}
    rivals = " or ".join(trained[strategy] for strategy in plan["candidates"])
    return report.PlanFacts(
        amount=plan["amount"],
        likeness=plan["likeness"],
        cell=plan["cell"],
        lecture=plan["lecture"],
        decision=f"train {rivals}" if rivals else "do not train",
        is_recommended=plan["is_recommended"],
        reasons=(*plan["reasons"], planned["labels_needed"]),
        instead=tuple(plan["instead"]),
        evidence=tuple(_evidence(planned)),
        curve=_curve(planned["curve"]) if planned["curve"] else None,
    )


def _evidence(planned: Mapping[str, Any]) -> Iterator[report.Evidence]:
    found, thresholds = planned["similarity"], planned["thresholds"]
    marks = (thresholds["dissimilar"], thresholds["similar"])
    for shots in found["shots"]:
        yield report.Evidence(
            name=f"{shots['num']}-shot score",
            value=f"{shots['mean']:.2f} ± {shots['std']:.2f}",
            meaning="how well so few labels per class tell the classes apart; 0 is chance, 1 perfect",
            level=shots["mean"],
            marks=marks if shots["num"] == found["score_shots"] else (),
        )
    for name, value, meaning in (
        ("nearest neighbours", found["knn"], "balanced accuracy, each image by those most like it"),
        ("chance", found["null_q95"], "what nearest neighbours reach with shuffled labels, 95th percentile"),
        ("ridge regression", found["ridge"], "balanced accuracy of a linear model, cross-validated"),
        ("untrained backbone", found["control_random"], "the few-shot score without pretraining"),
        ("colour histograms", found["control_histogram"], "the few-shot score of colours alone"),
    ):
        if value is not None:
            yield report.Evidence(name=name, value=f"{value:.2f}", meaning=meaning, level=value)
    yield report.Evidence(name="LogME", value=f"{found['logme']:.3f}", meaning="a diagnostic; nothing is decided by it")
    yield report.Evidence(
        name="training images",
        value=f"{planned['num_train']:,}",
        meaning=f"{planned['num_per_class']:g} of the median class",
    )


def _curve(curve: Mapping[str, Any]) -> report.LearningCurve:
    needed, law = curve["needed"], curve["law"]
    return report.LearningCurve(
        points=tuple((point["num"], point["error"]) for point in curve["points"]),
        a=law["floor"],
        b=law["scale"],
        c=law["exponent"],
        target=curve["target_error"],
        # Without an upper end there is no interval to draw; the plan's last sentence says so.
        needed=(needed["num"], needed["low"], needed["high"]) if needed and needed["high"] else None,
    )
