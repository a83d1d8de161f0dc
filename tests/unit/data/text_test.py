"""Captions: the vocabulary, tokens, what is drawn for a batch, and what bad ones get."""

import dataclasses
import hashlib
import json
import logging
from typing import Any

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Cuts
from simclr_jax.data.load import eval_batches, train_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Record
from simclr_jax.data.sources import open_source
from simclr_jax.data.subsets import LabelSubset
from simclr_jax.data.text import Captioned, Captions, Tokenizer, read_tokenizer

WHOLE = Cuts(4, 1, lambda bits, shape: np.array([[0, 0, *shape]], np.int32))


@dataclasses.dataclass
class Colours:
    """Image i is said to be of colour i % 3, in two ways; `captions` replaces some."""

    captions: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    name: str = "colours"
    class_names: tuple[str, ...] = ()
    fingerprint: str = "0"

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int, /) -> Record:
        colour = ("red", "green", "blue")[index % 3]
        said = self.captions.get(index, (f"a {colour} patch", f"This is {colour}"))
        return Record(np.full((4, 4), index, np.uint8), -1, f"row {index}", said)


@pytest.fixture(scope="module")
def tokenizer():
    return Captions(context=8).tokenizer_for(Colours())


def train(source, *, cuts=WHOLE, num_steps=6, **options):
    settings: dict[str, Any] = dict(batch_size=4, canvas=4, seed=0, first_step=0)
    return list(train_batches(source, cuts, num_steps=num_steps, **(settings | options)))


def test_a_vocabulary_is_trained_to_the_same_byte_again(tokenizer):
    again = Captions(context=8).tokenizer_for(Colours())
    assert again.json == tokenizer.json
    assert again.sha256 == hashlib.sha256(again.json.encode()).hexdigest()


def test_tokens_stand_between_start_and_end_and_zeros_follow(tokenizer):
    tokens = tokenizer("a red patch")
    vocabulary = json.loads(tokenizer.json)["model"]["vocab"]
    names = {number: name for name, number in vocabulary.items()}
    said = [names[int(i)] for i in tokens.ids[: tokens.length]]
    assert said == ["<start_of_text>", "\u0120a", "\u0120red", "\u0120patch", "<end_of_text>"]
    assert not tokens.ids[tokens.length :].any()


def test_case_and_space_do_not_matter_and_equal_captions_have_one_hash(tokenizer):
    assert tokenizer(" A  Red patch\n").hash == tokenizer("a red patch").hash
    assert tokenizer("a red patch").hash != tokenizer("a blue patch").hash


def test_a_long_caption_keeps_its_end_and_is_told_once(tokenizer, caplog):
    end = tokenizer("red").ids[2]
    with caplog.at_level(logging.WARNING):
        cut = [tokenizer("red " * 20), tokenizer("blue " * 20)]
    assert [tokens.length for tokens in cut] == [8, 8]
    assert [tokens.ids[-1] for tokens in cut] == [end, end]
    assert tokenizer.num_cut == 2
    assert len(caplog.records) == 1
    assert "has 22 tokens and is cut to config.data.captions.context=8" in caplog.text


def test_batches_draw_each_image_s_captions_alike_for_any_number_of_processes(tokenizer):
    source = Captioned(Colours(), tokenizer)
    whole = train(source, num_steps=40)
    halves = [train(source, num_steps=40, process_index=p, process_count=2) for p in range(2)]
    seen = {}
    for batch, *parts in zip(whole, *halves, strict=True):
        for key in ("text", "text_length", "text_id", "image"):
            joined = np.concatenate([part[key] for part in parts])
            np.testing.assert_array_equal(batch[key], joined)
        for i, row, length in zip(batch["id"], batch["text"], batch["text_length"], strict=True):
            said = [tokenizer(caption) for caption in Colours()[int(i)].captions]
            (drawn,) = [k for k, tokens in enumerate(said) if (tokens.ids == row).all()]
            assert length == said[drawn].length
            seen.setdefault(int(i), set()).add(drawn)
    assert seen == {i: {0, 1} for i in range(12)}


def test_a_resumed_run_draws_the_captions_of_one_that_was_not_stopped(tokenizer):
    source = Captioned(Colours(), tokenizer)
    straight, resumed = train(source), train(source, first_step=4)
    for a, b in zip(straight[4:], resumed, strict=True):
        np.testing.assert_array_equal(a["text"], b["text"])


