"""The backbone runs once per image, weights and preprocessing; what is cached is as good as fresh."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import backbones, digits, images
from pipeline.errors import StoreUnreachable
from pipeline.learning import features, heads, layers
from pipeline.learning.features import Extracted, FeatureCache
from pipeline.preprocess import Preprocess
from tests import builders

CPU = torch.device("cpu")
PREPROCESS = Preprocess(resize_size=digits.SIZE, crop_size=digits.SIZE)


class Counting:
    """A network, its images, and how many of them went through it."""

    def __init__(self, num: int) -> None:
        self.network = builders.tiny_network()
        self.layers = layers.layers(self.network, digits.SIZE)
        self.num_images = 0
        self.network.register_forward_pre_hook(self._count)
        self.files: dict[str, bytes] = {}
        self.more(num)

    def _count(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.num_images += len(inputs[0])

    def more(self, num: int) -> None:
        for seed in range(len(self.files), len(self.files) + num):
            self.files[f"{seed}.png"] = builders.png_bytes(seed=seed)

    @property
    def sources(self) -> list[tuple[str, str]]:
        return [(hashlib.sha256(data).hexdigest(), name) for name, data in self.files.items()]

    def pixels(self, preprocess: Preprocess = PREPROCESS) -> Tensor:
        limits = images.Limits()
        return torch.stack([preprocess.pixels(images.decode(data, limits)) for data in self.files.values()])

    def open(self, store: Path, preprocess: Preprocess = PREPROCESS) -> FeatureCache:
        sha256 = layers.backbone_sha256(self.network, self.layers)
        return FeatureCache.open(store.as_uri(), sha256, preprocess.digest())

    def extract(
        self,
        store: Path,
        pool: Executor,
        *,
        preprocess: Preprocess = PREPROCESS,
        sources: list[tuple[str, str]] | None = None,
        **options: object,
    ) -> Extracted:
        self.num_images = 0
        return features.cached(
            self.network,
            self.layers,
            preprocess,
            self.sources if sources is None else sources,
            self.open(store, preprocess),
            fetch=self.files.__getitem__,
            limits=images.Limits(),
            pool=pool,
            device=CPU,
            **{"batch_size": 4, **options},  # type: ignore[arg-type]
        )


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


# ---------------------------------------------------------------- the forward


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "timm:vit_tiny_patch16_224", "pipeline.digits:small_network"])
def test_the_head_on_the_features_gives_the_networks_logits(arch: str) -> None:
    network = backbones.build(arch, num_classes=4).eval()
    preprocess = backbones.preprocess_for(arch)
    found = layers.layers(network, preprocess.crop_size)
    generator = torch.Generator().manual_seed(0)
    size = preprocess.crop_size
    batch = torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    given = features.extract(network, found, preprocess, [batch[:2], batch[2:]], device=CPU)
    assert given.dtype == torch.float32
    with torch.inference_mode():
        expected = network(preprocess.normalize(batch))
    assert torch.allclose(heads.logits(heads.of(network, found), given), expected, atol=1e-5)
    assert not given.is_inference()


def test_extraction_leaves_the_network_in_the_modes_it_had() -> None:
    counting = Counting(3)
    counting.network.train()
    counting.network.get_submodule("1").eval()
    modes = [module.training for module in counting.network.modules()]
    before = {name: tensor.clone() for name, tensor in counting.network.state_dict().items()}
    features.extract(counting.network, counting.layers, PREPROCESS, [counting.pixels()], device=CPU)
    assert [module.training for module in counting.network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in counting.network.state_dict().items())
    assert all(parameter.grad is None for parameter in counting.network.parameters())
    assert not counting.network.get_submodule("14")._forward_pre_hooks


def test_bf16_features_are_near_those_of_fp32() -> None:
    counting = Counting(8)
    batch = [counting.pixels()]
    exact, rough = (
        features.extract(counting.network, counting.layers, PREPROCESS, batch, device=CPU, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    assert 0 < float((exact - rough).abs().max()) < 0.05 * float(exact.abs().max())


class Cramped(nn.Module):
    """A network that has room for two images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = builders.tiny_network()

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        logits: Tensor = self.inner(batch)
        return logits


def test_a_batch_that_does_not_fit_is_halved() -> None:
    cramped, counting = Cramped(), Counting(7)
    found = layers.layers(cramped, digits.SIZE)
    given = features.extract(cramped, found, PREPROCESS, [counting.pixels()], device=CPU)
    expected = features.extract(counting.network, counting.layers, PREPROCESS, [counting.pixels()], device=CPU)
    assert torch.allclose(given, expected, atol=1e-5)


# ---------------------------------------------------------------- the cache


