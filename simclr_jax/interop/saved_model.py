"""The encoder as a TensorFlow SavedModel for batches of one size."""

from pathlib import Path

import jax
import numpy as np

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, TrainedEncoder

PLATFORMS = ("cpu", "cuda", "tpu")


def write(encoder: TrainedEncoder, path: Path, *, batch: int = 1) -> str:
    """Writes the directory, for inference; returns how to use it.

    The weights are variables of the SavedModel, so networks above 2 GiB fit.

    Args:
      encoder: what to write.
      path: a directory that does not exist.
      batch: images per call. A symbolic batch is saved without an error and then fails when
        called: TensorFlow 2.21 does not know the operation in which JAX 0.10 checks shapes.
    """
    tf = import_optional("tensorflow")
    jax2tf = import_optional("jax.experimental.jax2tf")
    size_px = encoder.image_size
    shape = (batch, size_px, size_px, encoder.channels)
    module = tf.Module()
    module.weights = jax.tree.map(tf.Variable, encoder.variables)
    apply = jax2tf.convert(
        encoder.apply, with_gradient=False, native_serialization_platforms=PLATFORMS
    )
    module.encode = tf.function(
        lambda images: {"representation": apply(module.weights, images)},
        autograph=False,
        input_signature=[tf.TensorSpec(shape, tf.float32, "images")],
    )
    signatures = {"serving_default": module.encode}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return (
        f"tf.saved_model.load(...).encode takes float32 images {list(shape)} "
        "in [0, 1] and returns {'representation'}; so does the signature serving_default."
    )


def read(path: Path) -> Encode:
    """Returns what TensorFlow computes with the SavedModel, batch by batch."""
    tf = import_optional("tensorflow")
    program = tf.saved_model.load(str(path))
    batch = program.encode.input_signature[0].shape[0]

    def encode(images: np.ndarray) -> np.ndarray:
        n = len(images)
        rows = np.resize(images, (-(-n // batch) * batch, *images.shape[1:]))  # repeats them
        parts = [program.encode(rows[i : i + batch]) for i in range(0, len(rows), batch)]
        return np.concatenate([part["representation"].numpy() for part in parts])[:n]

    return encode
