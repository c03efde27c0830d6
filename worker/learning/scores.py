"""Takes the probabilities a version gives its frozen test images. Gives them back when drift is looked for.

Knows nothing of drift, or of torch: whoever compares needs no network.
"""

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pipeline import errors, stores

#: the one file of a version's folder
FILE = "scores.safetensors"


def keep(store: str, sha256: str, probabilities: object) -> None:
    """Write probabilities [N, C] of the test images under the checkpoint's sha256. Raises `StoreUnreachable`."""
    values = np.asarray(probabilities, dtype=np.float32)
    stores.write_folder(_folder(store, sha256), {FILE: safetensors.numpy.save({"scores": values})})


def recall(store: str, sha256: str) -> NDArray[np.float64] | None:
    """Give them back; None of a version that was imported, not trained here. Raises `CheckpointBroken`."""
    data = stores.read_file(_folder(store, sha256), FILE)
    if data is None:
        return None
    try:
        found: NDArray[np.float64] = safetensors.numpy.load(data)["scores"].astype(np.float64)
    except (safetensors.SafetensorError, KeyError) as wrong:
        raise errors.CheckpointBroken(f"The test scores of {sha256[:16]} cannot be read: {wrong}.") from wrong
    return found


def _folder(store: str, sha256: str) -> str:
    return f"{store.rstrip('/')}/scores/{sha256[:32]}"
