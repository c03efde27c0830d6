"""Takes nothing. Gives the errors of learning and of backups that concern what an owner configured or asked for.

Knows nothing of playbooks, archives or SQL, so that whoever only names these errors loads none of them.
"""

from pipeline.errors import PipelineError


class PlaybookInvalid(PipelineError, ValueError):
    """The playbook names something unknown, or gives a value that makes no sense."""


class BackupDamaged(PipelineError):
    """The backup is not what was written."""


class BackupRefused(PipelineError, ValueError):
    """The backup cannot be restored here as it was asked."""


class NothingToStartFrom(PipelineError, ValueError):
    """The model has no version to start from."""
