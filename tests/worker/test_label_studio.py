"""Label Studio's payloads as it documents and sends them become labels, each once; what is none is told apart."""

import pytest

from worker import label_studio
from worker.forms import MessageInvalid
from worker.label_studio import Event, Project
from worker.learning_messages import LabelledImage, RefusedLabel

WHEN = "2026-11-23T13:52:48.536370Z"
SIMPLE = Project()


def choice(*choices: str, name: str = "class") -> dict[str, object]:
    value = {"choices": list(choices)}
    return {"value": value, "id": "nJS76J03pi", "from_name": name, "to_name": "image", "type": "choices"}


def annotation(*results: dict[str, object], **fields: object) -> dict[str, object]:
    """An annotation as its serializer writes it (AnnotationWebhookSerializer: all fields of the row)."""
    usual = {
        "id": 17, "result": list(results), "was_cancelled": False, "ground_truth": False, "lead_time": 3.7,
        "created_at": "2026-11-23T13:52:48.536303Z", "updated_at": WHEN, "prediction": {}, "result_count": 0,
        "task": 19, "completed_by": 1, "draft_created_at": None, "parent_prediction": None, "unique_id": "8d6c",
    }  # fmt: skip
    return usual | fields


def task(image: object = "s3://photos/1.jpg", **fields: object) -> dict[str, object]:
    usual = {"id": 19, "data": {"image": image}, "meta": {}, "is_labeled": True, "overlap": 1, "project": 2}
    return usual | fields


def payload(action: str = "ANNOTATION_CREATED", **fields: object) -> dict[str, object]:
    usual = {
        "action": action, "annotation": annotation(choice("cat")), "task": task(),
        "project": {"id": 2, "title": "Photos", "label_config": "<View></View>"},
    }  # fmt: skip
    return usual | fields


def rows(given: object, project: Project = SIMPLE) -> tuple[LabelledImage | RefusedLabel, ...]:
    return label_studio.event(given, project).rows


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATION_UPDATED"])
def test_an_annotation_is_a_label(action: str) -> None:
    assert label_studio.event(payload(action), SIMPLE) == Event(
        rows=(
            LabelledImage(
                reference="s3://photos/1.jpg",
                label="cat",
                who="label-studio user 1",
                source="label-studio",
                key=f"label-studio:17:{WHEN}",
            ),
        )
    )


def test_annotations_made_in_bulk_find_their_tasks() -> None:
    many = payload(
        "ANNOTATIONS_CREATED",
        annotation=[annotation(choice("cat")), annotation(choice("dog"), id=18, task=20)],
        task=[task("s3://photos/2.jpg", id=20), task("s3://photos/1.jpg")],
    )
    assert [(row.reference, row.label) for row in rows(many)] == [
        ("s3://photos/1.jpg", "cat"),
        ("s3://photos/2.jpg", "dog"),
    ]


def test_an_update_is_another_event_and_the_same_one_sent_again_is_not() -> None:
    first, again = rows(payload()), rows(payload("ANNOTATION_UPDATED"))
    [later] = rows(payload("ANNOTATION_UPDATED", annotation=annotation(choice("dog"), updated_at=f"{WHEN}+1")))
    assert first == again
    assert later.key != first[0].key


NOTHING = {
    "deleted": ({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 17}]}, "Labels of deleted annotations are k"),
    "a task": ({"action": "TASKS_CREATED", "tasks": [{"id": 1}]}, "TASKS_CREATED carries no labels."),
    "a project": ({"action": "PROJECT_UPDATED", "project": {"id": 1}}, "PROJECT_UPDATED carries no labels."),
    "skipped": (payload(annotation=annotation(was_cancelled=True)), "Skipped and empty annotations are no labels."),
    "emptied": (payload("ANNOTATION_UPDATED", annotation=annotation()), "Skipped and empty annotations are no labels."),
}


@pytest.mark.parametrize(("given", "note"), NOTHING.values(), ids=NOTHING)
def test_what_carries_no_label_is_no_error(given: object, note: str) -> None:
    event = label_studio.event(given, SIMPLE)
    assert event.rows == ()
    assert event.note.startswith(note)


INVALID = {
    "a list": ([payload()], "This is no webhook of Label Studio: it has no `action`."),
    "no action": ({"annotation": {}}, "This is no webhook of Label Studio: it has no `action`."),
    "without payload": ({"action": "ANNOTATION_CREATED"}, "The payload has no `annotation`; turn on Send payload in "),
    "without task": (payload(task=None), "The payload has no `task`; turn on Send payload in Label Studio's webhook."),
    "annotation as text": (payload(annotation="x"), "The payload has no `annotation`; turn on Send payload in Label"),
    "annotations as text": (payload(annotation=["x"]), "The payload has no `annotation`; turn on Send payload in Lab"),
}


