"""Near duplicates: the same picture saved again, larger, smaller, turned upright or compressed harder.

Takes the fingerprints of images. Gives the images that one nearly repeats, nearest first.
Knows nothing of tables, labels or pixels beyond a 16 x 16 thumbnail.

Prints stand on shelves, five for each. Two that are near share one at least, or stand side by side, so that none
has to be compared with all the others.
"""

import zlib
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, inf, sqrt
from operator import mul, sub

#: bits in which the hashes of near duplicates may differ (science 3.3)
MAX_DISTANCE = 4
#: difference of two thumbnails from which they show different pictures. Measured: over 5,956 images of five kinds,
#: the same picture saved again stays below 0.041, and two different pictures of near hashes are 0.056 apart or more.
#: By the hash alone, a chain of 1,744 of 1,797 drawn digits would be one group.
MAX_DIFFERENCE = 0.05
#: grey levels of spread below which a thumbnail is flat and has nothing to compare: then it must be the same, exactly.
#: All pictures of one colour hash to 0, and would otherwise be one group.
MIN_SPREAD = 4.0
#: widths of the bands; one more than `MAX_DISTANCE`, so that near hashes agree in at least one (pigeonhole)
_WIDTHS = (13, 13, 13, 13, 12)
_BAND = 1 << 13
#: a tone is two slants, each counted in steps of twice the difference that near thumbnails may have
_STEP = 2 * MAX_DIFFERENCE
#: steps that a slant, from -1 to 1, may take
_STEPS = 1 + 2 * floor(1 / _STEP + 1)
#: first of the tones of flat thumbnails, and their number
_FLAT, _NUM_FLAT = 1 + _STEPS**2, 1024
#: pixels of a thumbnail's side, and blocks they are summed up in
_SIDE, _BLOCKS = 16, 4
#: thumbnails kept ready to compare; each takes 2 KB
_KEPT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Print:
    """What tells whether two images are the same picture."""

    #: difference hash, 64 bits, unsigned
    dhash: int
    #: 16 x 16 grey pixels, or None: such images are compared among themselves, by the hash alone
    thumbnail: bytes | None


class Neighbours:
    """Finds those among the prints it was given that another one nearly repeats."""

    def __init__(self) -> None:
        self._prints: dict[str, Print] = {}
        self._shelves: defaultdict[tuple[int, int], list[str]] = defaultdict(list)

    def add(self, name: str, one: Print, shelves: Sequence[int]) -> None:
        """Remember a print under the name of its image, on its `shelves_of`."""
        self._prints[name] = one
        for shelf in enumerate(shelves):
            self._shelves[shelf].append(name)

    def of(self, one: Print) -> list[str]:
        """Name the images it nearly repeats: fewest differing bits first, then most alike, then by name."""
        shelves = ((n, shelf) for n, reached in enumerate(reach_of(one)) for shelf in reached)
        found = []
        for name in {name for shelf in shelves for name in self._shelves.get(shelf, ())}:
            known = self._prints[name]
            distance = (known.dhash ^ one.dhash).bit_count()
            if distance <= MAX_DISTANCE and (apart := difference(one.thumbnail, known.thumbnail)) < MAX_DIFFERENCE:
                found.append((distance, apart, name))
        return [name for _, _, name in sorted(found)]


class Wanted:
    """Tells which prints may be near one of those it was given, by their hashes and shelves alone."""

    def __init__(self) -> None:
        self._reached: defaultdict[tuple[int, int], set[int]] = defaultdict(set)

    def add(self, one: Print) -> None:
        """Remember a print."""
        for n, reached in enumerate(reach_of(one)):
            for shelf in reached:
                self._reached[n, shelf].add(one.dhash)

    def has_near(self, dhash: int, shelves: Sequence[int]) -> bool:
        """Tell whether a print that stands on these shelves is hashed near one of them."""
        return any(
            (known ^ dhash).bit_count() <= MAX_DISTANCE
            for shelf in enumerate(shelves)
            for known in self._reached.get(shelf, ())
        )

    def reached(self) -> list[list[int]]:
        """List the shelves on which a near print may stand, for each of the five."""
        return [[shelf for at, shelf in self._reached if at == n] for n in range(len(_WIDTHS))]


def shelves_of(one: Print) -> tuple[int, ...]:
    """Give the five shelves a print stands on, each below 2**31: a band of its hash and the tone of its thumbnail."""
    tone = _tone_of(one.thumbnail)
    return tuple(band + _BAND * tone for band in _bands(one.dhash))


