"""Takes the arguments. Gives an exit code: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused.

Knows nothing of any one command; every error a user can cause ends here as one sentence.
"""

import importlib
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from db import errors as db_errors
from pipeline import errors as pipeline_errors
from worker import client, manifests, messages, settings
from worker import errors as worker_errors
from worker.cli import parser
from worker.doctor.findings import InstallationUnsafe
from worker.stack import StackError

DONE, FAILED, WRONG, REFUSED = 0, 1, 2, 3

#: What was asked cannot work as it was asked, whatever the state of the world.
WRONG_USAGE = (
    settings.SettingsInvalid,
    manifests.ManifestInvalid,
    messages.MessageInvalid,
    client.BrokerUnreachable,
    InstallationUnsafe,
    db_errors.LedgerUnreachable,
    db_errors.SchemaOld,
    db_errors.SchemaNew,
    db_errors.UnknownJob,
    db_errors.UnknownModel,
    db_errors.UnknownVersion,
    db_errors.UnknownClass,
    db_errors.UnknownRun,
    db_errors.UnknownKey,
    worker_errors.PlaybookInvalid,
    worker_errors.BackupRefused,
    worker_errors.NothingToStartFrom,
    pipeline_errors.ArchitectureUnknown,
    pipeline_errors.ClassesInvalid,
    pipeline_errors.PreprocessInvalid,
    pipeline_errors.DeviceUnavailable,
    pipeline_errors.RecipeInvalid,
)
#: It could have worked and did not; an OSError is a home folder that cannot be made, or a full disk.
FAILURES = (client.ClientError, db_errors.LedgerError, pipeline_errors.PipelineError, StackError, OSError)
#: Refusals of intake that are the caller's to mend.
WRONG_KINDS = frozenset({
    "invalid", "unknown_job", "unknown_model", "unknown_version", "unknown_class", "unknown_run",
    "idempotency_conflict", "nothing_to_start_from", "playbook_invalid", "recipe_invalid",
})  # fmt: skip

Handler = Callable[[Namespace, settings.Settings], int]


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code."""
    asked = parser.build().parse_args(arguments)
    try:
        known = settings.read_settings()
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        module, function = asked.handler.split(":")
        handler: Handler = getattr(importlib.import_module(f"worker.cli.{module}"), function)
        return handler(asked, known)
    except BrokenPipeError:
        # The reader (`head`, say) has enough; there is nobody left to tell.
        sys.stderr.close()
        return DONE
    except KeyboardInterrupt:
        return 130
    except (*WRONG_USAGE, *FAILURES) as wrong:
        return _say(asked, wrong, _code(wrong))


def _code(wrong: Exception) -> int:
    if isinstance(wrong, db_errors.GateRefuses):
        return REFUSED
    if isinstance(wrong, client.Refused):
        return WRONG if wrong.kind in WRONG_KINDS else FAILED
    return WRONG if isinstance(wrong, WRONG_USAGE) else FAILED


def _say(asked: Namespace, wrong: Exception, code: int) -> int:
    if asked.json:
        print(json.dumps({"error": _as_json(wrong)}), file=sys.stderr)
    else:
        print(f"imagemill: {wrong}", file=sys.stderr)
    return code


def _as_json(wrong: Exception) -> dict[str, object]:
    if not isinstance(wrong, client.Refused):
        return {"kind": type(wrong).__name__, "message": str(wrong)}
    later = {} if wrong.retry_after_s is None else {"retry_after_s": wrong.retry_after_s}
    return {"kind": wrong.kind, "message": str(wrong), **later}
