"""Time of the convolutions of a ResNet-18 with the CIFAR stem, forward and with both gradients.

Compares ours with PyTorch's, channels last, each in its own process; torch is left out where it is
not installed. Run on a CPU. The sums say what a step could win with PyTorch's kernels.

python tests/benchmarks/convolutions.py [--images=128] [--torch_python=PYTHON]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from measuring import has_modules, timed

REPEATS = 5


class Layer(NamedTuple):
    """A convolution, by kernel size and strides, and the number of its kind in the network."""

    size: int
    channels: int
    features: int
    kernel: int
    strides: int
    number: int


STEM = Layer(32, 3, 64, 3, 1, 1)  # whose images need no gradient
LAYERS = (
    STEM,
    Layer(32, 64, 64, 3, 1, 4),
    Layer(32, 64, 128, 3, 2, 1),
    Layer(32, 64, 128, 1, 2, 1),
    Layer(16, 128, 128, 3, 1, 3),
    Layer(16, 128, 256, 3, 2, 1),
    Layer(16, 128, 256, 1, 2, 1),
    Layer(8, 256, 256, 3, 1, 3),
    Layer(8, 256, 512, 3, 2, 1),
    Layer(8, 256, 512, 1, 2, 1),
    Layer(4, 512, 512, 3, 1, 3),
)
Pass = Callable[[], Any]


def arrays(layer: Layer, num_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images [n, h, w, c], a kernel [k, k, c, f], and a gradient of the result."""
    rng = np.random.default_rng(0)
    size, out = layer.size, layer.size // layer.strides
    shape = (layer.kernel, layer.kernel, layer.channels, layer.features)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    images = normal(num_images, size, size, layer.channels)
    return images, normal(*shape), normal(num_images, out, out, layer.features)


def ours(layer: Layer, num_images: int) -> tuple[Pass, Pass]:
    """Returns the forward pass, and both passes."""
    import jax

    from simclr_jax.models.convolution import convolve

    x, kernel, dy = map(jax.numpy.asarray, arrays(layer, num_images))

    def both(x: Any, kernel: Any, dy: Any) -> Any:
        fn = lambda x, kernel: convolve(x, kernel, layer.strides)
        if layer is STEM:
            y, pull_back = jax.vjp(lambda kernel: fn(x, kernel), kernel)
        else:
            y, pull_back = jax.vjp(fn, x, kernel)
        return y, pull_back(dy)

    forward_pass = jax.jit(lambda x, kernel: convolve(x, kernel, layer.strides))
    both_passes = jax.jit(both)
    return (
        lambda: jax.block_until_ready(forward_pass(x, kernel)),
        lambda: jax.block_until_ready(both_passes(x, kernel, dy)),
    )


def pytorch(layer: Layer, num_images: int) -> tuple[Pass, Pass]:
    """Returns the forward pass, and both passes."""
    import torch  # pyright: ignore[reportMissingImports] - of another environment

    given = map(torch.from_numpy, arrays(layer, num_images))
    layouts = [(0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)]
    x, kernel, dy = (
        array.permute(layout).contiguous(memory_format=torch.channels_last)
        for array, layout in zip(given, layouts, strict=True)
    )
    wanted = [kernel] if layer is STEM else [x, kernel]

    def forward_pass() -> Any:
        padding = layer.kernel // 2
        return torch.nn.functional.conv2d(x, kernel, stride=layer.strides, padding=padding)

    def both_passes() -> Any:
        for array in wanted:
            array.requires_grad_()
        result = torch.autograd.grad(forward_pass(), wanted, dy)
        for array in wanted:
            array.requires_grad_(False)
        return result

    return forward_pass, both_passes


def measure(name: str, num_images: int) -> list[list[float]]:
    """Returns the best seconds of a layer's forward pass, and of both passes, for each layer."""
    rows = []
    for layer in LAYERS:
        passes = (ours if name == "ours" else pytorch)(layer, num_images)
        for run in passes:
            run()
        rows.append([timed(run, REPEATS)[1]["seconds"] for run in passes])
    return rows


def main() -> None:
    """Prints a line per layer, and the sums over the network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=128, help="images of a batch")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--only", choices=["ours", "torch"], help="measures one")
    flags = parser.parse_args()
    if flags.only:
        print(json.dumps(measure(flags.only, flags.images)))
        return
    columns = []
    for name in ("ours", "torch"):
        python = flags.torch_python if name == "torch" else sys.executable
        if name == "torch" and not has_modules(python, "torch"):
            print(f"torch is left out: {python} has none")
            continue
        command = [python, __file__, f"--images={flags.images}", f"--only={name}"]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        columns += np.array(json.loads(out.stdout)).T.tolist()
    names = ["ours, forward", "ours, both", "torch, forward", "torch, both"][: len(columns)]
    print(f"{flags.images} images, {os.cpu_count()} cores, ms of a layer, and sums over all layers")
    print(f"{'layer':>42s}{'number':>8s}" + "".join(f"{name:>16s}" for name in names))
    for layer, *times in zip(LAYERS, *columns, strict=True):
        what = "{0} x {0} px, {1} -> {2}, kernel {3}, by {4}".format(*layer)
        print(f"{what:>42s}{layer.number:8d}" + "".join(f"{1e3 * t:16.1f}" for t in times))
    sums = [np.dot([layer.number for layer in LAYERS], times) for times in columns]
    print(f"{'sum':>42s}{'':8s}" + "".join(f"{1e3 * t:16.1f}" for t in sums))


if __name__ == "__main__":
    main()
