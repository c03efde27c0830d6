"""Takes the settings. Gives what may be read: where references may lie, and how large an image may be.

Knows nothing of who reads.
"""

from pipeline import images, references
from worker.settings import Settings


def roots(settings: Settings) -> references.Roots:
    """Give the allowed roots, and where intake keeps images itself. Raises ValueError for one that is no root."""
    return references.Roots.parse((*settings.allowed_roots, settings.inline_store))


def limits(settings: Settings) -> images.Limits:
    """Give the limits of one image."""
    return images.Limits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