def test_only_what_the_cache_lacks_goes_through_the_network(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(10)
    first = counting.extract(tmp_path, pool)
    assert (first.num_forwards, counting.num_images, first.kept) == (10, 10, tuple(range(10)))
    again = counting.extract(tmp_path, pool)
    assert (again.num_forwards, counting.num_images) == (0, 0)
    assert torch.equal(again.features, first.features)
    counting.more(3)
    grown = counting.extract(tmp_path, pool)
    assert (grown.num_forwards, counting.num_images) == (3, 3)
    assert torch.equal(grown.features[:10], first.features)
    fresh = features.extract(counting.network, counting.layers, PREPROCESS, [counting.pixels()], device=CPU)
    assert torch.allclose(grown.features, fresh, atol=1e-5)


def test_an_image_that_comes_twice_is_computed_once(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(3)
    counting.files["twin.png"] = counting.files["0.png"]
    given = counting.extract(tmp_path, pool)
    assert (given.num_forwards, given.kept) == (3, (0, 1, 2, 3))
    assert torch.equal(given.features[3], given.features[0])


@pytest.mark.parametrize("field", ["mean", "resize_size", "interpolation"])
def test_another_preprocessing_computes_everything_anew(tmp_path: Path, pool: Executor, field: str) -> None:
    other = {"mean": (0.5, 0.5, 0.5), "resize_size": 40, "interpolation": "bicubic"}[field]
    counting = Counting(3)
    counting.extract(tmp_path, pool)
    changed = Preprocess(**{**PREPROCESS.as_dict(), field: other})  # type: ignore[arg-type]
    assert counting.extract(tmp_path, pool, preprocess=changed).num_forwards == 3


def test_another_backbone_computes_everything_anew_and_another_head_nothing(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(3)
    counting.extract(tmp_path, pool)
    layers.replace_head(counting.network, counting.layers, 8)
    assert counting.extract(tmp_path, pool).num_forwards == 0
    counting.network.get_parameter("0.weight").data[0, 0, 0, 0] += 1e-6
    assert counting.extract(tmp_path, pool).num_forwards == 3


def test_a_head_from_the_cache_is_the_head_from_fresh_features(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(60)
    targets = [number % 3 for number in range(60)]
    counting.extract(tmp_path, pool, batch_size=7)
    kept = counting.extract(tmp_path, pool).features
    fresh = features.extract(counting.network, counting.layers, PREPROCESS, [counting.pixels()], device=CPU)
    first, second = (heads.fit(values, targets, 3, l2=1.0) for values in (kept, fresh))
    assert float((heads.logits(first, kept) - heads.logits(second, fresh)).abs().max()) < 1e-4


def test_lost_images_have_no_features_and_cost_nothing_else(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(4)
    sources = counting.sources
    counting.files["1.png"] = b"not what it was"
    given = counting.extract(tmp_path, pool, sources=sources)
    assert given.kept == (0, 2, 3)
    assert given.features.shape == (3, 64)
    assert [(lost.reference, lost.kind) for lost in given.lost] == [("1.png", "changed")]


def test_an_image_in_the_cache_need_not_be_there_any_more(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(3)
    first = counting.extract(tmp_path, pool)
    sources, counting.files = counting.sources, {}
    again = counting.extract(tmp_path, pool, sources=sources)
    assert torch.equal(again.features, first.features)


@pytest.mark.parametrize("damage", [b"", b"no shard", None], ids=["empty", "another file", "one bit"])
def test_a_damaged_shard_is_computed_again(
    tmp_path: Path, pool: Executor, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    counting = Counting(5)
    first = counting.extract(tmp_path, pool)
    (shard,) = tmp_path.rglob(features.SHARD)
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    again = counting.extract(tmp_path, pool)
    assert again.num_forwards == 5
    assert torch.equal(again.features, first.features)
    assert "will be computed again" in caplog.text
    assert counting.extract(tmp_path, pool).num_forwards == 0


def test_what_a_killed_writer_left_behind_is_no_shard(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(3)
    counting.extract(tmp_path, pool)
    (shard,) = tmp_path.rglob(features.SHARD)
    half = shard.parent.parent / f".{shard.parent.name}.0123456789abcdef"
    half.mkdir()
    (half / features.SHARD).write_bytes(shard.read_bytes()[:40])
    assert len(counting.open(tmp_path)) == 3


def test_work_before_an_end_is_kept_by_whole_shards(
    tmp_path: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_SIZE", 8)  # a smaller limit, so that few images fill it
    counting = Counting(20)
    calls = []

    def cancel() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counting.extract(tmp_path, pool, keep_going=cancel)
    assert len(counting.open(tmp_path)) == 8
    assert counting.extract(tmp_path, pool).num_forwards == 12


def test_two_writers_of_the_same_images_do_no_harm(tmp_path: Path) -> None:
    counting = Counting(2)
    names = [sha256 for sha256, _ in counting.sources]
    first, second = counting.open(tmp_path), counting.open(tmp_path)
    first.add(names, torch.ones(2, 5))
    assert second.missing(names) == names
    second.add(names, torch.ones(2, 5))
    merged = counting.open(tmp_path)
    assert merged.missing([*names, "ab" * 32]) == ["ab" * 32]
    assert torch.equal(merged.rows(names[::-1]), torch.ones(2, 5))


def test_nothing_asked_for_is_nothing_given(tmp_path: Path, pool: Executor) -> None:
    counting = Counting(0)
    assert counting.extract(tmp_path, pool).features.shape == (0, 64)
    assert features.extract(counting.network, counting.layers, PREPROCESS, [], device=CPU).shape == (0, 64)


def test_a_store_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="could not be listed"):
        FeatureCache.open("nosuchscheme://bucket", "a" * 64, "b" * 64)
    (tmp_path / "features").write_text("a file where a folder should be")
    with pytest.raises(StoreUnreachable):
        FeatureCache.open(tmp_path.as_uri(), "a" * 64, "b" * 64).add(["ab" * 32], torch.ones(1, 2))
