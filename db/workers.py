"""Workers: who is alive, and what each holds warm.

Takes heartbeats. Gives the workers heard of lately.
Knows nothing of processes; a worker that dies simply stops beating.
"""

from dataclasses import asdict, dataclass

from sqlalchemy import and_, case, delete, select
from sqlalchemy.orm import Session

from db import drains, models
from db import session as database
from db.models import WorkerState
from db.session import now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker, as it describes itself."""

    name: str
    host: str
    pid: int
    role: str
    models: tuple[str, ...]
    device: str
    #: the same for every worker that computes there, in whatever container
    device_id: str | None = None
    state: WorkerState
    #: names of the versions held in memory
    warm: tuple[str, ...] = ()
    #: why it is not ready
    message: str | None = None
    #: by model, of late; None until it has worked
    images_per_s: dict[str, float] | None = None
    #: what it measures of itself, by name: bytes of memory
    readings: dict[str, float] | None = None
    #: of the process that takes messages for it; None: of a release that cannot be asked to drain
    parent_pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive(Worker):
    """A worker heard of lately."""

    started_at_s: float
    heartbeat_at_s: float
    #: what is asked of it, if it is to take no more work
    drain: drains.Asked | None = None

    @property
    def takes_work(self) -> bool:
        """Whether it takes more than it holds."""
        return self.drain is None


def beat(session: Session, worker: Worker) -> bool:
    """Write a worker's heartbeat; one with another pid has started anew. Gives whether it is asked to drain."""
    row = models.Worker
    told = asdict(worker) | {"models": list(worker.models), "warm": list(worker.warm)}
    first = database.insert(session, row).values(**told, started_at_s=now_s(), heartbeat_at_s=now_s())
    restarted = (row.host != first.excluded.host) | (row.pid != first.excluded.pid)
    again = told | {
        "started_at_s": case((restarted, now_s()), else_=row.started_at_s),
        "heartbeat_at_s": now_s(),
    }
    written = first.on_conflict_do_update(index_elements=[row.name], set_=again)
    is_asked = drains.is_asked(worker.host, worker.parent_pid or 0)
    return bool(session.scalar(written.returning(is_asked)))


def list_alive(session: Session, *, within_s: float) -> list[Alive]:
    """List the workers whose last heartbeat is at most `within_s` seconds old, by name."""
    row = models.Worker
    its_drain = and_(models.Drain.host == row.host, models.Drain.parent_pid == row.parent_pid)
    alive = select(row, models.Drain).outerjoin(models.Drain, its_drain)
    return [
        models.copied(
            Alive,
            found,
            models=tuple(found.models),
            warm=tuple(found.warm),
            drain=drain and models.copied(drains.Asked, drain),
        )
        for found, drain in session.execute(alive.where(row.heartbeat_at_s >= now_s() - within_s).order_by(row.name))
    ]


def paces(session: Session, model: str, *, within_s: float) -> list[float | None]:
    """Give the images/s of each worker alive that takes a model's work; None for one that has not worked on it yet."""
    alive = list_alive(session, within_s=within_s)
    serving = [worker for worker in alive if model in worker.models and worker.takes_work]
    return [(worker.images_per_s or {}).get(model) for worker in serving]


def leave(session: Session, name: str) -> None:
    """Forget a worker that stopped."""
    session.execute(delete(models.Worker).where(models.Worker.name == name))
