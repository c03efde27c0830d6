"""What the ledger can refuse.

Takes nothing. Gives one tree; a class docstring is its default message. Knows nothing of drivers.

    LedgerError
    ├── LedgerUnreachable
    ├── SchemaOld
    ├── SchemaNew
    ├── UnknownJob
    ├── UnknownModel
    ├── UnknownVersion
    ├── IdempotencyConflict
    ├── PartInvalid
    ├── JobFinished
    ├── LeaseLost
    ├── ServingChanged
    ├── NothingToRollBack
    ├── UnknownClass
    ├── UnknownRun
    ├── RunFinished
    ├── RunLost
    ├── UnknownKey
    └── GateRefuses
"""


class LedgerError(Exception):
    """The ledger refused."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class LedgerUnreachable(LedgerError):
    """The ledger's database cannot be reached."""


class SchemaOld(LedgerError):
    """The ledger's schema is older than this release: run `imagemill db upgrade`."""


class SchemaNew(LedgerError):
    """The ledger's schema is newer than this release: upgrade this imagemill."""


class UnknownJob(LedgerError):
    """The ledger holds no such job."""


class UnknownModel(LedgerError):
    """The ledger holds no such model, or none of its versions serves."""


class UnknownVersion(LedgerError):
    """The ledger holds no such version."""


class IdempotencyConflict(LedgerError):
    """This job id or idempotency key was used before, for a different request."""


class PartInvalid(LedgerError):
    """This part of a job cannot be received."""


class JobFinished(LedgerError):
    """The job has already ended."""


class LeaseLost(LedgerError):
    """The shard is no longer held by this claim: somebody else took it, or its job was cancelled."""


class ServingChanged(LedgerError):
    """The serving pointer moved since it was read."""


class NothingToRollBack(LedgerError):
    """No earlier version served before this one."""


class UnknownClass(LedgerError):
    """The model's class list is fixed and has no such class."""


class UnknownRun(LedgerError):
    """The ledger holds no such run."""


class RunFinished(LedgerError):
    """The run has already ended."""


class RunLost(LedgerError):
    """The run is no longer held by this worker: somebody else took it, or it was cancelled."""


class UnknownKey(LedgerError):
    """The ledger holds no such key."""


class GateRefuses(LedgerError):
    """The gate did not let this version serve; --force with --reason overrides it, on record."""
