"""What other methods add to SimCLR's step."""

import functools

import pytest

from launch import methods_overhead

flops = functools.cache(methods_overhead.flops)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in methods_overhead.OTHERS if name != "simclr"])
def test_a_method_with_the_same_passes_costs_at_most_a_tenth_more(name):
    assert 0.99 < flops(name) / flops("simclr") <= 1.1
