"""Ten thousand images as one job, and a thousand jobs of one image: every item recorded once, in flat memory."""

import json
from pathlib import Path

from tests.mills import Mill, await_until
from worker.messages import Item

MEGABYTE = 2**20


def test_ten_thousand_images_of_one_job_are_recorded_once_each(mill: Mill) -> None:
    references = mill.write_images(100, prefix="volume")
    job = mill.client.submit(references * 100, model="tiny")
    status = mill.client.wait(job.job_id, timeout_s=150)
    assert (status.state, status.num_succeeded) == ("succeeded", 10_000)
    assert mill.positions(job.job_id) == dict.fromkeys(range(10_000), 1)


def test_a_thousand_jobs_of_one_image_share_batches_and_are_recorded_once_each(mill: Mill) -> None:
    references = mill.write_images(100, prefix="volume")
    jobs = [mill.client.submit([references[n % 100]], model="tiny") for n in range(1000)]
    await_until(lambda: all(mill.positions(job.job_id) for job in jobs[-1:]), "the last job has its outcome")
    ended = [mill.client.wait(job.job_id, timeout_s=60) for job in jobs]
    assert {status.state for status in ended} == {"succeeded"}
    assert [mill.positions(job.job_id) for job in jobs] == [{0: 1}] * 1000


def test_a_manifest_of_a_hundred_thousand_references_is_submitted_in_constant_memory(
    mill: Mill, tmp_path: Path
) -> None:
    manifest = tmp_path / "large.jsonl"
    with manifest.open("w") as lines:
        for number in range(100_000):
            lines.write(json.dumps({"reference": f"file:///elsewhere/{number:07}.png", "key": f"k{number}"}) + "\n")
    # A first submission of a tenth fills the caches and pools; ten times as much must then take no more.
    mill.client.submit_items(
        lambda: (Item(reference=f"file:///elsewhere/{n}.png") for n in range(10_000)), model="tiny"
    )
    intake = _child(mill.part("intake").process.pid)
    before = _resident(intake), _resident("self")
    receipt = mill.client.submit_manifest(manifest, model="tiny")
    after = _resident(intake), _resident("self")
    mill.client.cancel(receipt.job_id)
    assert (receipt.state, receipt.num_received) == ("accepted", 100_000)
    assert [grown - at_first < 16 * MEGABYTE for at_first, grown in zip(before, after, strict=True)] == [True, True]


def _resident(pid: int | str) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _child(parent: int) -> int:
    """The pool's child below a worker's main process: the one that is not multiprocessing's resource tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return max(map(int, children), key=_resident)
