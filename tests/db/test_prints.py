"""The fingerprints of a model's images are read back as they were written."""

from sqlalchemy.orm import Session, sessionmaker

from db import labels, prints, session
from db.near import Print
from tests.db import builders


def test_fingerprints_come_back_by_content_hash_model_by_model(sessions: sessionmaker[Session]) -> None:
    high, low = 2**64 - 1, 5
    thumbnail = bytes(range(256))
    given = [
        builders.label(1, dhash=high, thumbnail=thumbnail),
        builders.label(2, dhash=low, thumbnail=None),
    ]
    with session.transaction(sessions) as transaction:
        labels.add(transaction, "cats", given)
        labels.add(transaction, "dogs", given[:1])
    with session.reading(sessions) as reading:
        assert prints.prints(reading, "cats") == {
            given[0].sha256: Print(dhash=high, thumbnail=thumbnail),
            given[1].sha256: Print(dhash=low, thumbnail=None),
        }
        assert list(prints.prints(reading, "dogs")) == [given[0].sha256]
        assert prints.prints(reading, "hens") == {}
