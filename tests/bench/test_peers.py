"""What throughput is measured beside does the same work as we do, and leaves nothing running."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.peers import families, network, plain_lanes, plain_loop, weights
from bench.peers.rounds import Task
from pipeline import backbones, checkpoints, images
from pipeline.serving.classifier import Classifier

NUM_CLASSES = 20
#: a process that starts another one in a session of its own, says so, and waits
PARENT = (
    "import subprocess, sys; "
    "child = subprocess.Popen(['sleep', '60'], start_new_session=True); print(child.pid, flush=True); child.wait()"
)


@pytest.fixture(name="task")
def fixture_task(tmp_path):
    drawing = np.random.default_rng(0)
    photos = []
    for number in range(10):
        pixels = drawing.integers(0, 256, (6 + number, 9, 3), dtype=np.uint8)
        photos.append(str(tmp_path / f"{number}.jpg"))
        Image.fromarray(pixels).resize((300 - number, 280)).save(photos[-1])
    file = tmp_path / "weights.pt"
    weights.save("mobilenet_v3_small", NUM_CLASSES, photos, file)
    return Task(images=photos, arch="mobilenet_v3_small", num_classes=NUM_CLASSES, weights=str(file), cores=2)


@pytest.mark.parametrize("contender", [plain_loop.plain_loop, plain_lanes.plain_lanes], ids=["loop", "lanes"])
def test_a_plain_loop_gives_the_labels_that_our_classifier_gives(contender, task, tmp_path):
    with _same_threads(), contender(task) as classify:
        answers = classify().answers

    ours = _ours(task, tmp_path)
    assert [[label for label, _ in answer] for answer in answers] == [
        [label for label, _ in prediction.top_k] for prediction in ours
    ]
    assert [score for answer in answers for _, score in answer] == pytest.approx(
        [score for prediction in ours for _, score in prediction.top_k], abs=1e-4
    )
    assert len({answer[0][0] for answer in answers}) > 1


def test_a_process_is_stopped_and_ended_with_what_it_started_in_another_session():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as process:
        child = int(process.stdout.readline())
        family = families.of(process.pid)
        families.signal_all(family, signal.SIGKILL)

    assert {pid for pid, _ in family} == {process.pid, child}
    _await(lambda: not _runs(child))


def test_a_reused_id_is_nobodys():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as process:
        ((pid, started),) = families.of(process.pid)
        families.signal_all({(pid, started + 1)}, signal.SIGKILL)
        assert process.poll() is None
        families.signal_all({(pid, started)}, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL


def _ours(task, folder):
    module = backbones.build(task.arch, num_classes=NUM_CLASSES)
    module.load_state_dict(torch.load(task.weights, weights_only=True))
    draft = checkpoints.Draft(
        arch=task.arch,
        classes=tuple(str(number) for number in range(NUM_CLASSES)),
        preprocess=backbones.preprocess_for(task.arch),
    )
    saved = checkpoints.save(module.eval(), draft, (folder / "store").as_uri(), now_s=0.0)
    classifier = Classifier.open(saved.reference, sha256=saved.sha256, device="cpu", precision="fp32", batch_size=10)
    decoded = [images.decode(Path(image).read_bytes(), images.Limits()) for image in task.images]
    pixels = torch.stack([classifier.preprocess.pixels(image) for image in decoded])
    return classifier.predict(pixels, top_k=network.TOP_K)


@contextmanager
def _same_threads():
    """Keep a contender's choice of threads from the tests that follow."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _await(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
