"""Unfinished items: how much is still to be done, and for whom.

Takes nothing but rows. Gives the items without an outcome, by caller.
Knows nothing of how many may wait.
"""

from collections import Counter

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from db.models import Job
from db.session import now_s

#: seconds after which a job whose parts stopped coming counts with those that came: its sender is gone
RECEIVING_S = 3600.0


def by_caller(session: Session, *, since_s: float | None = None, before_s: float | None = None) -> Counter[str | None]:
    """Sum up the items without an outcome of each caller's jobs; a job that is being received counts whole.

    With bounds, of the jobs created since, or before, that time alone. Callers without a name are one.
    """
    found = select(Job.caller, func.sum(_left())).where(Job.finished_at_s.is_(None)).group_by(Job.caller)
    if since_s is not None:
        found = found.where(Job.created_at_s >= since_s)
    if before_s is not None:
        found = found.where(Job.created_at_s < before_s)
    return Counter({caller: num_items for caller, num_items in session.execute(found) if num_items})


def _left() -> ColumnElement[int]:
    is_given_up = (Job.state == "receiving") & (Job.created_at_s < now_s() - RECEIVING_S)
    return case((is_given_up, Job.num_received), else_=Job.num_items) - Job.num_succeeded - Job.num_failed
