"""Takes a model, or all, and what of it is to wait or to go on. Gives that order to the ledger.

Knows nothing of workers: each asks the ledger with every claim.
"""

import getpass
from argparse import Namespace

from sqlalchemy.orm import Session

from db import errors, pauses, registry, session
from db.models import EVERY_MODEL, Work
from worker import pausing, runtime
from worker.cli import output
from worker.settings import Settings


def pause(asked: Namespace, settings: Settings) -> int:
    """Let work of a model wait; what workers hold they finish. Raises `UnknownModel`."""
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        model = _model(transaction, asked, settings)
        pauses.pause(transaction, model, _works(asked), who=getpass.getuser(), reason=asked.reason)
        held = pauses.pauses(transaction, model)
    if asked.json:
        output.as_json({"paused": held})
        return 0
    for one in held:
        print(pausing.sentence(one))
    print("Jobs are accepted and wait, and their deadlines run; workers finish what they hold.")
    return 0


def resume(asked: Namespace, settings: Settings) -> int:
    """Let work go on; gives 1 if a pause of all models still holds it back. Raises `UnknownModel`."""
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        model = _model(transaction, asked, settings)
        resumed = pauses.resume(transaction, model, _works(asked))
        held = [one for one in pauses.pauses(transaction, model) if one.work in _works(asked)]
    if asked.json:
        output.as_json({"resumed": resumed, "paused": held})
    else:
        for one in resumed:
            of = "every model" if one.model == EVERY_MODEL else f"model {one.model!r}"
            print(f"{one.work.capitalize()} of {of} goes on; the next sweep rings for what waits.")
        for one in held:
            print(pausing.sentence(one))
        if not resumed and not held:
            print("Nothing was paused.")
    return 1 if held else 0


def _works(asked: Namespace) -> tuple[Work, ...]:
    if asked.learning:
        return ("learning",)
    return (asked.priority,) if asked.priority else pauses.ALL_WORK


def _model(transaction: Session, asked: Namespace, settings: Settings) -> str:
    if asked.all:
        return EVERY_MODEL
    known = {*registry.models(transaction), *settings.models}
    if asked.model not in known:
        raise errors.UnknownModel(f"There is no model {asked.model!r}; there are {', '.join(sorted(known))}.")
    model: str = asked.model
    return model
