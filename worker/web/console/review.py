"""Takes what was proposed for a look. Gives one image after the other to a person, and what they say of it to intake.

Knows nothing of how proposals come about. Labels are events that are never erased: to undo is to say it better.
"""

import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Form, Query
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from db import classes, doubts, galleries, proposals, registry, session
from db.doubts import Doubt
from db.outcomes import Recorded
from db.proposals import Proposal
from worker.client import ClientError
from worker.learning_messages import LabelledImage, LabelsReceipt
from worker.messages import MessageInvalid
from worker.web.callers import Caller, Owned
from worker.web.console import rendering, routing
from worker.web.console.routing import By, Problem
from worker.web.house import House

router = APIRouter(prefix="/review", route_class=routing.Route)

#: what was suggested for labelling; labels that are doubted; outcomes a version was least sure of
Of = Literal["suggest", "audit", "doubt"]
#: by which door these labels come
SOURCE = "console"
#: keys that name a class, in their order; s skips, u goes back, n asks for a name
KEYS = [key for key in string.digits[1:] + string.ascii_lowercase if key not in "sun"]
WHYS = {
    "typical": "It stands for many images that have no label.",
    "margin": "The model wavers between two labels.",
    "random": "Drawn at random, which keeps what is measured honest.",
    "suspect": "The other labels speak against the one it has.",
    "doubt": "Of what was classified last, the version was least sure of this one.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """An image to look at."""

    #: names it in addresses: a proposal's number, or job and position
    name: str
    #: what the next one lies behind
    place: str
    picture: str
    reference: str
    why: str
    #: the label it has, where it is doubted
    label: str | None = None
    suggested: str | None = None
    #: of that label, 0 to 1
    probability: float | None = None
    #: other labels that were thought of, best first
    others: tuple[tuple[str, float], ...] = ()
    split: str | None = None
    #: version that looked
    version: str | None = None
    #: a person has said something about it
    is_settled: bool = False


@router.get("")
def offered(house: Owned, visitor: By) -> Response:
    """List what waits for a look, by model."""
    with session.reading(house.sessions) as reading:
        names = dict.fromkeys((*registry.models(reading), *house.settings.models))
        waiting = {
            name: {kind: proposals.num_waiting(reading, name, kind) for kind in ("suggest", "audit")} for name in names
        }
        serving = {name: registry.serving(reading, name) for name in names}
    return rendering.page("reviews.html", visitor, waiting=waiting, serving=serving)


@router.get("/{model}")
def shown(
    house: Owned,
    visitor: By,
    model: str,
    of: Of = "suggest",
    after: str = "",
    at: str = "",
    done: str = "",
    as_: Annotated[str, Query(alias="as")] = "",
) -> Response:
    """Show the next image behind a place, or a certain one."""
    return _page(house, visitor, model, of, after=after, at=at, done=done, said=as_)


@router.post("/{model}")
async def labelled(
    house: Owned,
    visitor: By,
    model: str,
    item: Annotated[str, Form(max_length=100)],
    of: Annotated[Of, Form()],
    label: Annotated[str, Form(max_length=200)] = "",
    other: Annotated[str, Form(max_length=200)] = "",
    after: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Record what a person says of an image, and go on to the next."""
    routing.check_scope(visitor, "label")
    card = await run_in_threadpool(_at, house, of, item)
    said = other.strip() or label.strip()
    if not said:
        return await run_in_threadpool(_page, house, visitor, model, of, at=item, refused="Say a label, or skip it.")
    image = LabelledImage(reference=card.reference, label=said, who=visitor.name, source=SOURCE)
    ask = partial(house.client.label_items, [image], model=model)
    try:
        receipt: LabelsReceipt = await to_thread.run_sync(ask, limiter=house.slow_threads)
    except (ClientError, MessageInvalid) as wrong:
        refused = routing.sentence(wrong)
        return await run_in_threadpool(_page, house, visitor, model, of, at=item, refused=refused)
    if receipt.refused:
        refused = f"“{said}” was not recorded. {receipt.refused[0].message}"
        return await run_in_threadpool(_page, house, visitor, model, of, at=item, refused=refused)
    if of != "doubt":
        await run_in_threadpool(_settle, house, item)
    return routing.went("review", model, of=of, after=after or card.place, done=item, as_=said)


def _page(
    house: House,
    visitor: Caller,
    model: str,
    of: Of,
    *,
    after: str = "",
    at: str = "",
    done: str = "",
    said: str = "",
    refused: str = "",
) -> Response:
    with session.reading(house.sessions) as reading:
        named = _card(reading, of, at) if at else None
        upcoming = _upcoming(reading, model, of, named.place if named else after)
        card, following, *_ = [*([named] if named else []), *upcoming, None, None]
        num_waiting = None if of == "doubt" else proposals.num_waiting(reading, model, of)
        names = _names(reading, model, card)
        is_fixed = classes.is_fixed(reading, model)
    return rendering.page(
        "review.html",
        visitor,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.OK,
        model=model,
        of=of,
        card=card,
        following=following,
        num_waiting=num_waiting,
        choices=_keyed(names),
        is_fixed=is_fixed,
        done=done if said in names else "",
        said=said if said in names else "",
        refused=refused,
        whys=WHYS,
    )


def _names(reading: Session, model: str, card: Card | None) -> list[str]:
    """Give the names of a model's classes; before its first label, those that were thought of."""
    known = [one.name for one in classes.classes(reading, model, removed=False)]
    if known or card is None:
        return known
    thought = [card.suggested, *(name for name, _ in card.others)]
    return [name for name in dict.fromkeys(thought) if name]


def _keyed(names: Sequence[str]) -> list[tuple[str, str]]:
    """Give each class a key, as far as there are keys: its own name where that is one, else the next that is left."""
    own = {name for name in names if name in {*KEYS, "0"}}
    left = iter([key for key in KEYS if key not in own])
    keyed = [(name, name if name in own else next(left, "")) for name in names]
    return sorted(keyed) if len(own) == len(names) else keyed


# ------------------------------------------------------------ what comes next


def _upcoming(reading: Session, model: str, of: Of, after: str) -> list[Card]:
    """Give the next two images behind a place, as far as there are."""
    if of == "doubt":
        return _upcoming_doubts(reading, model, after)
    rank = int(after) if after.isdecimal() and len(after) < 10 else -1
    found: list[Card] = []
    while len(found) < 2 and (one := proposals.next_waiting(reading, model, of, after=rank)):
        found.append(_of_proposal(one))
        rank = one.rank
    return found


def _upcoming_doubts(reading: Session, model: str, after: str) -> list[Card]:
    serving = registry.serving(reading, model)
    if serving is None:
        return []
    listed = doubts.least_sure(reading, model, serving.version.id, limit=2, behind=_doubt_place(after))
    return [_of_doubt(one, serving.version.name) for one in listed]


def _doubt_place(text: str) -> doubts.Place | None:
    try:
        margin, job_id, position = text.split("~")
        return float(margin), job_id, int(position)
    except ValueError:
        return None


# ------------------------------------------------------------ one by its name


def _at(house: House, of: Of, name: str) -> Card:
    with session.reading(house.sessions) as reading:
        found = _card(reading, of, name)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "This image is not proposed any more; go on with the next.")
    return found


