"""Every label is recorded or refused with its reason, in the order given, and none costs another its place."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy.orm import Session, sessionmaker

from db import errors, labels, session
from pipeline import references, urls
from tests import builders, web
from tests.internet import Internet
from tests.worker import teaching
from tests.worker.teaching import MODEL, row
from worker import labelling
from worker.learning_messages import LabelledImage, LabelsReceipt, RefusedLabel

ROOT = Path(__file__).parents[2]
Sessions = sessionmaker[Session]


@pytest.fixture
def labeller(sessions: Sessions, photos: Path, pool: ThreadPoolExecutor) -> labelling.Labeller:
    """What records labels of images in `photos`."""
    return teaching.labeller(sessions, photos, pool)


def record(labeller: labelling.Labeller, *rows: labelling.Row) -> LabelsReceipt:
    return labelling.record(labeller, MODEL, rows)


def counts(receipt: LabelsReceipt) -> tuple[int, int, int, int]:
    return receipt.num_added, receipt.num_corrected, receipt.num_unchanged, len(receipt.refused)


def test_labels_are_added_repeated_confirmed_and_corrected(labeller: labelling.Labeller, photos: Path) -> None:
    first, second = (teaching.image(photos / f"{seed}.png", seed=seed) for seed in (1, 2))
    assert counts(record(labeller, row(first, "cat"), row(second, "dog"))) == (2, 0, 0, 0)
    assert counts(record(labeller, row(first, "cat"), row(second, "dog"))) == (0, 0, 2, 0)
    assert counts(record(labeller, row(first, "cat", who="grace"))) == (1, 0, 0, 0)
    assert counts(record(labeller, row(second, "cat"))) == (0, 1, 0, 0)
    assert teaching.known(labeller.sessions) == {first: "cat", second: "cat"}
    assert teaching.stats(labeller.sessions).num_events == 4


def test_the_last_of_several_labels_holds_however_long_each_image_takes(
    labeller: labelling.Labeller, photos: Path
) -> None:
    reference = teaching.image(photos / "one.png", seed=1)
    said = [f"class {n}" for n in range(9)]
    receipt = record(labeller, *(row(reference, label) for label in said))
    assert counts(receipt) == (1, 8, 0, 0)
    assert teaching.known(labeller.sessions) == {reference: "class 8"}


def test_an_image_inside_a_message_is_kept_and_known_by_its_content(labeller: labelling.Labeller, photos: Path) -> None:
    image = builders.png_bytes(seed=1)
    same = teaching.image(photos / "same.png", seed=1)
    receipt = record(labeller, LabelledImage(inline=image, label="cat"), LabelledImage(inline=image, label="dog"))
    assert counts(receipt) == (1, 1, 0, 0)
    [(reference, label)] = teaching.known(labeller.sessions).items()
    assert label == "dog"
    assert reference.startswith(labeller.inline_store)
    assert counts(record(labeller, row(same, "dog"))) == (1, 0, 0, 0), "somebody else agrees"
    assert teaching.stats(labeller.sessions).num_images == 1


def test_an_image_behind_a_url_is_kept_as_it_was_labelled(
    labeller: labelling.Labeller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the URL leads to may be another picture by the time that a model learns from the label."""
    image, url = builders.png_bytes(size=(90, 90), seed=1, compress_level=0), "https://images.example.org/cat.png"
    assert len(image) > labeller.max_inline_bytes, "no message carried it"
    authority = web.Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    urls._context.cache_clear()
    roots = references.Roots.parse(["https://images.example.org", labeller.inline_store])
    with web.serving({"/cat.png": web.ok(image)}, authority.context("images.example.org")) as site:
        Internet({"images.example.org": [["93.184.216.34"]]}, {"93.184.216.34 443": site.port}).install(
            monkeypatch.setattr
        )
        receipt = record(replace(labeller, roots=roots), row(url), row(f"{url}?gone"))
    urls._context.cache_clear()
    assert counts(receipt) == (1, 0, 0, 1)
    assert [(one.reference, one.kind) for one in receipt.refused] == [(f"{url}?gone", "missing")]
    [(reference, label)] = teaching.known(labeller.sessions).items()
    assert (label, references.fetch(reference, roots, max_bytes=100_000)) == ("cat", image)


