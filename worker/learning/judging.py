"""Takes the trained network. Gives a registered version, the gate's verdict on it, and the serving pointer moved.

Knows nothing of training. What belongs together is written together: a verdict with the promotion that rests on it.
"""

import logging
import time
from dataclasses import dataclass

from sqlalchemy.orm import Session
from torch import Tensor

from db import errors as db_errors
from db import gates, live_checks, registry, runs, session
from pipeline import checkpoints, failpoints, state_dicts
from pipeline.learning import abstention, evaluation, gate
from pipeline.learning.gate import GatePolicy, Verdict
from worker import versions
from worker.learning import answers, scores, timing
from worker.learning.answers import Answers
from worker.learning.material import Material, targets_of
from worker.learning.trials import Trial
from worker.learning.watch import Cancelled, Watch
from worker.learning.workshop import Workshop
from worker.playbook import Playbook

log = logging.getLogger(__name__)

#: looks at a serving pointer that somebody else keeps moving
MOST_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The challenger's checkpoint, and its metrics on the test images."""

    saved: checkpoints.Saved
    metrics: evaluation.Metrics


def evaluate(workshop: Workshop, watch: Watch, material: Material, trial: Trial, playbook: Playbook) -> Evaluated:
    """Measure the trained network on the test images and save it as a checkpoint, with all that proves it.

    The temperature comes from the validation images, and the abstention threshold from the test images, which its
    guarantee wants to be neither those of training nor of the temperature.
    """
    start, classes = material.start, material.snapshot.classes
    temperature = evaluation.fit_temperature(trial.val_logits, material.val.targets)
    logits, kept = answers.logits_of(
        workshop, watch.pace, trial.network, start.layers, start.preprocess, material.test.examples
    )
    targets = targets_of(classes, kept)
    metrics = evaluation.measure(logits, targets, classes, temperature=temperature, masked=material.masked)
    threshold = _abstain_below(evaluation.mask(logits, material.masked), targets, temperature, playbook.target_risk)
    draft = checkpoints.Draft(
        arch=start.loaded.card.arch,
        arch_options=start.loaded.card.arch_options,
        classes=classes,
        preprocess=start.preprocess,
        temperature=temperature,
        metrics=_in_short(metrics, threshold),
        snapshot=material.snapshot.digest(),
        parent=start.version.name,
        frozen=trial.frozen,
        frozen_sha256=state_dicts.digest(start.loaded.network.state_dict(), trial.frozen) if trial.frozen else None,
        masked=material.snapshot.removed,
        abstain_below=threshold,
    )
    saved = checkpoints.save(trial.network, draft, workshop.store, now_s=time.time())
    scores.keep(workshop.store, saved.sha256, evaluation.probabilities(logits, temperature))
    return Evaluated(saved=saved, metrics=metrics)


