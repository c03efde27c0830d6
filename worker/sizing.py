"""Takes a model and a number of items. Gives how many of them make a shard: what a worker does in about a second.

Knows nothing of jobs. A shard is the unit of lease and record: larger ones cost fewer transactions, smaller ones lose
less with a worker that dies and are shared out better.
"""

from sqlalchemy.orm import Session

from db import workers

#: Seconds of work in a shard.
SHARD_S = 1.0
#: Items in a shard at least and at most, and where no worker has told its pace yet.
FEWEST, MOST, UNKNOWN = 8, 1000, 64
#: Seconds without a heartbeat after which a worker is not counted, or shown, as serving.
ALIVE_S = 30.0


def shard_size(reading: Session, setting: int, model: str, num_items: int) -> int:
    """Give the setting, or for 0 what the model's workers do in a second; a small job still gives each its part."""
    if setting:
        return setting
    paces = workers.paces(reading, model, within_s=ALIVE_S)
    told = [pace for pace in paces if pace is not None]
    if not told:
        return UNKNOWN
    a_second = round(SHARD_S * sum(told) / len(told))
    part = -(-num_items // len(paces))
    return min(MOST, max(FEWEST, min(a_second, part)))