def bad_rows(photos: Path) -> dict[str, tuple[LabelledImage, str]]:
    """One row of each fault, with the kind it is refused by."""
    jpeg = builders.jpeg_bytes(size=(64, 64))
    files = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"this is no image at all, only text", "not_an_image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "wide.png": (builders.png_bytes(size=(101, 100)), "too_many_pixels"),
        "large.png": (b"\x89PNG\r\n\x1a\n" + bytes(100_000), "too_large"),
        "picture.tiff": (builders.encoded(builders.tiny_image(), "TIFF"), "unsupported_format"),
    }
    rows = {}
    for name, (data, kind) in files.items():
        (photos / name).write_bytes(data)
        rows[name] = (row((photos / name).as_uri()), kind)
    noise = builders.encoded(Image.effect_noise((99, 99), 200).convert("RGB"), "PNG")
    return rows | {
        "missing": (row((photos / "gone.png").as_uri()), "missing"),
        "a folder": (row(photos.as_uri()), "not_a_file"),
        "outside": (row("file:///etc/hostname"), "outside_roots"),
        "around": (row((photos / "../../../../etc/hostname").as_uri()), "outside_roots"),
        "another scheme": (row("gopher://example.org/x.png"), "unsupported_scheme"),
        "inline text": (LabelledImage(inline=b"no image", label="cat"), "not_an_image"),
        "large inline": (LabelledImage(inline=noise, label="cat"), "too_large"),
        "refused at the door": (
            RefusedLabel(position=0, reference="", label="cat", kind="unusable", message="No."),
            "unusable",
        ),
    }  # fmt: skip


def test_what_cannot_be_recorded_is_refused_in_its_place_and_its_neighbours_are_not(
    labeller: labelling.Labeller, photos: Path
) -> None:
    bad = bad_rows(photos)
    good = [row(teaching.image(photos / f"good-{n}.png", seed=n)) for n in range(len(bad))]
    mixed = [one for pair in zip(good, (one for one, _ in bad.values()), strict=True) for one in pair]
    receipt = record(labeller, *mixed)
    assert counts(receipt) == (len(good), 0, 0, len(bad))
    assert receipt.num_labels == len(mixed)
    assert [one.position for one in receipt.refused] == list(range(1, len(mixed), 2))
    assert {name: one.kind for name, one in zip(bad, receipt.refused, strict=True)} == {
        name: kind for name, (_, kind) in bad.items()
    }
    assert all(one.message.endswith(".") for one in receipt.refused)
    assert set(teaching.known(labeller.sessions)) <= {one.reference for one in good}
    assert teaching.stats(labeller.sessions).num_images == len(good)


def test_an_unknown_class_of_a_fixed_list_is_refused_and_its_neighbours_are_not(
    labeller: labelling.Labeller, photos: Path
) -> None:
    with session.transaction(labeller.sessions) as transaction:
        labels.fix_classes(transaction, MODEL, ["cat", "dog"])
    said = [("cat", "dog", "kat", "cat", "dgo")[n % 5] for n in range(13)]
    rows = [row(teaching.image(photos / f"{n}.png", seed=n), label) for n, label in enumerate(said)]
    receipt = record(labeller, *rows)
    unknown = [n for n, label in enumerate(said) if label in ("kat", "dgo")]
    assert [(one.position, one.kind) for one in receipt.refused] == [(n, "unknown_class") for n in unknown]
    assert "kat" in receipt.refused[0].message
    assert receipt.num_added == len(said) - len(unknown)
    assert teaching.per_class(labeller.sessions) == {"cat": said.count("cat"), "dog": said.count("dog")}


def test_an_event_counts_once_and_cannot_undo_a_later_correction(labeller: labelling.Labeller, photos: Path) -> None:
    reference = teaching.image(photos / "one.png", seed=1)
    first = row(reference, "cat", key="call:0")
    assert counts(record(labeller, first, first)) == (1, 0, 1, 0)
    assert counts(record(labeller, row(reference, "dog", key="call:1"))) == (0, 1, 0, 0)
    assert counts(record(labeller, first)) == (0, 0, 1, 0), "a message that comes late"
    assert teaching.known(labeller.sessions) == {reference: "dog"}


