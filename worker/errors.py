"""Takes nothing. Gives the errors of learning that concern what the owner of a model configured or asked for.

Knows nothing of playbooks or of SQL, so that whoever only names these errors loads neither.
"""

from pipeline.errors import PipelineError


class PlaybookInvalid(PipelineError, ValueError):
    """The playbook names something unknown, or gives a value that makes no sense."""


class NothingToStartFrom(PipelineError, ValueError):
    """The model has no version to start from."""
