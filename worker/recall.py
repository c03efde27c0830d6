"""Takes a version and an image's bytes. Gives what the version has on record for these same bytes, if anything.

Knows nothing of jobs. A version never changes, so what it said once is what it would say again.
"""

import hashlib
import logging
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import errors, outcomes, session
from pipeline.serving.classifier import Prediction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of an image's bytes."""

    #: in hex
    sha256: str | None = None
    recalled: Prediction | None = None


#: of every image, unless answers are recalled
UNKNOWN = Content()


def content(sessions: sessionmaker[Session], version_id: int, data: bytes, *, top_k: int) -> Content:
    """Name the bytes, and recall what is on record for them, if it holds `top_k` labels at least.

    Nothing is recalled while the ledger is away.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        with session.reading(sessions) as reading:
            found = outcomes.last_of_content(reading, version_id, sha256)
    except (errors.LedgerError, SQLAlchemyError) as away:
        log.warning("nothing is recalled: %s", str(away).splitlines()[0])
        found = ()
    if not found or len(found) < top_k:
        return Content(sha256)
    label, score = found[0]
    return Content(sha256, Prediction(label=label, score=score, top_k=found))
