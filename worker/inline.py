"""Takes an image that came inside a message. Gives the reference under which it is kept.

Knows nothing of what the image is for, nor whether it is one.
"""

import hashlib
import os
from pathlib import Path

import fsspec

from pipeline import strays
from worker.messages import MessageInvalid


def keep(image: bytes, store: str, *, max_bytes: int) -> str:
    """Keep an image under its own hash in the fsspec URL `store`: what comes twice is stored once.

    Raises `MessageInvalid` for one that is too large to travel in a message.
    """
    if len(image) > max_bytes:
        raise MessageInvalid(
            f"An inline image has {len(image)} bytes; at most {max_bytes} travel in a message. "
            "Put it where the workers can read it and send its reference."
        )
    digest = hashlib.sha256(image).hexdigest()
    reference = f"{store}/{digest[:2]}/{digest}"
    # By its size, too: a crash or a full disk may have left a part of it.
    if not strays.hold(reference, len(image)):
        files, name = fsspec.core.url_to_fs(reference)
        if "file" in files.protocol:  # an object needs no folder
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        files.pipe_file(name, image)
        _sync(files, name)
    return reference


def hold(reference: str, store: str) -> None:
    """Keep what is about to be named again from being removed, if it is an image of this store."""
    if reference.startswith(f"{store}/"):
        strays.hold_again(reference)


def _sync(files: fsspec.AbstractFileSystem, name: str) -> None:
    """Put a local file on its disk before it is acknowledged; a remote store has done so when it answers."""
    if "file" in files.protocol:
        with Path(name).open("rb") as written:
            os.fsync(written.fileno())