@pytest.mark.parametrize(("given", "said"), INVALID.values(), ids=INVALID)
def test_what_label_studio_does_not_send_is_refused(given: object, said: str) -> None:
    with pytest.raises(MessageInvalid) as refused:
        label_studio.event(given, SIMPLE)
    assert str(refused.value).startswith(said)


def of(*results: object, **data: object) -> dict[str, object]:
    return payload(annotation=annotation(*results), task=task() | ({"data": data} if data else {}))


BOX = {"value": {"x": 1, "rectanglelabels": ["cat"]}, "type": "rectanglelabels", "from_name": "box"}
UNUSABLE = {
    "no choice": (of(BOX), "Annotation 17: no choice."),
    "several choices": (of(choice("cat", "dog")), "Annotation 17: it has 2 choices; an image has one label."),
    "no choice made": (of(choice()), "Annotation 17: it has 0 choices; an image has one label."),
    "several questions": (
        of(choice("cat"), choice("sharp", name="quality")),
        "Annotation 17: it answers several Choices (class, quality); say which is the label.",
    ),
    "a choice that is no text": (of(choice(7)), "Annotation 17: it has 1 choices; an image has one label."),
    "a result that is no list": (payload(annotation=annotation(result={"a": 1})), "Annotation 17: no choice."),
    "a label too long": (of(choice("x" * 201)), "Annotation 17: `label` must be one line of 1 to 200 characters."),
    "another task's": (payload(task=task(id=20)), "Annotation 17: its task has no data."),
    "no image": (of(choice("cat"), image=7), "Annotation 17: its task has no data."),
    "several fields": (
        of(choice("cat"), left="a", right="b"),
        "Annotation 17: which field of its task (left, right) is the image? Say so.",
    ),
    "half a character": (of(choice("cat"), image="\ud800"), "Annotation 17: `image` must not contain half a surrogate"),
    "local files": (
        of(choice("cat"), image="/data/local-files/?d=a/b.jpg"),
        "Annotation 17: Label Studio serves /data/local-files/?d=a/b.jpg itself; say where the workers have its local",
    ),
}


@pytest.mark.parametrize(("given", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_annotation_that_is_no_label_is_refused_with_its_number(given: object, said: str) -> None:
    [refused] = rows(given)
    assert isinstance(refused, RefusedLabel)
    assert refused.message.startswith(said)


MAPPED = Project(local_files="/mnt/photos", uploads="s3://studio/upload/")
IMAGES = {
    "s3": ("s3://b/a b.jpg", "s3://b/a b.jpg"),
    "a file": ("/photos/a b.jpg", "file:///photos/a%20b.jpg"),
    "local files": ("/data/local-files/?d=cats/a%20b.jpg", "file:///mnt/photos/cats/a%20b.jpg"),
    "local files by host": ("http://studio:8080/data/local-files/?d=1.jpg", "file:///mnt/photos/1.jpg"),
    "an absolute local file": ("/data/local-files/?d=/etc/passwd", "file:///mnt/photos/etc/passwd"),
    "uploads": ("/data/upload/2/1ab-x.png", "s3://studio/upload/2/1ab-x.png"),
}


@pytest.mark.parametrize(("image", "reference"), IMAGES.values(), ids=IMAGES)
def test_an_image_is_named_as_the_workers_see_it(image: str, reference: str) -> None:
    [row] = rows(of(choice("cat"), image=image), MAPPED)
    assert row.reference == reference


def test_a_project_may_say_which_field_and_which_choices() -> None:
    given = of(choice("cat"), choice("sharp", name="quality"), left="s3://b/l.jpg", image="s3://b/r.jpg")
    [row] = rows(given, Project(image="left", choices="quality"))
    assert (row.reference, row.label) == ("s3://b/l.jpg", "sharp")


@pytest.mark.parametrize(
    ("by", "who"),
    [
        (3, "label-studio user 3"),
        ({"id": 3, "email": "ada@example.org"}, "ada@example.org"),
        ({"id": 3}, "label-studio user 3"),
        (None, "label-studio user unknown"),
    ],
)
def test_who_labelled_is_kept(by: object, who: str) -> None:
    [row] = rows(payload(annotation=annotation(choice("cat"), completed_by=by)))
    assert row.who == who


def test_of_several_annotations_of_a_task_the_latest_or_the_true_one_comes_last() -> None:
    given = task() | {
        "annotations": [
            annotation(choice("true"), id=1, updated_at="2026-01-01", ground_truth=True),
            annotation(choice("late"), id=2, updated_at="2026-03-01"),
            annotation(choice("early"), id=3, updated_at="2026-02-01"),
        ]
    }
    assert [row.label for row in label_studio.task_rows(given, SIMPLE)] == ["early", "late", "true"]


def test_an_annotation_without_time_or_number_has_no_key() -> None:
    [row] = rows(payload(annotation=annotation(choice("cat"), id=None)))
    assert row.key is None
