"""Texts as a data set: lines, columns, the captions of images, and what bad rows get."""

import json
from typing import Any

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Clips, Cuts, Sentences
from simclr_jax.data.columns import Columns
from simclr_jax.data.load import train_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Record, examples_of, has_texts, require_readable
from simclr_jax.data.sources import open_source
from simclr_jax.data.text import Captioned, Captions
from simclr_jax.data.text_table import TextsAlone, TextTable

TRIPLES = [(f"a cat {i}", f"an animal {i}", f"no cat {i}") for i in range(12)]


def table(path, split="all", caption=None):
    return TextTable(str(path), split, Columns(caption=caption))


@pytest.fixture
def triples(tmp_path):
    path = tmp_path / "nli.csv"
    lines = ["sent0,sent1,hard_neg", *(",".join(row) for row in TRIPLES)]
    path.write_text("\n".join(lines))
    return path


def batches(source, num_texts, *, num_steps=6, **options):
    tokenizer = Captions(context=8).tokenizer_for(source)
    settings: dict[str, Any] = dict(batch_size=4, canvas=None, seed=0, first_step=0)
    captioned = Captioned(source, tokenizer)
    cuts = Sentences(num_texts)
    options = {**settings, "num_steps": num_steps, **options}
    return tokenizer, list(train_batches(captioned, cuts, **options))


def test_every_line_of_a_text_file_is_a_text_but_empty_ones(tmp_path):
    (tmp_path / "wiki.txt").write_text("\ufeffOne line.\n\n  Another, with a comma \n", "utf-8")
    source = open_source("texts", split="all", path=tmp_path / "wiki.txt")
    assert has_texts(source)
    assert [source[i].captions for i in range(len(source))] == [
        ("One line.",),
        ("Another, with a comma",),
    ]
    assert source[1] == Record(b"", -1, "wiki.txt:3", ("Another, with a comma",))


def test_columns_are_taken_in_the_order_in_which_they_are_named(triples, tmp_path):
    source = table(triples, caption="sent0, hard_neg")
    assert source.captions_of(3) == ("a cat 3", "no cat 3")
    assert source.name_of(3) == "nli.csv:5"
    rows = [json.dumps({"text": [*row]}) for row in TRIPLES]
    (tmp_path / "nli.jsonl").write_text("\n".join(rows))
    assert table(tmp_path / "nli.jsonl").captions_of(3) == TRIPLES[3]
    assert table(triples, caption="sent0").fingerprint != source.fingerprint


def test_a_split_is_what_the_names_of_files_begin_with(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text(f"a {name} text")
    assert table(tmp_path, "test").captions_of(0) == ("a test text",)
    with pytest.raises(UserError, match=r"has no split 'tset'; .*Did you mean 'test'"):
        table(tmp_path, "tset")


def test_rows_of_a_batch_hold_their_texts_in_order(triples):
    names = "sent0,sent1,hard_neg"
    tokenizer, seen = batches(table(triples, caption=names), 3)
    for batch in seen:
        assert batch["text"].shape == (4, 3, 8)
        assert {"image", "size", "audio"}.isdisjoint(batch)
        for i, rows, lengths, number in zip(
            batch["id"], batch["text"], batch["text_length"], batch["text_id"], strict=True
        ):
            want = [tokenizer(text) for text in TRIPLES[i]]
            np.testing.assert_array_equal(rows, [tokens.ids for tokens in want])
            assert lengths.tolist() == [tokens.length for tokens in want]
            assert number == want[0].hash


def test_one_text_is_drawn_where_one_is_wanted_and_again_on_resume(triples):
    source = table(triples, caption="sent0,sent1")
    tokenizer, straight = batches(source, 1, num_steps=40)
    _, resumed = batches(source, 1, num_steps=40, first_step=25)
    for a, b in zip(straight[25:], resumed, strict=True):
        np.testing.assert_array_equal(a["text"], b["text"])
    drawn = set()
    for batch in straight:
        assert batch["text"].shape == (4, 1, 8)
        for i, rows in zip(batch["id"], batch["text"], strict=True):
            known = [tokenizer(text).ids for text in TRIPLES[i][:2]]
            (which,) = [k for k, ids in enumerate(known) if (ids == rows[0]).all()]
            drawn.add(which)
    assert drawn == {0, 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [("a cat 4,,no cat 4", "has an empty caption"), ("a cat 4", "it has 1 of 3 texts")],
)
def test_a_row_that_lacks_a_text_is_quarantined_with_its_line(tmp_path, line, reason):
    rows = [*TRIPLES[:4], tuple(line.split(",")), *TRIPLES[5:]]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": [*row]}) for row in rows))
    quarantine = Quarantine()
    _, seen = batches(table(tmp_path / "t.jsonl"), 3, quarantine=quarantine)
    assert 4 not in np.concatenate([batch["id"] for batch in seen])
    (entry,) = quarantine.entries.values()
    assert entry.name == "t.jsonl:5"
    assert entry.reason.startswith(reason)


def test_captions_of_images_are_texts_without_the_images():
    class Unreadable:
        name, class_names, fingerprint = "images", ("cat",), "0"

        def __len__(self):
            return 3

        def __getitem__(self, index, /):
            raise AssertionError("nobody needs the image")

        def captions_of(self, index):
            return (f"caption {index}",)

    source = TextsAlone(Unreadable())
    assert has_texts(source)
    assert source[2] == Record(b"", -1, "images/2", ("caption 2",))
    assert source.class_names == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": Columns()}, r"no column called sentence, caption, .*only 'sent0', 'sent1'"),
        ({"columns": Columns(caption="sent0,sent9")}, r"no column 'sent9', only .*Did you mean"),
        ({"columns": Columns(image="sent0")}, r"image_column and label_column are of images"),
        ({"path": None}, r"needs a path: the file of one text a line, or table"),
    ],
)
def test_what_is_not_there_is_named(triples, settings, message):
    with pytest.raises(UserError, match=message):
        open_source("texts", **{"split": "all", "path": triples, **settings})


def test_a_file_without_a_text_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty\.txt/all has no texts"):
        table(tmp_path / "empty.txt")


def test_a_number_is_no_text(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": 5}')
    with pytest.raises(UserError, match=r"t\.jsonl:1: 5 is neither text nor a list of texts"):
        table(tmp_path / "t.jsonl")


def test_examples_are_called_what_they_are(tmp_path):
    (tmp_path / "lines.txt").write_text("a\nb\n")
    texts, digits = table(tmp_path / "lines.txt"), open_source("digits", split="test")
    cuts, clips = Cuts(8, 1, lambda words, size: np.zeros((1, 4), np.int32)), Clips(8000, 9, True)
    assert [*map(examples_of, (texts, digits))] == ["texts", "images"]
    assert [*map(examples_of, (Sentences(1), cuts, clips, (cuts, cuts)))] == [
        "texts",
        "images",
        "sounds",
        "images",
    ]
    for source, views in ((texts, Sentences(1)), (digits, Sentences(1)), (digits, cuts)):
        require_readable(source, views)
    for source, views, message in (
        (
            texts,
            cuts,
            "holds texts, .* reads images. .*--data=digits; a text tower sees texts: `emb",
        ),
        (digits, clips, "digits/test holds images, .* reads sounds. .*--data=midi_instruments.$"),
    ):
        with pytest.raises(UserError, match=message):
            require_readable(source, views)