def enter(workshop: Workshop, watch: Watch, evaluated: Evaluated, base: registry.Version) -> registry.Version:
    """Enter the checkpoint in the registry and in the run, together. Raises `RunLost`."""
    run = watch.run
    new = versions.new_version(run.model, evaluated.saved, source="run", parent_id=base.id)
    failpoints.reach("before_register")
    with session.transaction(workshop.sessions) as transaction:
        if run.version_id is not None:  # a worker that died right after it
            return registry.by_id(transaction, run.version_id)
        version = registry.register(transaction, new)
        runs.note(transaction, run.id, run.fence, version_id=version.id)
    return version


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdict, its record, and whether the challenger serves now."""

    verdict: Verdict
    gate_id: int
    is_promoted: bool
    champion: str | None


def judge(
    workshop: Workshop, watch: Watch, material: Material, challenger: registry.Version, playbook: Playbook
) -> Judged:
    """Compare with what serves now, record the verdict, and promote if it says so: all in one transaction.

    A pointer that somebody moves meanwhile is a new champion to be compared with. Raises `RunLost`, `Cancelled`,
    `GateInvalid`, `RecipeInvalid` (the policy) and `ServingChanged` if it does not come to rest.
    """
    policy = GatePolicy.from_dict(playbook.gate)
    checkpoints.verify(challenger.reference, challenger.sha256)
    ours = answers.answers(workshop, watch.pace, challenger, material.test.examples)
    for attempt in range(MOST_TRIES):
        with session.reading(workshop.sessions) as reading:
            serving = registry.serving(reading, watch.run.model)
            recorded = gates.by_run(reading, watch.run.id)
        if recorded is not None:  # by a worker that died right after it
            return _recalled(recorded)
        verdict = _compare(workshop, watch, material, ours, challenger, serving, policy)
        try:
            return _record(workshop, watch, challenger, serving, verdict, playbook)
        except db_errors.ServingChanged:
            log.warning("the champion of %s changed during the comparison (%s)", watch.run.model, attempt + 1)
    raise db_errors.ServingChanged


def _recalled(recorded: gates.Gate) -> Judged:
    return Judged(
        verdict=Verdict.from_dict(recorded.numbers),
        gate_id=recorded.id,
        is_promoted=recorded.verdict == "promote",
        champion=recorded.champion,
    )


def _compare(
    workshop: Workshop,
    watch: Watch,
    material: Material,
    ours: Answers,
    challenger: registry.Version,
    serving: registry.Serving | None,
    policy: GatePolicy,
) -> Verdict:
    theirs = answers.answers(workshop, watch.pace, serving.version, ours.examples) if serving else None
    taken = timing.seconds_per_image(workshop, challenger, serving.version) if serving else (None, None)
    targets = targets_of(material.snapshot.classes, ours.examples)
    return gate.judge(
        ours.measured(material.snapshot, seconds_per_image=taken[0]),
        theirs.measured(material.snapshot, seconds_per_image=taken[1]) if theirs else None,
        targets,
        policy,
        causes=frozenset(watch.run.causes),
        seed=watch.run.seed,
    )


def _record(
    workshop: Workshop,
    watch: Watch,
    challenger: registry.Version,
    serving: registry.Serving | None,
    verdict: Verdict,
    playbook: Playbook,
) -> Judged:
    run = watch.run
    is_promoted = verdict.verdict == "promote"
    new = gates.NewGate(
        run_id=run.id,
        challenger_id=challenger.id,
        champion_id=serving.version.id if serving else None,
        test_digest=verdict.numbers["test_digest"],
        verdict=verdict.verdict,
        reason=verdict.reason,
        numbers=verdict.as_dict(),
    )
    failpoints.reach("before_promote")
    with session.transaction(workshop.sessions) as transaction:
        _refuse_if_stopped(transaction, run)
        recorded = gates.record(transaction, new)
        if is_promoted:
            _promote(transaction, run, challenger, serving, verdict, recorded.id, playbook)
        failpoints.reach("mid_promote")
    failpoints.reach("after_promote")
    return Judged(
        verdict=verdict,
        gate_id=recorded.id,
        is_promoted=is_promoted,
        champion=serving.version.name if serving else None,
    )


def _refuse_if_stopped(transaction: Session, run: runs.Run) -> None:
    """Raise `RunLost` or `Cancelled`: the heartbeat may not have heard yet of what must not be promoted any more."""
    runs.note(transaction, run.id, run.fence)
    if runs.run(transaction, run.id).cancel_requested_at_s is not None:
        raise Cancelled


def _promote(
    transaction: Session,
    run: runs.Run,
    challenger: registry.Version,
    serving: registry.Serving | None,
    verdict: Verdict,
    gate_id: int,
    playbook: Playbook,
) -> None:
    epoch = registry.promote(
        transaction,
        run.model,
        challenger.id,
        seen_epoch=serving.epoch if serving else 0,
        who=f"run {run.id}",
        reason=verdict.reason,
        gate_id=gate_id,
    )
    if serving is not None and playbook.live.is_on:
        live_checks.begin(
            transaction,
            live_checks.NewCheck(
                model=run.model,
                promotion_epoch=epoch,
                version_id=challenger.id,
                previous_version_id=serving.version.id,
            ),
        )


def _in_short(metrics: evaluation.Metrics, abstain_below: float | None) -> dict[str, float]:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "brier")
    known = {name: float(getattr(metrics, name)) for name in names} | {"num_test": float(metrics.num)}
    # In the registry too, for the live check, which reads no card.
    return known if abstain_below is None else known | {"abstain_below": abstain_below}


def _abstain_below(logits: Tensor, targets: Tensor, temperature: float, target_risk: float) -> float | None:
    scores, predicted = evaluation.probabilities(logits, temperature).max(dim=1)
    found = abstention.threshold(scores, predicted == targets, target_risk=target_risk)
    return found.threshold if found else None
