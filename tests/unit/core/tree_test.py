"""Comparing trees of arrays."""

import math

import numpy as np
import pytest

from simclr_jax.core.tree import largest_difference

WANT = {"a": np.array([1.0, -4.0]), "b": {"c": np.array([10.0])}}


def test_the_array_that_is_furthest_off_is_named():
    got = {"a": np.array([1.0, -3.0]), "b": {"c": np.array([9.0])}}
    assert largest_difference(WANT, got) == (0.25, "a")
    assert largest_difference(WANT, WANT) == (0, "")


def test_a_difference_may_be_relative_to_a_move():
    start = {"a": np.array([1.0, -4.5]), "b": {"c": np.array([0.0])}}
    got = {"a": np.array([1.0, -4.0]), "b": {"c": np.array([9.0])}}
    assert largest_difference(WANT, got, start) == (pytest.approx(0.1), "b/c")


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_as_far_off_as_can_be(wrong):
    assert largest_difference({"a": np.ones(2)}, {"a": np.array([1, wrong])}) == (math.inf, "a")


def test_what_should_not_be_or_move_is_as_far_off_as_can_be():
    zero, one = {"a": np.zeros(2)}, {"a": np.ones(2)}
    assert largest_difference(zero, one) == (math.inf, "a")
    assert largest_difference(one, zero, start=one) == (math.inf, "a")


def test_what_should_be_zero_is_judged_by_the_scale_of_the_rest():
    want = {"a": np.array([2.0]), "zero": np.array([1e-17])}
    rounded = {"a": np.array([2.0]), "zero": np.array([-1e-17])}
    assert largest_difference(want, rounded) == (2.0, "zero")
    relative, path = largest_difference(want, rounded, least=1e-6)
    assert (relative, path) == (pytest.approx(2e-17 / 2e-6), "zero")
    wrong = {"a": np.array([2.0]), "zero": np.array([1e-8])}
    assert largest_difference(want, wrong, least=1e-6)[0] == pytest.approx(1e-8 / 2e-6)
