"""Prints: what near duplicates among a model's labelled images are found by.

Takes a model. Gives the fingerprint of each image by content hash.
Knows nothing of labels, splits or how alike two prints are.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Image
from db.near import Print, unsigned

#: rows in memory at a time, beside what is kept of each
PAGE = 2000


def prints(session: Session, model: str) -> dict[str, Print]:
    """Read the fingerprints of all images that a model has labels of; about 400 bytes each."""
    chosen = select(Image.sha256, Image.dhash, Image.thumbnail).where(Image.model == model)
    found = session.execute(chosen, execution_options={"yield_per": PAGE})
    return {sha256: Print(dhash=unsigned(dhash), thumbnail=thumbnail) for sha256, dhash, thumbnail in found}
