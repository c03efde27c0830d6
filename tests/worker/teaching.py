"""Labels put together by hand: a labeller that may read one folder, images of one motif each, rows that name them."""

from concurrent.futures import Executor
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from db import labels, session
from pipeline import images, references
from tests import builders
from worker import labelling
from worker.learning_messages import LabelledImage

MODEL = "cats"


def labeller(sessions: sessionmaker[Session], folder: Path, pool: Executor, **how: object) -> labelling.Labeller:
    """Give what records labels of images in `folder`, and keeps inline ones beside it."""
    store = f"file://{folder.parent}/inline"
    usual: dict[str, object] = {
        "roots": references.Roots.parse([str(folder), store]),
        "limits": images.Limits(max_bytes=100_000, max_pixels=10_000),
        "inline_store": store,
        "max_inline_bytes": 6_000,
    }
    return labelling.Labeller(sessions=sessions, pool=pool, **(usual | how))


def image(file: Path, *, seed: int) -> str:
    """Write a picture of its own motif and give its reference."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(builders.png_bytes(seed=seed))
    return file.as_uri()


def row(reference: str, label: str = "cat", **fields: object) -> LabelledImage:
    """Give a row as any door would."""
    return LabelledImage(**({"reference": reference, "label": label, "who": "ada", "source": "test"} | fields))


def known(sessions: sessionmaker[Session], model: str = MODEL) -> dict[str, str]:
    """Read the latest label of each image, by its reference."""
    with session.reading(sessions) as reading:
        return {one.reference: one.label for one in labels.current(reading, model)}


def stats(sessions: sessionmaker[Session], model: str = MODEL) -> labels.Stats:
    """Read a model's labels in numbers."""
    with session.reading(sessions) as reading:
        return labels.stats(reading, model)


def per_class(sessions: sessionmaker[Session], model: str = MODEL) -> dict[str, int]:
    """Count a model's images by class, whatever their split."""
    return {one.name: one.num + one.excluded for one in stats(sessions, model).per_class}
