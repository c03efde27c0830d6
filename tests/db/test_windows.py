from db import registry, windows
from db.session import transaction
from tests.db import builders
from tests.db.builders import MODEL


def record(session, version_id, after_s, **columns):
    usual = {"num_items": 200, "min_p": 0.2, "is_alarm": False, "model": MODEL, "until_s": after_s + 10}
    return windows.record(session, windows.NewWindow(version_id=version_id, after_s=after_s, **(usual | columns)))


def test_the_newest_windows_come_first_of_a_model_or_one_version(sessions):
    with transaction(sessions) as session:
        first, second = (registry.register(session, builders.new_version()).id for _ in range(2))
        old = [record(session, first, after_s) for after_s in (0.0, 10.0)]
        new = record(session, second, 20.0, is_alarm=True)
        record(session, second, 20.0, model="dogs")
        assert windows.recent(session, MODEL, limit=9) == [new, *reversed(old)]
        assert windows.recent(session, MODEL, limit=1) == [new]
        assert windows.recent(session, MODEL, limit=9, version_id=first) == [*reversed(old)]


def test_a_window_that_two_looked_at_is_written_once(sessions):
    with transaction(sessions) as session:
        version_id = registry.register(session, builders.new_version()).id
        first = record(session, version_id, 0.0, is_alarm=True)
        assert record(session, version_id, 0.0, is_alarm=False, until_s=12.0) == first