def _card(reading: Session, of: Of, name: str) -> Card | None:
    if of == "doubt":
        job_id, _, position = name.partition("~")
        try:
            found = galleries.one(reading, uuid.UUID(job_id), int(position)) if len(position) < 10 else None
        except ValueError:
            return None
        return None if found is None else _of_outcome(found)
    proposed = proposals.by_id(reading, int(name)) if name.isdecimal() and len(name) < 18 else None
    return None if proposed is None else _of_proposal(proposed)


def _settle(house: House, name: str) -> None:
    with session.transaction(house.sessions) as transaction:
        proposals.settle(transaction, int(name))


def _of_proposal(found: Proposal) -> Card:
    return Card(
        name=str(found.id),
        place=str(found.rank),
        picture=rendering.link("images", "proposals", found.id),
        reference=found.reference,
        why=found.why,
        label=found.label,
        suggested=found.suggested,
        probability=found.probability,
        split=found.split,
        version=found.version,
        is_settled=found.settled_at_s is not None,
    )


def _of_doubt(found: Doubt, version: str) -> Card:
    return Card(
        name=f"{found.job_id}~{found.position}",
        place=f"{found.margin!r}~{found.job_id}~{found.position}",
        picture=rendering.link("images", "jobs", found.job_id, found.position),
        reference=found.reference,
        why="doubt",
        suggested=found.label,
        probability=found.score,
        others=found.top_k[1:4],
        version=version,
    )


def _of_outcome(found: Recorded) -> Card:
    margin = (found.score or 0.0) - (found.top_k[1][1] if len(found.top_k) > 1 else 0.0)
    return Card(
        name=f"{found.job_id}~{found.position}",
        place=f"{margin!r}~{found.job_id}~{found.position}",
        picture=rendering.link("images", "jobs", found.job_id, found.position),
        reference=found.reference,
        why="doubt",
        suggested=found.label,
        probability=found.score,
        others=found.top_k[1:4],
        version=found.version,
    )
