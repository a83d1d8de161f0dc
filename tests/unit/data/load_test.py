"""Loading: the batches of any process, thread count and restart, and what broken images get."""

import dataclasses
import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Cuts
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.load import eval_batches, train_batches
from simclr_jax.data.order import Order, random_words
from simclr_jax.data.quarantine import Quarantine, TooManyUnreadableError
from simclr_jax.data.sources import Record, open_source


@dataclasses.dataclass
class Numbers:
    """Image i is filled with i % 251 and labelled i % 3; those in `broken` cannot be read."""

    count: int
    broken: frozenset[int] = frozenset()
    delay: float = 0.0
    name: str = "numbers"
    class_names: tuple[str, ...] = ("a", "b", "c")
    fingerprint: str = "0"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Record:
        time.sleep(self.delay * (index % 3))  # so that threads finish out of order
        if index in self.broken:
            raise UnreadableImageError("broken on purpose", f"image {index}")
        return Record(np.full((2, 3), index % 251, np.uint8), index % 3, f"image {index}")


def train(
    source, *, cuts=None, batch_size=8, canvas=4, seed=0, first_step=0, num_steps=6, **options
):
    return list(
        train_batches(
            source,
            cuts,
            batch_size=batch_size,
            canvas=canvas,
            seed=seed,
            first_step=first_step,
            num_steps=num_steps,
            **options,
        )
    )


def assert_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_train_batches_hold_the_images_of_the_global_order():
    batches = train(Numbers(20), batch_size=8, canvas=4, seed=5)
    order = Order(20, 8, 5)
    for step, batch in enumerate(batches):
        ids = order.ids(step)
        np.testing.assert_array_equal(batch["id"], ids)
        np.testing.assert_array_equal(batch["label"], ids % 3)
        np.testing.assert_array_equal(batch["size"], np.tile([2, 3], (8, 1, 1)))
        want = np.zeros((8, 1, 4, 4, 3))
        want[:, :, :2, :3] = ids[:, None, None, None, None]
        np.testing.assert_array_equal(batch["image"], want)
    dtypes = {key: str(rows.dtype) for key, rows in batches[0].items()}
    assert dtypes == {"image": "uint8", "size": "int32", "label": "int32", "id": "int64"}


def corner(words, shape) -> np.ndarray:
    """Three boxes of one pixel each, anywhere in the image."""
    y, x = words.random_raw(6).reshape(2, 3)
    return np.stack([y % shape[0], x % shape[1], *np.ones((2, 3))], axis=1).astype(np.int32)


@dataclasses.dataclass
class Places(Numbers):
    """Every pixel of an image says where it stands: (row, column, number of the image)."""

    def __getitem__(self, index: int, /) -> Record:
        record = super().__getitem__(index)
        pixels = np.dstack([*np.indices((40, 50)), np.full((40, 50), index)])
        return dataclasses.replace(record, image=pixels.astype(np.uint8))


def test_where_views_are_cut_depends_on_seed_step_and_row_alone():
    options = {"cuts": Cuts(1, 3, corner), "canvas": 50, "batch_size": 8}
    whole = train(Places(20, frozenset({7})), num_steps=4, **options)
    for step, batch in enumerate(whole):
        want = [corner(random_words(0, step, row), (40, 50))[:, :2] for row in range(8)]
        np.testing.assert_array_equal(batch["image"][:, :, 0, 0, :2], want)
        number = np.broadcast_to(batch["id"][:, None], (8, 3))
        np.testing.assert_array_equal(batch["image"][:, :, 0, 0, 2], number)
    drawn = np.concatenate([batch["image"][:, :, 0, 0, :2].reshape(-1, 2) for batch in whole])
    assert len(np.unique(drawn, axis=0)) > 0.9 * len(drawn)
    other = train(Places(20, frozenset({7})), num_steps=4, seed=1, **options)
    assert (other[0]["image"][..., :2] != whole[0]["image"][..., :2]).any(-1).mean() > 0.9


def test_views_of_several_sizes_are_cut_from_the_same_image_one_after_the_other():
    sides = ((1, 3), (2, 3))
    cuts = tuple(Cuts(side, num_views, corner) for side, num_views in sides)
    (batch,) = train(Places(20), cuts=cuts, canvas=50, batch_size=8, num_steps=1)
    for row in range(8):
        words = random_words(0, 0, row)  # the second size goes on where the first has stopped
        for images, sizes in zip(batch["image"], batch["size"], strict=True):
            want = corner(words, (40, 50))[:, :2]
            np.testing.assert_array_equal(images[row, :, 0, 0, :2], want)
            np.testing.assert_array_equal(images[row, :, 0, 0, 2], [batch["id"][row]] * 3)
            np.testing.assert_array_equal(sizes[row], np.ones((3, 2)))
    assert [images.shape for images in batch["image"]] == [(8, 3, 1, 1, 3), (8, 3, 2, 2, 3)]


