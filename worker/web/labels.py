"""Takes what people say images show, as JSON, as lines or as Label Studio sends it. Gives intake's receipt."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter

from worker import annotations, label_studio, manifests
from worker.learning_messages import LabelledImage, LabelsReceipt
from worker.web import bodies, problems, shapes, submissions
from worker.web.callers import Labeller, Owned
from worker.web.house import House

router = APIRouter(prefix="/v1", tags=["labels"])

#: The door these labels come by.
SOURCE = "http"

_LABEL: TypeAdapter[shapes.LabelledItem] = TypeAdapter(shapes.LabelledItem)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            bodies.JSON: {"schema": {"$ref": "#/components/schemas/NewLabels"}},
            bodies.JSONL: {"schema": {"type": "string", "description": "One labelled image per line"}},
        },
    }
}
_EVENT = {
    "requestBody": {
        "required": True,
        "content": {bodies.JSON: {"schema": {"$ref": "#/components/schemas/LabelStudioEvent"}}},
    }
}
_PROBLEMS = problems.of(415, 422, 429)

Model = Annotated[shapes.Name, Query(description="Which model they are for, where the body does not say")]
Field = Annotated[str, Query(max_length=200)]


@router.post("/labels", operation_id="add_labels", openapi_extra=_BODY, responses=_PROBLEMS)
async def label(
    request: Request,
    house: Owned,
    caller: Labeller,
    model: Model = "default",
    idempotency_key: submissions.Key = None,
) -> shapes.Receipt:
    """Say what images show. An image that cannot be read is named in `refused`, and costs the others nothing."""
    key = submissions.read_key(idempotency_key)
    naming = partial(_named, caller=caller.name, call=key)
    if bodies.kind(request, bodies.JSON, bodies.JSONL) == bodies.JSON:
        given = await bodies.value(request, shapes.NewLabels)
        chosen = given.model if "model" in given.model_fields_set else model
        images = [naming(position, _image(one)) for position, one in enumerate(given.labels)]
        return await _record(house, chosen, images)
    with house.uploads.taking(caller.name):
        async with bodies.lines(request) as file:
            return await to_thread.run_sync(_from_lines, house, model, file, naming, limiter=house.slow_threads)


@router.post("/label-studio", operation_id="take_annotations", openapi_extra=_EVENT, responses=_PROBLEMS)
async def studio(
    request: Request, house: Owned, caller: Labeller, image: Field = "", choices: Field = ""
) -> shapes.Receipt:
    """Take the labels of Label Studio's webhook for the model `default`."""
    return await studio_of("default", request, house, caller, image, choices)


@router.post("/label-studio/{model}", operation_id="take_annotations_of", openapi_extra=_EVENT, responses=_PROBLEMS)
async def studio_of(
    model: shapes.Name,
    request: Request,
    house: Owned,
    caller: Labeller,  # noqa: ARG001 - that there is one is what counts: who labelled, the annotation says
    image: Field = "",
    choices: Field = "",
) -> shapes.Receipt:
    """Take the labels of Label Studio's webhook; `image` and `choices` name the task's field and the Choices."""
    bodies.kind(request, bodies.JSON)
    payload = await bodies.value(request, shapes.LabelStudioEvent)
    project = replace(house.project, **{name: text for name, text in (("image", image), ("choices", choices)) if text})
    event = label_studio.event(payload.model_dump(), project)
    receipt = await to_thread.run_sync(
        annotations.hand_over, house.client, model, event.rows, limiter=house.slow_threads
    )
    if receipt.refused and len(receipt.refused) == receipt.num_labels:
        raise problems.RequestRefused(422, "all_refused", f"Every label was refused: {receipt.refused[0].message}")
    return shapes.Receipt.of(receipt, event.note)


async def _record(house: House, model: str, images: list[LabelledImage]) -> shapes.Receipt:
    record = partial(house.client.label_items, images, model=model)
    receipt: LabelsReceipt = await to_thread.run_sync(record, limiter=house.slow_threads)
    return shapes.Receipt.of(receipt)


def _from_lines(house: House, model: str, file: Path, naming: "partial[LabelledImage]") -> shapes.Receipt:
    """Record a file of labels, once every line has proved to be one."""
    if not sum(1 for _ in _images(file)):
        raise manifests.ManifestInvalid("There is nothing to label: no labels were given.")
    images = (naming(position, image) for position, image in enumerate(_images(file)))
    return shapes.Receipt.of(house.client.label_items(images, model=model))


def _images(file: Path) -> Iterator[LabelledImage]:
    return bodies.each(file, lambda wire: _image(_LABEL.validate_python(wire, strict=True)))


def _image(given: shapes.LabelledItem) -> LabelledImage:
    return LabelledImage.parse({"source": SOURCE, **given.model_dump(exclude_unset=True)})


def _named(position: int, image: LabelledImage, *, caller: str, call: str | None) -> LabelledImage:
    """Give a label the caller's name where it has none, and a name of its own where the whole call has one."""
    who = caller if image.who == "unknown" else image.who
    key = f"{caller}:{call}:{position}" if call and image.key is None else image.key
    return replace(image, who=who, key=key)
