"""Takes what an annotation tool said, read into rows. Gives the labels to intake, and a receipt for all of them.

Knows nothing of the door they came by.
"""

import logging

from worker.client import Client
from worker.learning_messages import LabelledImage, LabelsReceipt, RefusedLabel

log = logging.getLogger(__name__)


def hand_over(client: Client, model: str, rows: tuple[LabelledImage | RefusedLabel, ...]) -> LabelsReceipt:
    """Give the labels to intake, and name what was no label among what it refused. Raises `ClientError`."""
    images = [row for row in rows if isinstance(row, LabelledImage)]
    unusable = tuple(row for row in rows if isinstance(row, RefusedLabel))
    receipt = client.label_items(images, model=model) if images else LabelsReceipt(model=model)
    receipt = receipt.and_then(LabelsReceipt(model=model, refused=unusable))
    for refused in receipt.refused:
        log.warning("a label of %s was refused: %s", model, refused.kind)  # its sentence may name the reference
    return receipt
