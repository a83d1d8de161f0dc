"""Placing: global arrays over all devices, a few ahead, and nothing left behind."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.core.types import Cuts
from simclr_jax.data.load import train_batches
from simclr_jax.data.place import place_batches
from simclr_jax.data.sources import Record

PIXEL = Cuts(2, 1, lambda bits, shape: np.array([[0, 0, *shape]], np.int32))


class Blank:
    """A hundred images of one pixel whose value is their index."""

    name = "blank"
    class_names = ()
    fingerprint = ""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int, /) -> Record:
        return Record(np.full((1, 1), index, np.uint8), -1, str(index))


def blank_batches(cuts, num_steps: int):
    return train_batches(
        Blank(), cuts, batch_size=16, canvas=2, seed=0, first_step=0, num_steps=num_steps
    )


def host_batches(count: int, closed: list[bool] | None = None):
    try:
        for i in range(count):
            yield {"image": np.full((8, 2), i, np.uint8), "id": np.arange(8), "valid": np.ones(8)}
    finally:
        if closed is not None:
            closed.append(True)


def make_mesh(*shape: int):
    axes = ("data", "model")[: len(shape)]
    return jax.make_mesh(shape, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


@pytest.mark.parametrize("shape", [(8,), (1,), (4, 2)])
def test_rows_are_split_over_all_axes_and_ids_become_int32(shape):
    mesh = make_mesh(*shape)
    (batch,) = place_batches(host_batches(1), mesh)
    assert set(batch) == {"image", "valid", "id"}
    assert batch["id"].dtype == "int32"
    assert batch["image"].sharding.spec == P(mesh.axis_names)
    assert batch["image"].addressable_shards[0].data.shape == (8 // mesh.size, 2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_every_batch_arrives_in_order(count, depth):
    placed = place_batches(host_batches(count), make_mesh(8), depth=depth)
    assert [int(batch["image"][0, 0]) for batch in placed] == list(range(count))


def test_reads_no_further_ahead_than_asked():
    taken = []

    def counted():
        for batch in host_batches(10):
            taken.append(True)
            yield batch

    placed = place_batches(counted(), make_mesh(8), depth=3)
    assert not taken
    next(placed)
    assert len(taken) == 3
    next(placed)
    assert len(taken) == 4


@pytest.mark.parametrize("how", ["stops early", "runs out"])
def test_closes_its_source(how):
    closed: list[bool] = []
    placed = place_batches(host_batches(4, closed), make_mesh(8))
    next(placed)
    if how == "stops early":
        placed.close()
    else:
        list(placed)
    assert closed == [True]


def test_labels_and_pixels_survive_the_way_to_the_devices():
    read = lambda: blank_batches(PIXEL, num_steps=3)
    placed = list(place_batches(read(), make_mesh(8)))
    for got, want in zip(placed, read(), strict=True):
        for key in ("image", "size", "label"):
            np.testing.assert_array_equal(got[key], want[key])
            assert got[key].dtype == want[key].dtype


def test_places_each_of_several_sizes_of_views():
    batches = blank_batches((PIXEL, PIXEL), num_steps=1)
    (batch,) = place_batches(batches, make_mesh(8))
    assert [x.shape for x in batch["image"]] == [(16, 1, 2, 2, 3)] * 2
    assert {x.sharding.spec for x in (*batch["image"], *batch["size"])} == {
        P(make_mesh(8).axis_names)
    }


def test_needs_a_depth():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        place_batches(host_batches(1), make_mesh(8), depth=0)
