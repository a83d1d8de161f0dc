"""Sounds with captions from folders, tables, tars and parquet; folders of images with captions."""

import io
import json
import tarfile
import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Clips, Cuts
from simclr_jax.data.columns import Columns
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.load import eval_batches
from simclr_jax.data.look import beside_notes
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import captions_of, examples_of, has_sounds, left_out, name_of
from simclr_jax.data.sources import open_source
from simclr_jax.data.text import Captioned, Captions, has_captions

pytest.importorskip("soundfile", reason="the extra audio is not installed")
RATE, NUM, BROKEN = 8000, 6, 4


def sound(i):
    """Returns a WAV file of 100 samples that tell which one it is; one is broken."""
    if i == BROKEN:
        return b"RIFF and nothing else"
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples(i).astype("<i2").tobytes())
    return data.getvalue()


def samples(i):
    return np.arange(100 * i, 100 * i + 100, dtype=np.int16)


def caption(i):
    return f"sound caf\u00e9 {i}"


def write_tar(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_folder(root, ending=".wav", make=sound):
    for i in range(NUM):
        place = root / "ab"[i // 3] / f"{i}{ending}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(make(i))
        place.with_suffix(".txt").write_text(caption(i), "utf-8-sig" if i else "utf-8")


def write_jsonl(root):
    write_folder(root / "sounds")
    rows = [{"audio": f"sounds/{'ab'[i // 3]}/{i}.wav", "text": caption(i)} for i in range(NUM)]
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_webdataset(root):
    root.mkdir()
    for t in range(2):
        files = [(f"{i}.wav", sound(i)) for i in range(3 * t, 3 * t + 3)]
        texts = [(f"{i}.txt", caption(i).encode()) for i in range(3 * t, 3 * t + 3)]
        write_tar(root / f"{t}.tar", *files, *texts)


def write_parquet(root):
    """In the layout of Hugging Face, whose column of sounds may be called anything."""
    root.mkdir()
    features = {"clip": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pa.table(
        {
            "clip": [{"bytes": sound(i), "path": f"{i}.wav"} for i in range(NUM)],
            "text": [caption(i) for i in range(NUM)],
        }
    )
    kept = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": kept}), root / "0.parquet")


WRITERS = {
    "folder": write_folder,
    "jsonl": write_jsonl,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_source_gives_sounds_with_captions_and_names_a_bad_file(name, tmp_path):
    WRITERS[name](tmp_path / "x")
    columns = Columns(image="clip") if name == "parquet" else Columns()
    source = open_source(name, split="all", path=tmp_path / "x", columns=columns)
    assert has_sounds(source)
    assert has_captions(source)
    assert [captions_of(source, i) for i in range(NUM)] == [(caption(i),) for i in range(NUM)]
    assert source[2].captions == (caption(2),)
    assert source[2].sound == sound(2)
    quarantine = Quarantine()
    (batch,) = eval_batches(
        source, Clips(RATE, 100, random=False), batch_size=NUM, canvas=None, quarantine=quarantine
    )
    assert [i for i in range(NUM) if batch["valid"][i]] == [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(batch["audio"][5], samples(5))
    (entry,) = quarantine.entries.values()
    assert entry.name == name_of(source, BROKEN)
    assert "no sound that libsndfile reads" in entry.reason


def picture(i):
    data = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_a_folder_of_images_has_the_captions_beside_them(tmp_path):
    write_folder(tmp_path, ".png", picture)
    (tmp_path / "a/1.txt").unlink()
    (tmp_path / "a/README.txt").write_text("of no image")
    source = open_source("folder", split="all", path=tmp_path, labels_from_folders=True)
    assert not has_sounds(source)
    assert [source[i].captions for i in (0, 1, 5)] == [(caption(0),), (), (caption(5),)]
    assert [source[i].label for i in (0, 5)] == [0, 1]
    assert left_out(source) == {".txt": 1}
    (tmp_path / "a/0.txt").write_bytes(b"caf\xe9")
    assert source[0].captions == ()
    with pytest.raises(UnreadableImageError, match=r"a/0\.png: its caption is not UTF-8: byte"):
        captions_of(source, 0)
    (tmp_path / "a/0.txt").write_bytes(b"x" * 1_000_001)
    with pytest.raises(UnreadableImageError, match=r"a/0\.png: its caption has 1,000,001 bytes"):
        captions_of(source, 0)


def test_a_list_of_captions_that_changed_is_another_list(tmp_path):
    write_folder(tmp_path, ".png", picture)
    opened = lambda: open_source("folder", split="all", path=tmp_path).fingerprint
    before = opened()
    (tmp_path / "a/0.txt").rename(tmp_path / "a/of_no_image.txt")
    assert opened() != before


def test_a_few_covers_among_sounds_are_left_out_and_said(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "a/cover.jpg").write_bytes(picture(0))
    (tmp_path / "a/song.mp3").write_bytes(b"ID3")
    source = open_source("folder", split="all", path=tmp_path)
    assert (len(source), has_sounds(source)) == (NUM, True)
    assert left_out(source) == {".jpg": 1, ".mp3": 1}
    kinds, others = beside_notes(source, None)
    assert "holds 6 sounds and 1 image, and the sounds are read: --config.data.kind=images" in kinds
    assert others.startswith(
        "1 files beside the 6 sounds are left out, by their names no sounds: 1 "
    )
    assert "convert them to WAV or FLAC" in others
    assert beside_notes(source, "sounds") == [others]


def test_of_a_folder_that_holds_both_the_asked_kind_is_read(tmp_path):
    write_folder(tmp_path)
    for i in range(2):
        (tmp_path / f"a/{i}.png").write_bytes(picture(i))
    opened = lambda kind: open_source("folder", split="all", path=tmp_path, kind=kind)
    assert (len(opened(None)), examples_of(opened(None))) == (NUM, "sounds")
    images = opened("images")
    assert (len(images), examples_of(images)) == (2, "images")
    assert images[1].image == picture(1)
    assert left_out(images)[".wav"] == NUM
    (note,) = beside_notes(opened(None), None)
    assert "2 images, and the sounds are read" in note
    assert opened("sounds").fingerprint == opened(None).fingerprint != images.fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "folder", "kind": "sound"}, "config.data.kind='sound' must be images or sounds"),
        ({"name": "csv", "kind": "images"}, "which files of name=folder or webdataset are read"),
        (
            {"name": "webdataset", "kind": "images", "columns": Columns(image="wav")},
            "name='webdataset' with an image_column says it itself",
        ),
    ],
)
def test_a_kind_that_says_nothing_is_refused(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_source(split="all", path=tmp_path, **settings)


def test_of_an_image_and_a_sound_in_one_sample_the_asked_one_is_read(tmp_path):
    both = [
        (f"{i}.{end}", make(i))
        for i in range(2)
        for end, make in (("wav", sound), ("png", picture))
    ]
    write_tar(tmp_path / "0.tar", *both)
    opened = lambda **asked: open_source(
        "webdataset", split="all", path=tmp_path, columns=Columns(**asked)
    )
    assert not has_sounds(opened())
    assert has_sounds(opened(image="wav"))
    assert opened(image="wav")[1].sound == sound(1)
    of_kind = open_source("webdataset", split="all", path=tmp_path, kind="sounds")
    assert of_kind[1].sound == sound(1)


def test_sounds_are_refused_where_images_are_wanted(tmp_path):
    write_folder(tmp_path)
    source = open_source("folder", split="all", path=tmp_path)
    whole = Cuts(8, 1, lambda words, size: np.array([[0, 0, *size]], np.int32))
    with pytest.raises(UserError, match="it is a sound, and images are wanted"):
        list(eval_batches(source, whole, batch_size=2, canvas=8))


def test_a_tokenizer_is_trained_on_the_captions_of_a_folder(tmp_path):
    pytest.importorskip("tokenizers", reason="the extra text is not installed")
    write_folder(tmp_path)
    source = open_source("folder", split="all", path=tmp_path)
    tokenizer = Captions(context=16, vocab_size=300).tokenizer_for(source)
    assert 3 <= tokenizer(caption(1)).length <= 16


def test_an_image_whose_caption_is_no_text_is_read_unless_captions_are_trained_on(tmp_path):
    pytest.importorskip("tokenizers", reason="the extra text is not installed")
    write_folder(tmp_path, ".png", picture)
    (tmp_path / "a/0.txt").write_bytes(b"caf\xe9")
    (tmp_path / "a/1.txt").write_bytes(b"")
    source = open_source("folder", split="all", path=tmp_path)
    captioned = Captioned(source, Captions(context=16, vocab_size=300).tokenizer_for(source))
    whole = Cuts(8, 1, lambda words, size: np.array([[0, 0, *size]], np.int32))
    for one, unreadable in ((source, {}), (captioned, {"a/0.png": "UTF-8", "a/1.png": "has no"})):
        quarantine = Quarantine()
        list(eval_batches(one, whole, batch_size=NUM, canvas=8, quarantine=quarantine))
        assert quarantine.entries.keys() == unreadable.keys()
        for name, reason in unreadable.items():
            assert reason in quarantine.entries[name].reason