def reach_of(one: Print) -> tuple[tuple[int, ...], ...]:
    """Give, for each of its five shelves, all on which a print that is near it may stand."""
    tones = _tones_near(one.thumbnail)
    return tuple(tuple(band + _BAND * tone for tone in tones) for band in _bands(one.dhash))


def difference(a: bytes | None, b: bytes | None) -> float:
    """Tell thumbnails apart: mean absolute difference of their grey levels at zero mean and unit spread.

    Infinite where there is nothing to compare: a flat one that is not the same, or one alone.
    """
    if a == b:
        return 0.0
    one, other = a and _levels(a), b and _levels(b)
    if not one or not other:
        return inf
    # Blocks differ by no more than their pixels do in the mean, and tell most pictures apart.
    if _apart(one.blocks, other.blocks) >= MAX_DIFFERENCE:
        return inf
    return _apart(one.pixels, other.pixels)


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    return float(sum(map(abs, map(sub, a, b)))) / len(a)


def signed(dhash: int) -> int:
    """Spell 64 bits as the signed number a database holds."""
    return dhash - (1 << 64) if dhash >> 63 else dhash


def unsigned(number: int) -> int:
    """Read 64 bits back from the signed number a database holds."""
    return number % (1 << 64)


def _bands(dhash: int) -> list[int]:
    bands = []
    for width in _WIDTHS:
        bands.append(dhash & ((1 << width) - 1))
        dhash >>= width
    return bands


def _tone_of(thumbnail: bytes | None) -> int:
    slants = _slants(thumbnail)
    return _tone([floor(slant / _STEP) for slant in slants]) if slants else _toneless(thumbnail)


def _tones_near(thumbnail: bytes | None) -> list[int]:
    slants = _slants(thumbnail)
    if not slants:
        return [_toneless(thumbnail)]
    # A slant is a mean of pixels, each with a sign: it differs by no more than the pixels do in the mean.
    across, down = (
        {floor((slant - MAX_DIFFERENCE) / _STEP), floor((slant + MAX_DIFFERENCE) / _STEP)} for slant in slants
    )
    return [_tone((one, other)) for one in across for other in down]


def _tone(steps: Sequence[int]) -> int:
    across, down = (step + _STEPS // 2 for step in steps)
    return 1 + across * _STEPS + down


def _toneless(thumbnail: bytes | None) -> int:
    return 0 if thumbnail is None else _FLAT + zlib.crc32(thumbnail) % _NUM_FLAT


def _slants(thumbnail: bytes | None) -> tuple[float, float] | None:
    """Give how much lighter the left and the upper half are, from -1 to 1; None without levels to compare."""
    levels = thumbnail and _levels(thumbnail)
    if not levels:
        return None
    blocks = levels.blocks
    half = len(blocks) // 2
    left = sum(mean for n, mean in enumerate(blocks) if n % _BLOCKS < _BLOCKS // 2)
    # The means add up to nothing, so the other half is the same with the other sign.
    return left / half, sum(blocks[:half]) / half


@dataclass(frozen=True, slots=True, kw_only=True)
class _Levels:
    """A thumbnail's grey levels at zero mean and unit spread, and their means in 4 x 4 blocks."""

    pixels: Sequence[float]
    blocks: Sequence[float]


@lru_cache(_KEPT)
def _levels(thumbnail: bytes) -> _Levels | None:
    """Standardise a thumbnail; None if it is flat."""
    mean = sum(thumbnail) / len(thumbnail)
    spread = sqrt(max(0.0, sum(map(mul, thumbnail, thumbnail)) / len(thumbnail) - mean**2))
    if spread < MIN_SPREAD:
        return None
    pixels = array("d", [(level - mean) / spread for level in thumbnail])
    return _Levels(pixels=pixels, blocks=array("d", _block_means(pixels)))


def _block_means(pixels: Sequence[float]) -> list[float]:
    size = _SIDE // _BLOCKS
    starts = range(0, len(pixels), size)
    runs = [sum(pixels[start : start + size]) for start in starts]  # each a row of one block
    tops = [row * _BLOCKS + column for row in range(0, _SIDE, size) for column in range(_BLOCKS)]
    return [sum(runs[top : top + size * _BLOCKS : _BLOCKS]) / size**2 for top in tops]
