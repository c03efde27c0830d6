"""Takes jobs that a recording ended, and what it recorded. Gives their notices.

Knows nothing of how a notice travels.
"""

from collections.abc import Iterable, Iterator, Sequence

from db.leases import Claim, Ended
from db.outcomes import Outcome
from worker.intake import item_error
from worker.messages import MAX_TOLD_ITEMS, JobStatus, Notice, Result


def notices(
    ended: Iterable[Ended], recorded: Sequence[tuple[Claim, Sequence[Outcome]]], version: str
) -> Iterator[Notice]:
    """Give the notice of each job that ended; with its results, if it is small and was recorded as a whole just now.

    `version` names what all of it was classified by.
    """
    for job in ended:
        outcomes = [one for claim, done in recorded if claim.job_id == job.id for one in done]
        is_told = len(outcomes) == job.num_items <= MAX_TOLD_ITEMS
        results = [_result(one, version) for one in sorted(outcomes, key=lambda one: one.position)]
        yield Notice(job_id=str(job.id), status=_status(job, version), results=results if is_told else None)


def _status(job: Ended, version: str) -> JobStatus:
    return JobStatus(
        job_id=str(job.id),
        model=job.model,
        version=None if job.version_id is None else version,
        state=job.state,
        num_items=job.num_items,
        num_succeeded=job.num_succeeded,
        num_failed=job.num_failed,
        created_at_s=job.created_at_s,
        started_at_s=job.started_at_s,
        finished_at_s=job.finished_at_s,
    )


def _result(one: Outcome, version: str) -> Result:
    return Result(
        position=one.position,
        key=one.key,
        reference=one.reference,
        label=one.label,
        score=one.score,
        top_k=[[label, score] for label, score in one.top_k],
        version=version,
        error=None if one.error is None else item_error(one.error),
    )
