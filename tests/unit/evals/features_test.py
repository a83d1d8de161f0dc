"""extract_features: every example once, in order, whatever the devices and the padding."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.evals.features import check_labels, extract_features
from simclr_jax.parallel.mesh import make_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, size=(21, 2, 2, 3)).astype(np.uint8)


def batches(order: Sequence[int] = range(21), unreadable=(), batch_size=8):
    order = list(order)
    for start in range(0, len(order), batch_size):
        ids = np.array(order[start : start + batch_size], np.int64)
        padded = np.concatenate([ids, np.zeros(batch_size - len(ids), np.int64)])
        valid = np.arange(batch_size) < len(ids)
        yield {
            "image": IMAGES[padded],
            "label": (padded % 5).astype(np.int32) - 1,
            "id": padded,
            "valid": valid & ~np.isin(padded, unreadable),
        }


@jax.jit
def encode(batch):
    return batch["image"].reshape(len(batch["image"]), -1) / 255


@pytest.mark.parametrize("num_devices", [1, 8])
def test_encodes_every_example_once_and_drops_padding(num_devices):
    found = extract_features(encode, batches(), make_mesh(jax.devices()[:num_devices]))
    np.testing.assert_array_equal(found.ids, np.arange(21))
    np.testing.assert_array_equal(found.labels, np.arange(21) % 5 - 1)
    np.testing.assert_allclose(found.features, IMAGES.reshape(21, -1) / 255, rtol=1e-6)
    assert [column.dtype for column in found] == [np.int64, np.float32, np.int32]


def test_sorts_by_id_and_drops_unreadable_rows():
    found = extract_features(encode, batches([9, 2, 17, 4, 3], unreadable=[17]), make_mesh())
    np.testing.assert_array_equal(found.ids, [2, 3, 4, 9])
    np.testing.assert_allclose(found.features, IMAGES[[2, 3, 4, 9]].reshape(4, -1) / 255, rtol=1e-6)


@pytest.mark.parametrize("spec", [P(), P(None, "data")])
def test_does_not_care_where_the_encoder_leaves_its_output(spec):
    mesh = make_mesh()
    elsewhere = jax.jit(
        lambda batch: jnp.tile(encode(batch), (1, 2)), out_shardings=NamedSharding(mesh, spec)
    )
    found = extract_features(elsewhere, batches(), mesh)
    np.testing.assert_allclose(found.features[:, :12], IMAGES.reshape(21, -1) / 255, rtol=1e-6)


def test_rejects_nothing_to_encode():
    with pytest.raises(ValueError, match="no batches"):
        extract_features(encode, iter(()), make_mesh())
    with pytest.raises(ValueError, match="None of the 8 rows is valid"):
        extract_features(encode, batches([1, 2], unreadable=[1, 2]), make_mesh())


@pytest.mark.parametrize("labels", [[0, -1], [0, 3], []])
def test_names_labels_out_of_range(labels):
    with pytest.raises(ValueError, match=r"\[0, 3\), got"):
        check_labels(np.array(labels, np.int32), 3)