def test_captions_do_not_change_where_views_are_cut(tokenizer):
    drawn = Cuts(2, 1, lambda bits, shape: np.array([[bits.random_raw() % 3, 0, 2, 2]], np.int32))
    plain = train(Colours(), cuts=drawn, num_steps=3)
    with_text = train(Captioned(Colours(), tokenizer), cuts=drawn, num_steps=3)
    for a, b in zip(plain, with_text, strict=True):
        assert "text" not in a
        np.testing.assert_array_equal(a["image"], b["image"])


@pytest.mark.parametrize(
    ("captions", "reason"), [((), "has no caption"), (("red", " "), "has an empty caption")]
)
def test_an_image_without_words_is_quarantined_by_name(tokenizer, captions, reason):
    source, quarantine = Captioned(Colours({5: captions}), tokenizer), Quarantine()
    batches = train(source, quarantine=quarantine)
    assert 5 not in np.concatenate([batch["id"] for batch in batches])
    assert [(entry.name, entry.reason) for entry in quarantine.entries.values()] == [
        ("row 5", reason)
    ]


def test_rows_that_fill_up_a_batch_have_no_words(tokenizer):
    source = Captioned(Colours(), tokenizer)
    (*_, last) = eval_batches(source, WHOLE, batch_size=8, canvas=4)
    np.testing.assert_array_equal(last["text_length"] > 0, last["valid"])
    assert last["valid"].tolist() == [True] * 4 + [False] * 4


def test_a_share_of_the_labels_keeps_its_captions():
    digits = open_source("digits", split="train")
    few = LabelSubset(digits, 0.01, seed=0, keep_unlabelled=False)
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for i in range(len(few)):
        record = few[i]
        assert few.captions_of(i) == record.captions
        assert f"a handwritten {words[record.label]}" in record.captions
        assert f"the digit {record.label}" in record.captions


def test_a_source_without_captions_is_an_error_that_says_what_has_some():
    source = Colours({i: () for i in range(12)})
    with pytest.raises(UserError, match=r"colours has no captions\. Name images that have"):
        Captions().tokenizer_for(source)


def test_a_tokenizer_may_come_from_a_file(tokenizer, tmp_path):
    path = tmp_path / "clip.json"
    path.write_text(
        tokenizer.json.replace("<start_of_text>", "<|startoftext|>").replace(
            "<end_of_text>", "<|endoftext|>"
        )
    )
    read = Captions(context=8, tokenizer=str(path)).tokenizer_for(Colours())
    np.testing.assert_array_equal(read("a red patch").ids, tokenizer("a red patch").ids)


def test_a_file_that_is_no_tokenizer_is_named(tokenizer, tmp_path):
    path = tmp_path / "x.json"
    captions = Captions(tokenizer=str(path))
    with pytest.raises(UserError, match=r"captions.tokenizer='.*x.json' cannot be read: .*No such"):
        captions.tokenizer_for(Colours())
    path.write_text("{}")
    with pytest.raises(UserError, match=r"x.json is no tokenizer: "):
        captions.tokenizer_for(Colours())
    path.write_text(tokenizer.json.replace("<end_of_text>", "<done>"))
    with pytest.raises(
        UserError, match="has no tokens for start and end: it needs <start_of_text>"
    ):
        captions.tokenizer_for(Colours())


def test_another_tokenizer_than_the_run_s_is_refused(tokenizer, tmp_path):
    settled = Captions(context=8, tokenizer_sha256=tokenizer.sha256)
    tokenizer.write(tmp_path)
    assert read_tokenizer(str(tmp_path), settled).json == tokenizer.json
    assert settled.tokenizer_for(Colours()).sha256 == tokenizer.sha256
    others = Colours({0: ("quite another caption",)})
    with pytest.raises(UserError, match="with other tokens, the weights mean nothing"):
        settled.tokenizer_for(others)
    Captions(context=8).tokenizer_for(others).write(tmp_path)
    with pytest.raises(UserError, match="is not the tokenizer that this run was trained with"):
        read_tokenizer(str(tmp_path), settled)


def test_a_tokenizer_needs_no_unknown_token(tokenizer):
    """Every byte has a token: no letter of any script is lost."""
    assert isinstance(tokenizer, Tokenizer)
    for caption in ("\u732b", "caf\u00e9", "\U0001f600"):
        assert tokenizer(caption).length == 2 + len(f" {caption}".encode())
