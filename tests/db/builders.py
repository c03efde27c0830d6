"""Small rows for the tests: each call names only what its test is about."""

import hashlib
import random
import uuid
from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy.orm import Session

from db import leases, ledger, outcomes, registry
from db.labels import NewLabel
from db.leases import Claim
from db.ledger import NewJob, Receipt
from db.runs import NewRun
from db.shards import Item
from db.snapshots import NewSnapshot

MODEL = "cats"
#: a lease of this length has run out when it begins: no test waits for a clock
OVER_S = -1.0
LEASE_S = 60.0


def items(num_items: int, first: int = 0) -> list[Item]:
    return [Item(position=n, key=f"key-{n}", reference=f"images/{n}.jpg") for n in range(first, first + num_items)]


def job(num_items: int = 10, **header: object) -> NewJob:
    usual: dict[str, object] = {
        "id": uuid.uuid4(),
        "model": MODEL,
        "version_id": None,
        "priority": "bulk",
        "idempotency_key": None,
        "top_k": 3,
        "num_items": num_items,
        "deadline_s": None,
        "caller": None,
    }
    return NewJob(**(usual | header))


def receive(session: Session, new: NewJob, first: int = 0, num: int | None = None, **how: object) -> Receipt:
    part = items(new.num_items - first if num is None else num, first)
    usual: dict[str, object] = {"digest": f"{first}", "shard_size": 4}
    return ledger.receive(session, new, part, first_position=first, **(usual | how))


def submit(session: Session, num_items: int = 10, *, shard_size: int = 4, **header: object) -> uuid.UUID:
    return receive(session, job(num_items, **header), shard_size=shard_size).job_id


def new_version(model: str = MODEL, **card: object) -> registry.NewVersion:
    usual: dict[str, object] = {
        "model": model,
        "arch": "resnet18",
        "num_classes": 2,
        "reference": f"models/{model}",
        "sha256": "0" * 64,
        "source": "demo",
        "parent_id": None,
        "metrics": {"top1": 0.9},
        "num_parameters": 11_000_000,
    }
    return registry.NewVersion(**(usual | card))


def fill(
    session: Session,
    max_items: int,
    *,
    version_id: int = 1,
    follows_latest: bool = True,
    owner: str = "ada",
    lease_s: float = LEASE_S,
    urgent: bool = False,
) -> list[Claim]:
    """Claim waiting shards of up to `max_items` items."""
    return leases.claim_waiting(
        session,
        model=MODEL,
        version_id=version_id,
        follows_latest=follows_latest,
        max_items=max_items,
        owner=owner,
        lease_s=lease_s,
        urgent=urgent,
    )


def outcomes_of(claim: Claim, *, failing: Iterable[int] = (), version_id: int | None = None) -> list[outcomes.Outcome]:
    """A label for each item of a claim, but an error for the positions in `failing`."""
    return [
        failed(item) if item.position in set(failing) else labelled(item, version_id=version_id) for item in claim.items
    ]


def labelled(item: Item, **columns: object) -> outcomes.Outcome:
    usual: dict[str, object] = {"label": "cat", "score": 0.75, "top_k": (("cat", 0.75), ("dog", 0.25))}
    named = {"position": item.position, "key": item.key, "reference": item.reference}
    return outcomes.Outcome(**(named | usual | columns))


def failed(item: Item, message: str = "not an image") -> outcomes.Outcome:
    error = outcomes.ItemFailure(stage="decode", kind="ImageUnreadable", message=message)
    return outcomes.Outcome(position=item.position, key=item.key, reference=item.reference, error=error)


def sha256(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def label(name: object, *, label: str = "cat", **columns: object) -> NewLabel:
    """A label of an image of its own: no other name's image looks like it."""
    picture = random.Random(f"picture of {name}")
    usual: dict[str, object] = {
        "sha256": sha256(name),
        "dhash": picture.getrandbits(64),
        "thumbnail": picture.randbytes(256),
        "reference": f"images/{name}.jpg",
        "label": label,
        "who": "ada",
        "source": "cli",
    }
    return NewLabel(**(usual | columns))


def again(original: NewLabel, name: object, *, bits: int = 0, **columns: object) -> NewLabel:
    """A label of the same picture in another file, whose hash differs in these bits."""
    file = {"sha256": sha256(name), "reference": f"images/{name}.jpg", "dhash": original.dhash ^ bits}
    return replace(original, **(file | columns))


def new_run(model: str = MODEL, **columns: object) -> NewRun:
    usual: dict[str, object] = {
        "model": model,
        "reason": "120 new labels",
        "asked_by": "trigger",
        "seed": 7,
        "base_id": None,
        "parent_id": None,
        "playbook": {"recipe": {"strategy": "auto"}},
    }
    return NewRun(**(usual | columns))


def new_snapshot(**columns: object) -> NewSnapshot:
    usual: dict[str, object] = {
        "model": MODEL,
        "digest": "5f",
        "reference": "snapshots/5f.jsonl",
        "num_images": 3,
        "counts": {"cat": {"train": 2, "test": 1}},
        "test_digest": "e1",
        "last_label_id": 3,
    }
    return NewSnapshot(**(usual | columns))
