"""Real photos through real weights give the accuracies and the top five that were measured elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import Tensor

from pipeline import backbones, checkpoints, decoders, images, references, state_dicts
from pipeline.preprocess import Preprocess
from pipeline.serving.batching import Shaped, StageSeconds, batches
from pipeline.serving.classifier import Classifier, Prediction

#: how the weights' sources say they are used
PREPROCESS = Preprocess(resize_size=256, crop_size=224)
#: the one photo with an EXIF orientation: the table was made from its stored pixels, we turn it upright
TURNED = {"images/n02951585_can_opener.JPEG"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file of real weights, and what it was measured to give."""

    file: str
    arch: str
    options: dict[str, object] = field(default_factory=dict)
    #: of 300 photos, by the first label
    num_right: int


WEIGHTS = (
    Weights(file="mobilenet_v2-torchvision.pth", arch="mobilenet_v2", num_right=260),
    Weights(file="squeezenet1_0-torchvision.pth", arch="squeezenet1_0", num_right=184),
    Weights(
        file="mobilenetv2_100-timm-padsame.pth",
        arch="timm:mobilenetv2_100",
        options={"pad_type": "same"},
        num_right=267,
    ),
)


#: as training and the table see them, then each way that serving may see them
WAYS = [(weights, "reference") for weights in WEIGHTS] + [(WEIGHTS[0], name) for name in decoders.DECODERS]


@pytest.mark.parametrize(("weights", "decoder"), WAYS, ids=[f"{weights.arch}-{decoder}" for weights, decoder in WAYS])
def test_real_photos_get_the_labels_that_were_measured(
    data_folder: Path, tmp_path: Path, weights: Weights, decoder: str
) -> None:
    with (data_folder / "imagenet-sample" / "expected_top5.tsv").open() as table:
        lines = list(csv.DictReader(table, delimiter="\t"))
    rows = {line["path"]: line for line in lines if line["weights"] == weights.file}
    classifier = import_weights(data_folder, weights, tmp_path.as_uri())
    index_of = {label: index for index, label in enumerate(classifier.classes)}
    num_right, different = 0, set()
    for name, prediction in classify(classifier, decoder, data_folder / "imagenet-sample", list(rows)):
        num_right += index_of[prediction.label] == int(rows[name]["true"])
        expected = {int(index) for index in rows[name]["top5_indices"].split(",")}
        if {index_of[label] for label, _ in prediction.top_k[:5]} != expected and not tied(prediction):
            different.add(name)
    assert len(rows) == 300
    assert different <= TURNED
    assert abs(num_right - weights.num_right) <= 1


def tied(prediction: Prediction) -> bool:
    """Whether the fifth and the sixth label are too close to tell."""
    return prediction.top_k[4][1] - prediction.top_k[5][1] < 1e-4


def import_weights(data_folder: Path, weights: Weights, store: str) -> Classifier:
    network = backbones.build(weights.arch, num_classes=1000, options=weights.options)
    state_dicts.load(network, state_dicts.read(data_folder / "weights" / weights.file))
    classes = checkpoints.read_classes(data_folder / "imagenet-sample" / "imagenet_classes.tsv")
    draft = checkpoints.Draft(arch=weights.arch, arch_options=weights.options, classes=classes, preprocess=PREPROCESS)
    saved = checkpoints.save(network, draft, store, now_s=0.0)
    return Classifier.open(saved.reference, sha256=saved.sha256, device="auto", precision="fp32", batch_size=32)


def shape(classifier: Classifier, decoder: str, data: bytes) -> Tensor:
    preprocess, limits = classifier.preprocess, images.Limits()
    if decoder == "reference":
        return preprocess.pixels(images.decode(data, limits)).permute(1, 2, 0)
    decoded = decoders.choose(decoder).decode(data, limits, resize_size=preprocess.resize_size)
    return preprocess.quick_pixels(decoded)


def classify(classifier: Classifier, decoder: str, folder: Path, names: list[str]) -> Iterator[tuple[str, Prediction]]:
    roots = references.Roots.parse([str(folder)])
    with ThreadPoolExecutor(2) as pool:
        for batch in batches(
            [(name, str(folder / name)) for name in names],
            lambda reference: references.fetch(reference, roots, max_bytes=images.Limits().max_bytes),
            lambda _, data: Shaped(shape(classifier, decoder, data), None),
            batch_size=32,
            pool=pool,
            lookahead=64,
            spent=StageSeconds(),
        ):
            assert not batch.failures
            assert batch.images_NCHW is not None
            yield from zip(batch.tags, classifier.predict(batch.images_NCHW, top_k=6), strict=True)
