"""Takes jobs that a recording ended, and what it recorded. Gives their notices.

Knows nothing of how a notice travels.
"""

from collections.abc import Iterable, Iterator, Sequence

from db.leases import Claim, Ended
from db.outcomes import Outcome
from worker.intake import as_status, result_of
from worker.messages import MAX_TOLD_ITEMS, Notice


def notices(
    ended: Iterable[Ended], recorded: Sequence[tuple[Claim, Sequence[Outcome]]], version: str
) -> Iterator[Notice]:
    """Give the notice of each job that ended; with its results, if it is small and was recorded as a whole just now.

    `version` names what all of it was classified by.
    """
    for job in ended:
        outcomes = [one for claim, done in recorded if claim.job_id == job.id for one in done]
        is_told = len(outcomes) == job.num_items <= MAX_TOLD_ITEMS
        results = [result_of(one, version) for one in sorted(outcomes, key=lambda one: one.position)]
        yield Notice(
            job_id=str(job.id),
            status=as_status(job, None if job.version_id is None else version),
            results=results if is_told else None,
        )
