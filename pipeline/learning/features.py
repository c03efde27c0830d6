"""Takes a network, its layers and images.

Gives what the network's head sees of each image, computed once per image, backbone and preprocessing.
Knows nothing of labels, heads or training.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline import images, stores
from pipeline.errors import StoreUnreachable
from pipeline.learning import layers as parts
from pipeline.learning import pixels
from pipeline.learning.layers import Layers
from pipeline.learning.pixels import Lost, Source
from pipeline.preprocess import Preprocess

logger = logging.getLogger(__name__)

#: the one file of a shard's folder
SHARD = "features.safetensors"
#: bytes of a sha256
DIGEST_SIZE = 32
#: images whose features are written together; a crash loses at most as many
SHARD_SIZE = 1024
#: images per forward
BATCH_SIZE = 64


# ---------------------------------------------------------------- the forward


def extract(
    network: nn.Module,
    layers: Layers,
    preprocess: Preprocess,
    batches: Iterable[Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Give fp32 [N, D] on the CPU: what the head is given for each image of the uint8 batches [n, 3, S, S].

    The network is moved to the device, runs in evaluation mode without gradients (bf16 under autocast) and is left in
    the modes it had.
    """
    with forward_of(network, layers, preprocess, device=device, dtype=dtype) as forward:
        found = [forward(batch) for batch in batches]
    return torch.cat(found) if found else torch.zeros(0, parts.head_of(network, layers).in_features)


