from db import doubts, labels, outcomes, proposals, registry
from db.proposals import NewProposal
from db.session import reading, transaction
from tests.db import builders

MODEL = builders.MODEL


def proposed(name: str, **columns: object) -> NewProposal:
    usual = {"reference": f"images/{name}.jpg", "sha256": builders.sha256(name), "why": "margin", "score": 0.1}
    return NewProposal(**(usual | columns))


def propose(sessions, *names: str, kind="suggest") -> None:
    with transaction(sessions) as session:
        proposals.replace(session, MODEL, kind, f"{MODEL}:1", [proposed(name) for name in names])


def waiting(sessions, kind="suggest") -> list[str]:
    seen, after = [], -1
    with reading(sessions) as session:
        while found := proposals.next_waiting(session, MODEL, kind, after=after):
            seen.append(found.reference.removeprefix("images/").removesuffix(".jpg"))
            after = found.rank
        assert proposals.num_waiting(session, MODEL, kind) == len(seen)
    return seen


def test_proposals_wait_in_their_order_and_a_new_look_replaces_the_old_one_of_its_kind(sessions):
    propose(sessions, "a", "b", "c")
    propose(sessions, "x", kind="audit")
    assert waiting(sessions) == ["a", "b", "c"]
    propose(sessions, "c", "d")
    assert waiting(sessions) == ["c", "d"]
    assert waiting(sessions, "audit") == ["x"]


def test_what_is_labelled_later_by_whatever_door_does_not_wait_any_more(sessions):
    with transaction(sessions) as session:
        labels.add(session, MODEL, [builders.label("b")])
    propose(sessions, "a", "b", "c")
    assert waiting(sessions) == ["a", "b", "c"], "a label from before the look is what is doubted"
    with transaction(sessions) as session:
        labels.add(session, MODEL, [builders.label("b", label="dog"), builders.label("c")])
    assert waiting(sessions) == ["a"]


def test_a_label_that_is_confirmed_is_settled_although_it_writes_no_event(sessions):
    propose(sessions, "a", "b", kind="audit")
    with transaction(sessions) as session:
        first = proposals.next_waiting(session, MODEL, "audit")
        proposals.settle(session, first.id)
    assert waiting(sessions, "audit") == ["b"]
    with reading(sessions) as session:
        assert proposals.by_id(session, first.id).settled_at_s is not None
    propose(sessions, "a", "b", kind="audit")
    assert waiting(sessions, "audit") == ["b"], "the same doubt is not put to a person twice"


def test_doubts_are_the_smallest_margins_of_a_version_without_those_that_have_a_label(sessions):
    margins = {"sure": 0.9, "torn": 0.01, "wavering": 0.2, "labelled": 0.05}
    with transaction(sessions) as session:
        version = registry.register(session, builders.new_version())
        for number in range(2):  # the same images in two jobs
            rows = [
                outcomes.Outcome(
                    position=n, key=None, reference=f"images/{name}.jpg", label="cat", score=0.5 + margin / 2,
                    top_k=(("cat", 0.5 + margin / 2), ("dog", 0.5 - margin / 2)), version_id=version.id,
                )
                for n, (name, margin) in enumerate(margins.items())
            ]  # fmt: skip
            outcomes.insert(session, builders.submit(session, len(rows)), number, rows)
        labels.add(session, MODEL, [builders.label("labelled")])
    with reading(sessions) as session:
        found = doubts.least_sure(session, MODEL, version.id, limit=3)
    assert [one.reference for one in found] == ["images/torn.jpg", "images/wavering.jpg", "images/sure.jpg"]
    assert abs(found[0].margin - 0.01) < 1e-9
