"""The global order: each example once an epoch, whatever the processes and the first step."""

import numpy as np
import pytest

from simclr_jax.data.order import Order, permutation, process_rows


@pytest.mark.parametrize("batch_size", [1, 4, 10, 25])
def test_every_example_comes_once_an_epoch_across_batches(batch_size):
    order = Order(num_examples=10, batch_size=batch_size, seed=3)
    stream = np.concatenate([order.ids(step) for step in range(50 // batch_size)])
    for epoch in stream[: len(stream) // 10 * 10].reshape(-1, 10):
        assert sorted(epoch) == list(range(10))


def test_position_g_is_row_g_mod_b_of_batch_g_div_b():
    order = Order(num_examples=7, batch_size=4, seed=0)
    stream = np.concatenate([permutation(7, 0, epoch) for epoch in range(4)])
    for step in range(7):
        np.testing.assert_array_equal(order.ids(step), stream[4 * step : 4 * step + 4])


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_side_by_side_give_the_batch_of_one_process(process_count):
    whole = Order(num_examples=11, batch_size=8, seed=1)
    parts = [Order(11, 8, 1, p, process_count) for p in range(process_count)]
    for step in (0, 1, 5, 1000):
        got = np.concatenate([part.ids(step) for part in parts])
        np.testing.assert_array_equal(got, whole.ids(step))


def test_epochs_and_seeds_are_shuffled_differently():
    orders = [permutation(100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    same = [np.mean(a == b) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(same) < 0.1


def test_the_order_is_the_same_in_every_version():
    # np.argsort(np.random.Philox(key=[7, 2]).random_raw(10)), once and for all.
    assert permutation(10, 7, 2).tolist() == [6, 7, 8, 4, 0, 1, 5, 3, 9, 2]


def test_shuffle_has_no_bias_in_position():
    firsts = [permutation(8, 0, epoch)[0] for epoch in range(800)]
    counts = np.bincount(firsts, minlength=8)
    # Binomial(800, 1/8): mean 100, standard deviation 9.4.
    assert np.all(np.abs(counts - 100) < 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 0), "at least one example"),
        ((4, 4, -1), "seed must be from 0"),
        ((4, 3, 0, 0, 2), "multiple of the 2 processes, got 3"),
        ((4, 4, 0, 2, 2), "process_index must be from 0 to 1, got 2"),
    ],
)
def test_names_a_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(*arguments)


def test_process_rows_are_a_block():
    assert process_rows(12, 1, 3).tolist() == [4, 5, 6, 7]