@contextmanager
def forward_of(
    network: nn.Module, layers: Layers, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Give the function from uint8 images [n, 3, S, S] to features, fp32 [n, D] on the CPU."""
    seen: list[Tensor] = []
    modes = [(module, module.training) for module in network.modules()]
    head = parts.head_of(network, layers)
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def forward(images_NCHW: Tensor) -> Tensor:  # noqa: N803
        seen.clear()
        given = images_NCHW.contiguous(memory_format=torch.channels_last).to(device)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            network(preprocess.normalize(given))
        return seen.pop().float().cpu().clone()

    def halving(images_NCHW: Tensor) -> Tensor:  # noqa: N803
        try:
            return forward(images_NCHW)
        except torch.OutOfMemoryError:
            if len(images_NCHW) == 1:
                raise
            logger.warning("out of memory with %s images, trying half", len(images_NCHW))
        return torch.cat([halving(half) for half in torch.tensor_split(images_NCHW, 2)])

    try:
        yield halving
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode


# ---------------------------------------------------------------- the cache


class FeatureCache:
    """Features of one backbone and one preprocessing, by the images' sha256, in a store."""

    def __init__(self, address: str) -> None:
        """Read the shards under `address`; raise StoreUnreachable. A broken shard counts as not there."""
        self._address = address
        self._rows: dict[str, Tensor] = {}
        for name in _folders(address):
            self._rows.update(_read_shard(f"{address}/{name}", name))

    @classmethod
    def open(
        cls, store: str, backbone_sha256: str, preprocess_digest: str, *, dtype: torch.dtype = torch.float32
    ) -> FeatureCache:
        """Open the cache under `store` (a file:// or s3:// URL) whose features were made in this way."""
        made = f"{backbone_sha256}|{preprocess_digest}|{dtype}"
        return cls(f"{store.rstrip('/')}/features/{hashlib.sha256(made.encode()).hexdigest()[:32]}")

    def __len__(self) -> int:
        return len(self._rows)

    def missing(self, sha256s: Iterable[str]) -> list[str]:
        """Give those that are not there, in order, each once."""
        return [sha256 for sha256 in dict.fromkeys(sha256s) if sha256 not in self._rows]

    def add(self, sha256s: Sequence[str], features: Tensor) -> None:
        """Write a shard; raise StoreUnreachable. Two writers at once do no harm."""
        names = torch.frombuffer(bytearray.fromhex("".join(sha256s)), dtype=torch.uint8).view(-1, DIGEST_SIZE)
        data = safetensors.torch.save({"sha256": names, "features": features.float().contiguous()})
        # A new name each time: where a broken shard of the same content lies, it would stay.
        name = f"{hashlib.sha256(data).hexdigest()[:32]}-{secrets.token_hex(4)}"
        stores.write_folder(f"{self._address}/{name}", {SHARD: data})
        self._rows.update(zip(sha256s, features.float(), strict=True))

    def rows(self, sha256s: Sequence[str]) -> Tensor:
        """Give fp32 [N, D] in the order asked for; all must be there."""
        return torch.stack([self._rows[sha256] for sha256 in sha256s])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extracted:
    """Features of the images that there are features of."""

    #: fp32 [len(kept), D]
    features: Tensor
    #: their indices among the sources
    kept: tuple[int, ...]
    lost: tuple[Lost, ...]
    #: images that went through the network
    num_forwards: int


def cached(
    network: nn.Module,
    layers: Layers,
    preprocess: Preprocess,
    sources: Sequence[Source],
    cache: FeatureCache,
    *,
    fetch: Callable[[str], bytes],
    limits: images.Limits,
    pool: Executor,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    batch_size: int = BATCH_SIZE,
    keep_going: Callable[[], None] = lambda: None,
) -> Extracted:
    """Give the features of all sources, with one forward for each image that the cache lacks.

    `keep_going` is called before each batch and may raise; what was computed until then stays in the cache, but
    for less than a shard. An image that is in the cache is not read again.
    """
    missing = set(cache.missing(sha256 for sha256, _ in sources))
    todo = list({sha256: (sha256, reference) for sha256, reference in sources if sha256 in missing}.values())
    lost: list[Lost] = []
    stream = pixels.read(todo, fetch=fetch, limits=limits, shape=preprocess.pixels, pool=pool, on_lost=lost.append)
    num_forwards = 0
    if todo:
        with forward_of(network, layers, preprocess, device=device, dtype=dtype) as forward:
            num_forwards = _fill(cache, todo, stream, forward, batch_size, keep_going)
    gone = {entry.sha256 for entry in lost}
    kept = tuple(index for index, (sha256, _) in enumerate(sources) if sha256 not in gone)
    width = parts.head_of(network, layers).in_features
    features = cache.rows([sources[index][0] for index in kept]) if kept else torch.zeros(0, width)
    return Extracted(features=features, kept=kept, lost=tuple(lost), num_forwards=num_forwards)


def _fill(
    cache: FeatureCache,
    todo: Sequence[Source],
    stream: Iterator[tuple[int, Tensor]],
    forward: Callable[[Tensor], Tensor],
    batch_size: int,
    keep_going: Callable[[], None],
) -> int:
    names: list[str] = []
    found: list[Tensor] = []
    num_forwards = 0
    for indices, batch in _batches(stream, batch_size):
        keep_going()
        found.append(forward(batch))
        names += [todo[index][0] for index in indices]
        num_forwards += len(indices)
        if len(names) >= SHARD_SIZE:
            cache.add(names, torch.cat(found))
            names, found = [], []
    if names:
        cache.add(names, torch.cat(found))
    return num_forwards


def _batches(stream: Iterator[tuple[int, Tensor]], batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    indices: list[int] = []
    forming: list[Tensor] = []
    for index, image in stream:
        indices.append(index)
        forming.append(image.permute(1, 2, 0))
        if len(indices) == batch_size:
            yield indices, torch.stack(forming).permute(0, 3, 1, 2)
            indices, forming = [], []
    if indices:
        yield indices, torch.stack(forming).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- shards


def _folders(address: str) -> list[str]:
    try:
        filesystem, folder = fsspec.core.url_to_fs(address)
        found = filesystem.ls(folder, detail=False, refresh=True)
    except FileNotFoundError:
        return []
    except Exception as error:  # every driver brings its own family (botocore, aiohttp, ...)
        raise StoreUnreachable(f"{address} could not be listed: {error}.") from error
    names = [str(entry).rstrip("/").rpartition("/")[2] for entry in found]
    return sorted(name for name in names if not name.startswith("."))  # a dot: still being written


def _read_shard(address: str, name: str) -> dict[str, Tensor]:
    data = stores.read_file(address, SHARD)
    if data is None or hashlib.sha256(data).hexdigest()[:32] != name.partition("-")[0]:
        logger.warning("the features in %s are damaged and will be computed again", address)
        return {}
    try:
        shard = safetensors.torch.load(data)
        names = shard["sha256"].numpy().tobytes()
        starts = range(0, len(names), DIGEST_SIZE)
        return dict(zip((names[at : at + DIGEST_SIZE].hex() for at in starts), shard["features"], strict=True))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        logger.warning("the features in %s cannot be read and will be computed again: %s", address, error)
        return {}
