"""Takes a request. Gives its body as it was meant: a checked value, a file of lines, or a form of files.

Knows nothing of what they are for. Nothing is begun before a body is whole: one that is cut off leaves nothing behind.
"""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from worker import manifests
from worker.messages import MessageInvalid
from worker.web.problems import RequestRefused, too_large

#: Bytes of a JSON body at most: some ten thousand references.
MAX_JSON = 8 * 1024 * 1024
#: Bytes of a manifest or of a form at most; more is several jobs, or references.
MAX_UPLOAD = 256 * 1024 * 1024
#: Files of a form at most, and its other fields.
MAX_FILES, MAX_FIELDS = 1000, 20
#: Bytes of a field that is no file.
MAX_FIELD = 8 * 1024
#: Bytes that are written to a file of lines at once.
CHUNK = 256 * 1024

JSON, JSONL, FORM = "application/json", "application/jsonl", "multipart/form-data"
#: What else people call lines of JSON.
ALSO_JSONL = frozenset({JSONL, "application/x-ndjson", "application/x-jsonlines"})

Value = TypeVar("Value", bound=BaseModel)
One = TypeVar("One")


def kind(request: Request, *known: str) -> str:
    """Give the kind of body, one of those known here. Raises `RequestRefused` (415)."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    found = JSONL if given in ALSO_JSONL else given
    if found not in known:
        said = f"A body here is {' or '.join(known)}, not {given[:80] or 'without a Content-Type'}."
        raise RequestRefused(415, "unsupported_media_type", said)
    return found


async def value(request: Request, shape: type[Value]) -> Value:
    """Read a JSON body as what it is to be. Raises `RequestRefused` with the first thing that is wrong, and where."""
    body = bytearray()
    _refuse_long(request, MAX_JSON)
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON:
            raise too_large(MAX_JSON)
    return await run_in_threadpool(_parsed, shape, body)


@asynccontextmanager
async def lines(request: Request) -> AsyncIterator[Path]:
    """Keep a body of lines in a file for as long as it is read."""
    _refuse_long(request, MAX_UPLOAD)
    with tempfile.NamedTemporaryFile(prefix="imagemill-", suffix=".jsonl") as file:
        await _fill(request, file.file)
        yield Path(file.name)


@asynccontextmanager
async def form(request: Request) -> AsyncIterator[FormData]:
    """Keep a form's files for as long as they are read; those above a mebibyte on disk."""
    _refuse_long(request, MAX_UPLOAD)
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD) as given:
        yield given


def each(file: Path, read: Callable[[Any], One]) -> Iterator[One]:
    """Read each line of JSON as what it is to be, lazily. Raises `ManifestInvalid` with the line number."""
    for number, wire in manifests.jsonl_lines(file):
        try:
            yield read(wire)
        except ValidationError as wrong:
            raise manifests.ManifestInvalid(f"Line {number}: {sentence(wrong)}") from None
        except MessageInvalid as wrong:
            raise manifests.ManifestInvalid(f"Line {number}: {wrong}") from None


def checked(shape: type[Value], fields: Mapping[str, str]) -> Value:
    """Read a form's fields as what they are to be. Raises `RequestRefused`."""
    try:
        return shape.model_validate_strings(dict(fields))
    except ValidationError as wrong:
        raise RequestRefused(422, "invalid", sentence(wrong)) from None


def sentence(wrong: ValidationError) -> str:
    """Say the first thing that is wrong, and where."""
    first = wrong.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(step) for step in first["loc"] if step not in ("text", "object"))
    said = str(first["msg"]).rstrip(".")
    return f"{where}: {said}." if where else f"{said}."


async def _fill(request: Request, file: IO[bytes]) -> None:
    """Write a body down, a stretch at a time."""
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        if len(pending) >= CHUNK:
            await run_in_threadpool(file.write, bytes(pending))
            pending.clear()
    file.write(pending)
    file.flush()


def _parsed(shape: type[Value], body: bytearray) -> Value:
    try:
        return shape.model_validate_json(body)
    except ValidationError as wrong:
        if wrong.errors(include_url=False)[0]["type"] == "json_invalid":
            raise RequestRefused(400, "not_json", f"The body is not JSON. {sentence(wrong)}") from None
        raise RequestRefused(422, "invalid", sentence(wrong)) from None


def _refuse_long(request: Request, most: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:18]) > most:
        raise too_large(most)
