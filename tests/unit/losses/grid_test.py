"""The contrast of CPC on a grid: recorded numbers, distances, and its chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import grid
from tests.helpers import jitted

grid_info_nce = jitted(grid.grid_info_nce)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tile", [None, 7])
def test_patches_are_told_among_all_of_the_batch(golden, close, tile):
    given = {k.removeprefix("grid/"): v for k, v in golden("infonce").items() if "grid/" in k}
    names = ("patches", "context", "weights")
    loss = lambda *arrays: grid_info_nce(*arrays, tile=tile)
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(
        *(given[name] for name in names)
    )
    close(value, given["loss"])
    for name, grad in zip(names, grads, strict=True):
        close(grad, given[f"grad_{name}"])
    each = given["weights"][:1], given["weights"][1:]
    for distance, (weights, want) in enumerate(zip(each, given["loss_per_distance"], strict=True)):
        settings = {"first_distance": distance + 1}
        close(grid_info_nce(given["patches"], given["context"], weights, **settings), want)


def test_chance_is_the_log_of_the_patches_and_a_grid_too_small_is_named():
    patches, context = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 3, 4, 6))
    value = grid_info_nce(patches, context, jnp.ones((2, 6, 5)))
    np.testing.assert_allclose(value, np.log(2 * 3 * 4), rtol=1e-6)
    with pytest.raises(ValueError, match="distance of 3 rows needs a grid of 4 rows; there are 3"):
        grid_info_nce(patches, context, jnp.ones((3, 6, 5)))
