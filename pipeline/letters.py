"""Takes an empty folder.

Gives the letters that the demo's backbone is pretrained on: printed ones, turned, moved and squeezed, as PNG files.
Knows nothing of networks, or of the digits it is made to recognise afterwards.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.digits import SIZE, Digit

#: capitals and small letters that differ from them in shape
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabdefghnqrt"
#: pixels of the canvas a letter is drawn on before it is made small
CANVAS = 96


def write_images(folder: Path, seed: int, *, num_per_letter: int) -> list[Digit]:
    """Draw each letter `num_per_letter` times as a 32x32 greyscale PNG file; the same for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing = random.Random(seed)  # noqa: S311 - pictures, not secrets
    return [
        _write(folder / f"letter-{ord(letter)}-{number:03}.png", _draw(letter, drawing), letter)
        for letter in LETTERS
        for number in range(num_per_letter)
    ]


def _write(file: Path, image: Image.Image, letter: str) -> Digit:
    image.save(file)
    return Digit(file=file, label=letter)


def _draw(letter: str, drawing: random.Random) -> Image.Image:
    canvas = Image.new("L", (CANVAS, CANVAS))
    font = ImageFont.load_default(size=drawing.uniform(64, 88))
    pen = drawing.choice((0, 1, 2, 3))
    middle = (CANVAS / 2 + drawing.uniform(-4, 4), CANVAS / 2 + drawing.uniform(-4, 4))
    ImageDraw.Draw(canvas).text(middle, letter, fill=255, font=font, anchor="mm", stroke_width=pen, stroke_fill=255)
    turned = canvas.rotate(drawing.uniform(-15, 15), Image.Resampling.BILINEAR)
    sheared = turned.transform(
        turned.size, Image.Transform.AFFINE, (1, drawing.uniform(-0.2, 0.2), 0, 0, 1, 0), Image.Resampling.BILINEAR
    )
    # As coarse as the digits are: eight pixels a side, made larger again.
    box = sheared.getbbox() or (0, 0, CANVAS, CANVAS)
    coarse = sheared.crop(box).resize((8, 8), Image.Resampling.BOX)
    return coarse.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