@pytest.mark.parametrize("num_threads", [0, 1, 7])
def test_threads_do_not_change_the_batches(num_threads):
    slow = Numbers(100, broken=frozenset({5, 6, 77}), delay=1e-3)
    quarantine, want_quarantine = Quarantine(), Quarantine()
    got = train(slow, batch_size=80, num_steps=2, quarantine=quarantine, num_threads=num_threads)
    want = train(slow, batch_size=80, num_steps=2, quarantine=want_quarantine, num_threads=2)
    assert_same(got, want)
    assert list(quarantine.entries.values()) == list(want_quarantine.entries.values())


def test_any_restart_goes_on_with_the_same_batches():
    source = Numbers(10)
    whole = train(source, num_steps=6)
    for first in range(7):
        assert_same(train(source, first_step=first, num_steps=6), whole[first:])


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batch_also_where_images_are_replaced(process_count):
    source = Numbers(30, broken=frozenset({0, 1, 2, 3, 17, 29}))
    whole = train(source, batch_size=8)
    parts = [
        train(source, batch_size=8, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    joined = [
        {key: np.concatenate([rows[key] for rows in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_others_stand_in_for_unreadable_images_and_none_twice_in_a_batch():
    broken = frozenset(range(30, 70))
    quarantine = Quarantine()
    batches = train(Numbers(100, broken), batch_size=32, num_steps=12, quarantine=quarantine)
    for step, batch in enumerate(batches):
        ids, wanted = batch["id"].tolist(), Order(100, 32, 0).ids(step).tolist()
        read = [i not in broken for i in wanted]
        assert [i for i, keep in zip(ids, read, strict=True) if keep] == [
            i for i in wanted if i not in broken
        ]
        stand_ins = [i for i, keep in zip(ids, read, strict=True) if not keep]
        assert len(set(stand_ins)) == len(stand_ins)
        assert not set(stand_ins) & (broken | set(wanted))
        assert batch["label"].tolist() == [i % 3 for i in ids]
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0, 0], batch["id"])
    assert sorted(entry.id for entry in quarantine.entries.values()) == sorted(broken)
    assert quarantine.entries["image 44"].reason == "broken on purpose"


def test_a_batch_of_all_images_repeats_some_in_place_of_the_unreadable():
    (batch,) = train(Numbers(10, frozenset({3, 4, 9})), batch_size=10, num_steps=1)
    assert set(batch["id"].tolist()) == set(range(10)) - {3, 4, 9}


def test_a_resumed_run_writes_nothing_twice(tmp_path):
    source = Numbers(10, broken=frozenset({1, 2}))
    path = tmp_path / "quarantine.jsonl"
    train(source, num_steps=3, quarantine=Quarantine(path))
    first = path.read_text()
    train(source, first_step=2, num_steps=5, quarantine=Quarantine(path))
    assert path.read_text() == first
    assert len(first.splitlines()) == 2


@pytest.mark.parametrize(("num_broken", "share"), [(16, 0.16), (7, 0.07), (29, 0.29), (0, 0.0)])
def test_a_share_of_unreadable_images_is_borne_wherever_they_lie(num_broken, share):
    source = Numbers(100, broken=frozenset(range(num_broken)))
    batches = train(source, batch_size=10, num_steps=10, max_unreadable=share)
    assert len(batches) == 10


@pytest.mark.parametrize("process_count", [1, 2])
def test_more_than_that_share_ends_the_stream_with_all_of_them_named(process_count):
    quarantine = Quarantine()
    batches = train_batches(
        Numbers(100, broken=frozenset(range(20))), batch_size=10, canvas=4, seed=0,
        first_step=0, num_steps=30, max_unreadable=0.1, quarantine=quarantine,
        process_count=process_count,
    )  # fmt: skip
    with pytest.raises(TooManyUnreadableError, match=r"1\d of the 100 images of numbers.*max_unr"):
        list(batches)
    assert 10 < quarantine.count <= 20


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_ends_where_nothing_can_be_read(share):
    with pytest.raises(TooManyUnreadableError, match=r"of the 30 images .*broken on purpose"):
        train(Numbers(30, broken=frozenset(range(30))), max_unreadable=share)


def test_an_array_of_floats_ends_the_run_by_name():
    class Floats(Numbers):
        def __getitem__(self, index: int, /) -> Record:
            return Record(np.array([[np.nan, 0.5]], np.float32), 0, "x")

    with pytest.raises(UserError, match=r"of numbers: Images must be uint8.*float32.*1 NaN"):
        train(Floats(4))


def test_every_example_is_evaluated_once_in_batches_of_one_shape():
    batches = list(eval_batches(Numbers(70, frozenset({9})), batch_size=64, canvas=4))
    assert [batch["image"].shape for batch in batches] == [(64, 1, 4, 4, 3)] * 2
    valid = np.concatenate([batch["valid"] for batch in batches])
    ids = np.concatenate([batch["id"] for batch in batches])
    assert ids.tolist() == list(range(70)) + [-1] * 58
    assert ids[~valid].tolist() == [9] + [-1] * 58
    images = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(images[valid][:, 0, 0, 0, 0], ids[valid])
    assert not images[~valid].any()
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels[valid], ids[valid] % 3)
    assert set(labels[~valid]) == {-1}


@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_takes_chosen_examples_in_their_order(process_count):
    chosen = [7, 3, 3, 9, 0]
    parts = [
        list(
            eval_batches(
                Numbers(10),
                batch_size=4,
                canvas=4,
                indices=chosen,
                process_index=p,
                process_count=process_count,
            )
        )
        for p in range(process_count)
    ]
    ids = [i for step in zip(*parts, strict=True) for batch in step for i in batch["id"]]
    assert ids == [*chosen, -1, -1, -1]


def test_evaluation_of_nothing_readable_is_an_error_and_of_nothing_is_empty():
    with pytest.raises(UserError, match=r"None of 3 images of numbers .*image 2: broken on"):
        list(eval_batches(Numbers(3, frozenset(range(3))), batch_size=2, canvas=4))
    assert list(eval_batches(Numbers(3), batch_size=2, canvas=4, indices=[])) == []


def test_names_bad_arguments_at_the_call_not_at_the_first_batch():
    options: dict[str, Any] = {"batch_size": 4, "canvas": 4}
    with pytest.raises(ValueError, match="first_step must be from 0 to num_steps=2, got 3"):
        train_batches(Numbers(3), seed=0, first_step=3, num_steps=2, **options)
    with pytest.raises(ValueError, match="indices must be from 0 to 2, got 1 to 3"):
        eval_batches(Numbers(3), indices=[1, 3], **options)
    options |= {"seed": 0, "first_step": 0, "num_steps": 2}
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        train_batches(Numbers(3), process_count=3, **options)


def grain_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def test_closing_early_ends_all_threads():
    for old in grain_threads():
        old.join(timeout=10)
    batches = train_batches(
        Numbers(50), batch_size=8, canvas=4, seed=0, first_step=0, num_steps=10**6, num_threads=3
    )
    next(batches)
    threads = grain_threads()
    assert len(threads) > 0
    batches.close()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_folder_of_troublesome_files_is_read_to_its_end(tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    plain = Image.effect_noise((40, 30), 50).convert("RGB")
    jpeg = encode(plain, "JPEG")
    good = {
        "1x1.png": encode(Image.new("L", (1, 1)), "PNG"),
        "1x20000.png": encode(Image.new("L", (1, 20000)), "PNG"),
        "cmyk.jpg": encode(plain.convert("CMYK"), "JPEG"),
        "deep.png": encode(Image.fromarray(np.arange(6, dtype=np.uint16)[None]), "PNG"),
        "moving.gif": encode(plain, "GIF", save_all=True, append_images=[plain.rotate(90)]),
        "palette.png": encode(plain.convert("P"), "PNG"),
        "rotated.jpg": encode(plain, "JPEG", exif=rotated),
        "with space and \u00fcml\u00e4ut <script>alert(1)<b>.jpg": jpeg,
    }
    bad = {
        "empty.jpg": (b"", "empty"),
        "half.jpg": (jpeg[: -len(jpeg) // 3], "truncated"),
        "page.jpg": (b"<!doctype html><title>404</title>", "starts with b'<!doctype ht'"),
    }
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    source = open_source("folder", split="all", path=tmp_path)
    path = tmp_path / "quarantine.jsonl"
    (batch,) = eval_batches(
        source, batch_size=16, canvas=32, quarantine=Quarantine(path), num_threads=2
    )
    names = sorted({**good, **bad})
    assert [names[i] for i in batch["id"][batch["valid"]]] == sorted(good)
    sizes = dict(zip(names, batch["size"][:, 0].tolist(), strict=False))
    assert (sizes["rotated.jpg"], sizes["cmyk.jpg"]) == ([32, 24], [24, 32])
    assert (sizes["1x20000.png"], sizes["1x1.png"]) == ([32, 1], [1, 1])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["name"] for entry in entries] == sorted(bad)
    for entry in entries:
        assert bad[entry["name"]][1] in entry["reason"]
    train_ids = {i for b in train(source, batch_size=11, num_steps=3) for i in b["id"].tolist()}
    assert train_ids == set(batch["id"][batch["valid"]].tolist())
