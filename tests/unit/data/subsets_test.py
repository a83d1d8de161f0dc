"""Subsets of labels: balanced, nested, the same everywhere; what happens to the other images."""

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data.load import eval_batches
from simclr_jax.data.records import Record
from simclr_jax.data.sources import Digits
from simclr_jax.data.subsets import (
    LabelSubset,
    any_label,
    balanced_subset,
    count_labelled,
    read_labels,
)


class Labelled:
    """Grey images whose level is their index, with the given labels."""

    name, fingerprint = "test images", "f"
    class_names: tuple[str, ...] = ("a", "b")

    def __init__(self, labels):
        self.given = labels

    def __len__(self):
        return len(self.given)

    def __getitem__(self, index, /):
        return Record(np.full((4, 4), index, np.uint8), self.given[index], f"image {index}")


@pytest.mark.parametrize(
    ("fraction", "each"), [(0.001, 1), (0.01, 1), (0.05, 5), (0.1, 10), (1.0, 100)]
)
def test_draws_the_same_number_of_each_class(fraction, each):
    labels = np.random.default_rng(0).permutation(np.arange(1000) % 10)
    subset = balanced_subset(labels, fraction, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[subset]), [each] * 10)
    assert (np.diff(subset) > 0).all()


def test_draws_the_same_examples_on_every_machine():
    labels = np.arange(1000) % 5
    np.testing.assert_array_equal(balanced_subset(labels, 0.005, seed=7), [34, 535, 631, 753, 887])


def test_a_smaller_fraction_is_part_of_a_larger_one_and_seeds_differ():
    labels = np.arange(1000) % 10
    small, large = (balanced_subset(labels, fraction, seed=3) for fraction in (0.05, 0.1))
    assert set(small) < set(large)
    assert set(small) != set(balanced_subset(labels, 0.05, seed=4))


def test_every_example_is_drawn_equally_often():
    labels = np.arange(40) % 4
    times = np.zeros(40)
    for seed in range(400):
        times[balanced_subset(labels, 0.2, seed)] += 1
    assert times.min() > 45
    assert times.max() < 120  # 80 expected, deviation 8


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 7 + [1], r"takes 2 of each of the 2 classes, but class 1 has 1; .* at most 0.25"),
        ([0] * 4 + [2] * 4, "takes 1 of each of the 3 classes, but class 1 has 0; give it"),
    ],
)
def test_names_a_class_with_too_few_examples(labels, message):
    with pytest.raises(UserError, match=message):
        balanced_subset(np.array(labels), 0.5 if 1 in labels else 0.3, seed=0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_rejects_a_fraction_out_of_range(fraction):
    with pytest.raises(UserError, match=r"\(0, 1\], got"):
        balanced_subset(np.arange(10) % 2, fraction, seed=0)


def test_the_others_are_left_out_or_lose_their_labels():
    source = Labelled([0, 1] * 10)
    chosen = balanced_subset(np.array(source.given), 0.2, 3)
    subset = LabelSubset(source, 0.2, seed=3, keep_unlabelled=False)
    assert [record.name for record in subset] == [f"image {i}" for i in chosen]
    assert [record.label for record in subset] == [source.given[i] for i in chosen]
    everything = LabelSubset(source, 0.2, seed=3, keep_unlabelled=True)
    assert [r.label for r in everything] == [
        label if i in chosen else -1 for i, label in enumerate(source.given)
    ]
    assert len({source.fingerprint, subset.fingerprint, everything.fingerprint}) == 3


@pytest.mark.parametrize("keep_unlabelled", [False, True])
def test_a_source_that_reads_many_at_once_keeps_its_order(keep_unlabelled):
    class Many(Labelled):
        def __getitems__(self, ids, /):
            return [self[i] for i in ids]

    one, many = (
        LabelSubset(kind([0, 1, 1, 0] * 20), 0.1, seed=0, keep_unlabelled=keep_unlabelled)
        for kind in (Labelled, Many)
    )
    first, second = (
        next(iter(eval_batches(subset, batch_size=8, canvas=4))) for subset in (one, many)
    )
    for name in ("image", "label", "id", "valid"):
        np.testing.assert_array_equal(first[name], second[name])


def test_labels_that_are_known_beforehand_are_those_of_the_records():
    digits = Digits("test")
    assert read_labels(digits).tolist() == [record.label for record in digits]


def test_labels_that_are_hidden_are_not_counted():
    hidden, left_out = (
        LabelSubset(Labelled([0, 1] * 10), 0.2, seed=3, keep_unlabelled=keep)
        for keep in (True, False)
    )
    assert count_labelled(hidden) == count_labelled(left_out) == 4
    assert count_labelled(Labelled([0, 1] * 10)) == 20


def test_one_percent_of_the_digits_is_four_of_each():
    subset = LabelSubset(Digits("train"), 0.01, seed=0, keep_unlabelled=False)
    assert np.bincount([record.label for record in subset]).tolist() == [4] * 10


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0, 2], r"Example 3 of test images has the label 2; .*2 classes, .* from 0 to 1"),
        ([0, 1, -1, 1], r"Example 2 of test images has the label -1"),
        ([0, 0, 0, 0], "has no example of 'b'"),
    ],
)
def test_names_a_label_that_cannot_be_drawn_from(labels, message):
    with pytest.raises(UserError, match=message):
        LabelSubset(Labelled(labels), 0.5, seed=0, keep_unlabelled=False)


def test_a_data_set_without_labels_is_refused():
    source = Labelled([-1, -1])
    source.class_names = ()
    with pytest.raises(UserError, match=r"has no labels, .*labels_from_folders=True"):
        LabelSubset(source, 0.5, seed=0, keep_unlabelled=False)


def test_a_label_out_of_range_stops_the_reading_and_names_the_image():
    with pytest.raises(UserError, match=r"image 1, has the label 7; the data set has 2 classes"):
        list(eval_batches(Labelled([0, 7]), batch_size=2, canvas=4))


def test_one_label_is_found_wherever_it_is_and_none_where_there_is_none():
    for at in (0, 130, 249):
        assert any_label(Labelled([-1] * at + [1] + [-1] * (249 - at)))
    assert not any_label(Labelled([-1] * 250))


def test_a_subset_knows_its_labels_without_reading_an_image():
    source = Labelled([0, 1] * 50)
    for keep_unlabelled in (False, True):
        subset = LabelSubset(source, 0.1, seed=3, keep_unlabelled=keep_unlabelled)
        read = [subset[i].label for i in range(len(subset))]
        np.testing.assert_array_equal(read_labels(subset), read)
        assert sum(label >= 0 for label in read) == 10
