"""TrainedEncoder: its tensors as files need them."""

import json

import jax
import numpy as np

from simclr_jax.interop.encoder import TrainedEncoder


def test_tensors_are_contiguous_float32_by_path(trained_encoder):
    made = trained_encoder()
    transposed = jax.tree.map(np.asfortranarray, made.params)
    assert not transposed["stem_conv"]["kernel"].flags.c_contiguous
    encoder = TrainedEncoder(made.network, transposed, made.batch_stats, made.image_size)
    tensors = encoder.tensors()
    assert all(x.flags.c_contiguous and x.dtype == np.float32 for x in tensors.values())
    for path, want in made.tensors().items():
        np.testing.assert_array_equal(tensors[path], want, err_msg=path)
    assert tensors["params/encoder/stage2/block0/shortcut_conv/kernel"].shape == (1, 1, 8, 16)
    assert tensors["batch_stats/encoder/stem_norm/var"].shape == (8,)
    assert len(tensors) == len(jax.tree.leaves((made.params, made.batch_stats)))


def test_settings_survive_json(trained_encoder):
    settings = trained_encoder(dtype="bfloat16", sk_ratio=0.0625).settings
    assert json.loads(json.dumps(settings)) == {
        "depth": 18,
        "width": 0.125,
        "sk_ratio": 0.0625,
        "stem": "imagenet",
        "geometry": "official",
    }
