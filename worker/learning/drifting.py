"""Takes what a serving version said of late. Gives a window, recorded: whether it still looks like the test images.

Knows nothing of torch. A window may ask for a run; it says nothing of accuracy and changes no champion.
"""

from collections.abc import Sequence

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from db import outcomes, registry, session, windows
from db.outcomes import Recorded
from pipeline import checkpoints
from pipeline.learning import drift
from worker import playbook
from worker.learning import scores
from worker.settings import Settings


def look(sessions: sessionmaker[Session], settings: Settings, model: str) -> str:
    """Compare the outcomes since the last window with the test images, once there are enough; gives what was found.

    Raises `StoreUnreachable`, `CheckpointBroken`, `PlaybookInvalid`.
    """
    policy = playbook.read(settings.playbook, model).drift
    with session.reading(sessions) as reading:
        serving = registry.serving(reading, model)
        if serving is None:
            return "nothing serves"
        version = serving.version
        before = windows.recent(reading, model, limit=1, version_id=version.id)
        after_s = before[0].until_s if before else 0.0
        found = outcomes.recorded_since(reading, model, version.id, after_s, policy.num_items, errors=False)
    if len(found) < policy.num_items:
        return f"{len(found)} of {policy.num_items} new outcomes"
    reference = scores.recall(settings.store, version.sha256)
    if reference is None:
        return f"{version.name} was not trained here, so there is nothing to compare with"
    compared = _compare(
        reference, found, checkpoints.read_card(version.reference, version.sha256).classes, policy.alpha
    )
    with session.transaction(sessions) as transaction:
        windows.record(
            transaction,
            windows.NewWindow(
                model=model,
                version_id=version.id,
                after_s=after_s,
                until_s=found[-1].recorded_at_s,
                num_items=len(found),
                min_p=compared.min_p,
                is_alarm=compared.is_alarm,
            ),
        )
    return f"{'alarm' if compared.is_alarm else 'no alarm'}, p = {compared.min_p:.3g} of {len(found)} outcomes"


def _compare(reference: np.ndarray, found: Sequence[Recorded], classes: Sequence[str], alpha: float) -> drift.Drift:
    """Compare at the number of scores that every outcome has: jobs record as many as they were asked to."""
    k = min(len(one.top_k) for one in found)
    window = drift.truncated([one.top_k for one in found], classes, k)
    return drift.bbsd(drift.cut(reference, k), window, alpha)
