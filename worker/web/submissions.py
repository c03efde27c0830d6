"""Takes a caller's wish and its images. Gives the job that the ledger has of them.

Knows nothing of requests. A small job shares its commit with others', a large one goes in part by part, as from the
client: until its last part is there it is `receiving`, and no worker sees it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from anyio import to_thread
from fastapi import Header
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from db import jobs, session
from db.jobs import JobView
from worker import client, forms, inline, intake, manifests
from worker.messages import TRACEPARENT, Item, MessageInvalid, Reply, Submission
from worker.web import bodies, problems, shapes
from worker.web.house import House
from worker.web.problems import RequestRefused

#: Seconds in each unit of a completion window.
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: What a caller may send as `Idempotency-Key`: 1 to 255 printable ASCII characters, in quotes or without.
Key = Annotated[
    str | None,
    Header(pattern=r'^("[ !#-~]{1,255}"|[!#-~]([ !#-~]{0,253}[!#-~])?)$', description="The same key, the same outcome"),
]

_ITEM: TypeAdapter[str | shapes.Item] = TypeAdapter(shapes.AnyItem)


class UploadedFile(Protocol):
    """A file of a form."""

    filename: str | None
    size: int | None

    @property
    def file(self) -> Any:
        """The open file itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who wants what done how."""

    caller: str
    wish: shapes.Wish
    #: What the caller sent as `Idempotency-Key`.
    idempotency_key: str | None
    #: The caller's span, from its header of that name.
    traceparent: str | None = None

    def header(self, num_items: int) -> Submission:
        """Give the job's own fields, as every part of it repeats them."""
        wish, window = self.wish, self.wish.completion_window
        return Submission(
            job_id=str(uuid.uuid4()),
            items=(),
            model=wish.model,
            version=wish.version,
            priority=wish.priority,
            # Callers do not know of each other: what one has used is still free to another.
            idempotency_key=self.idempotency_key and f"{self.caller}:{self.idempotency_key}",
            top_k=wish.top_k,
            deadline_s=int(window[:-1]) * UNITS[window[-1]] if window else None,
            num_items=num_items,
            caller=self.caller,
            callback=wish.callback,
            traceparent=self.traceparent,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The job an order came to."""

    job: JobView
    #: It was there already, by its idempotency key.
    is_repeated: bool


def read_key(header: str | None) -> str | None:
    """Read an Idempotency-Key: a quoted string, as the draft has it, or bare, as everybody sends it."""
    return None if header is None else header.removeprefix('"').removesuffix('"')


def read_span(header: str | None) -> str | None:
    """Read a `traceparent`; one that is none is passed over, as W3C Trace Context has it."""
    return header if header and TRACEPARENT.fullmatch(header) else None


async def place(house: House, order: Order, source: manifests.Source, num_items: int) -> Placed:
    """Record a job and give it back once the ledger has it all. Raises `RequestRefused`."""
    header = order.header(num_items)
    first = next(client.parts(header, source))
    if len(first.items) == num_items:
        reply = await house.gathering.submit(first.as_json())
    else:
        reply = await to_thread.run_sync(_send_all, house, header, source, limiter=house.slow_threads)
    receipt = problems.opened(reply)
    job = await run_in_threadpool(_read, house, uuid.UUID(receipt.job_id))
    return Placed(job=job, is_repeated=receipt.job_id != header.job_id)


def from_items(given: Sequence[str | shapes.Item]) -> manifests.Source:
    """Take the items of a JSON body. Raises `MessageInvalid`."""
    items = [_item(one) for one in given]
    return lambda: iter(items)


def from_lines(file: Path) -> manifests.Source:
    """Read a manifest lazily. Raises `ManifestInvalid` with the line number."""
    return lambda: bodies.each(file, lambda wire: _item(_ITEM.validate_python(wire, strict=True)))


def from_files(house: House, files: Sequence[UploadedFile]) -> manifests.Source:
    """Keep the files of a form where images inside messages are kept, each once. Raises `RequestRefused`.

    A file's name is its key; one whose name another has before it is told apart by its position alone.
    """
    most = house.settings.max_image_bytes
    for file in files:
        if (file.size or 0) > most:
            said = f"The file {(file.filename or '')[:200]!r} has {file.size:,} bytes; an image has at most {most:,}."
            raise RequestRefused(413, "too_large", said)
    names: set[str] = set()
    items = []
    for file in files:
        reference = inline.keep(file.file.read(), house.settings.inline_store, max_bytes=most)
        name = forms.text_or_none({"a file's name": file.filename or None}, "a file's name")
        items.append(Item(reference=reference, key=None if name in names else name))
        names.update({name} if name else ())
    return lambda: iter(items)


def _item(given: str | shapes.Item) -> Item:
    if isinstance(given, str):
        return Item(reference=given)
    wire = given.model_dump(exclude_unset=True)
    if "custom_id" in wire:
        if "key" in wire:
            raise MessageInvalid("An item has a `custom_id` or a `key`, not both: they are the same.")
        wire["key"] = wire.pop("custom_id")
    return Item.parse(wire)


def _send_all(house: House, header: Submission, source: manifests.Source) -> Reply:
    """Record a job part by part; the first refusal ends it."""
    reply: Reply | None = None
    for part in client.parts(header, source):
        reply = problems.opened(intake.submit(house.desk, part.as_json()))
    assert reply is not None  # noqa: S101 - for the type checker: there is at least one part
    return reply


def _read(house: House, job_id: uuid.UUID) -> JobView:
    with session.reading(house.sessions) as reading:
        return jobs.job(reading, job_id)
