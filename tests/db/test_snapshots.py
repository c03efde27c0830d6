from db import snapshots
from db.session import transaction
from tests.db import builders
from tests.db.builders import MODEL


def test_a_snapshot_is_written_once_however_often_it_is_taken(sessions):
    with transaction(sessions) as session:
        first = snapshots.record(session, builders.new_snapshot())
        again = snapshots.record(session, builders.new_snapshot(reference="elsewhere"))
        other = snapshots.record(session, builders.new_snapshot(digest="c4", counts={"cat": {"train": 2}}))
        elsewhere = snapshots.record(session, builders.new_snapshot(model="dogs"))
        assert again == first == snapshots.by_id(session, first.id)
        assert len({first.id, other.id, elsewhere.id}) == 3
        assert snapshots.latest(session, MODEL) == other
        assert other.counts == {"cat": {"train": 2}}
        assert snapshots.latest(session, "unheard of") is None