def test_a_picture_saved_another_way_shares_its_split(labeller: labelling.Labeller, photos: Path) -> None:
    picture = builders.tiny_image(size=(90, 60), seed=3)
    turned = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=90, exif=exif)
    ways = {
        "png": builders.encoded(picture, "PNG"),
        "jpeg": builders.encoded(picture, "JPEG", quality=60),
        "small": builders.encoded(picture.resize((81, 54)), "PNG"),
        "turned": turned.getvalue(),
    }
    rows = [row(_written(photos / name, data)) for name, data in ways.items()]
    receipt = record(labeller, *rows)
    assert (receipt.num_added, receipt.num_near_duplicates) == (4, 3)
    known = teaching.stats(labeller.sessions)
    assert (known.num_images, known.num_groups, known.num_near_duplicates) == (4, 1, 3)


def test_images_of_a_named_group_share_a_split(labeller: labelling.Labeller, photos: Path) -> None:
    rows = [row(teaching.image(photos / f"{n}.png", seed=n), group=f"patient {n % 2}") for n in range(12)]
    record(labeller, *rows)
    assert teaching.stats(labeller.sessions).num_groups == 2


def test_progress_is_told_batch_by_batch(
    labeller: labelling.Labeller, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "BATCH", 4)
    monkeypatch.setattr(labelling, "AHEAD", 3)
    told: list[int] = []
    rows = (row(teaching.image(photos / f"{n}.png", seed=n)) for n in range(9))
    receipt = labelling.record(labeller, MODEL, rows, on_recorded=told.append)
    assert told == [4, 8, 9]
    assert receipt.num_added == 9


def test_rows_are_read_ahead_and_not_all_at_once(
    labeller: labelling.Labeller, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "BATCH", 2)
    monkeypatch.setattr(labelling, "AHEAD", 3)
    reference = teaching.image(photos / "one.png", seed=1)
    seen_at: list[int] = []
    taken = 0

    def rows() -> Iterator[LabelledImage]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield row(reference)

    labelling.record(labeller, MODEL, rows(), on_recorded=lambda _: seen_at.append(taken))
    assert seen_at[0] <= 2 + 3
    assert taken == 20


def test_a_ledger_that_is_away_is_an_error_and_no_loss(photos: Path, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    away = session.connect(f"sqlite:///{tmp_path / 'gone' / 'ledger.db'}")
    with pytest.raises(errors.LedgerUnreachable):
        record(teaching.labeller(away, photos, pool), row(teaching.image(photos / "one.png", seed=1)))
    session.engine_of(away).dispose()


def test_an_error_while_rows_are_given_leaves_nothing_running(
    labeller: labelling.Labeller, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "BATCH", 2)
    monkeypatch.setattr(labelling, "AHEAD", 2)
    references = [teaching.image(photos / f"{n}.png", seed=n) for n in range(5)]

    def rows() -> Iterator[LabelledImage]:
        yield from map(row, references)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        labelling.record(labeller, MODEL, rows())
    assert set(teaching.known(labeller.sessions)) <= set(references[:4])
    assert teaching.stats(labeller.sessions).num_images == 4, "the batches before are recorded"


def test_recording_labels_needs_no_torch() -> None:
    code = "import sys, worker.labelling; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_a_receipt_of_parts_counts_as_one_of_the_whole() -> None:
    no = RefusedLabel(position=1, reference="a", label="cat", kind="missing", message="No.")
    first = LabelsReceipt(model=MODEL, num_added=2, num_near_duplicates=1, refused=(no,))
    second = LabelsReceipt(model=MODEL, num_corrected=1, num_unchanged=1, refused=(no,))
    both = first.and_then(second)
    assert (both.num_labels, counts(both), both.num_near_duplicates) == (6, (2, 1, 1, 2), 1)
    assert [one.position for one in both.refused] == [1, 4]
    assert LabelsReceipt.parse({**asdict(both), "refused": [asdict(one) for one in both.refused]}) == both


def _written(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    return file.as_uri()
