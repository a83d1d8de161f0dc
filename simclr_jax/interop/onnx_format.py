"""The encoder as an ONNX graph with the weights inside, by way of the PyTorch module."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simclr_jax.core.optional import import_optional
from simclr_jax.interop.encoder import Encode, TrainedEncoder
from simclr_jax.interop.torch_bridge import torch_module

OPSET = 18  # what the exporter emits without a conversion afterwards, and old runtimes know


def write(encoder: TrainedEncoder, path: Path) -> str:
    """Writes the graph; returns how to use the file."""
    torch = import_optional("torch")
    size_px = encoder.image_size
    with _quiet():
        torch.onnx.export(
            torch_module(encoder),
            (torch.zeros(2, 3, size_px, size_px),),  # not 1: that size would be taken as fixed
            str(path),
            input_names=["images"],
            output_names=["representation"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return (
        f"Input 'images', float32 [n, 3, {size_px}, {size_px}] in [0, 1], for any n; output "
        f"'representation'. Opset {OPSET}."
    )


def read(path: Path) -> Encode:
    """Returns what ONNX Runtime computes with the file on the CPU."""
    session = import_optional("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )

    def encode(images: np.ndarray) -> np.ndarray:
        inputs = {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        return session.run(["representation"], inputs)[0]

    return encode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself: its deprecations, and parts it cannot find."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
