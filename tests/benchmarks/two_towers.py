"""Time and memory of symmetric InfoNCE: value and gradients of both towers and of the scale.

Compares the tiled loss with ClipLoss of open_clip (src/open_clip/loss.py, on one device), each in
its own process; torch is left out where it is not installed. Run on a CPU.

python tests/benchmarks/two_towers.py [--pairs=8192] [--width=512] [--torch_python=PYTHON]
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from measuring import has_modules, timed

PAIRS = flags.DEFINE_integer("pairs", 8192, "Pairs of an image and a text.")
WIDTH = flags.DEFINE_integer("width", 512, "Numbers in a row.")
TILE = flags.DEFINE_integer("tile", None, "Rows of a tile; by default the library's.")
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Interpreter that has torch, if not this one."
)
ONLY = flags.DEFINE_enum("only", None, ["tiled", "open_clip"], "Measures one.")
REPEATS = 3
LOG_SCALE = np.float32(np.log(1 / 0.07))


def towers() -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets of unit rows; a row resembles its partner."""
    first, second = np.random.default_rng(0).standard_normal(
        (2, PAIRS.value, WIDTH.value), np.float32
    )
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit(first), unit(first + second)


def ours() -> Callable[[], Any]:
    """Returns a call that gives (value, gradients)."""
    import jax

    from simclr_jax.losses.two_towers import symmetric_info_nce

    def loss(first: Any, second: Any, log_scale: Any) -> Any:
        return symmetric_info_nce(first, second, log_scale=log_scale, tile=TILE.value).loss

    arguments = tuple(map(jax.numpy.asarray, (*towers(), LOG_SCALE)))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def open_clip() -> Callable[[], Any]:
    """Returns a call that gives (value, gradients), without what `ours` does to normalise rows."""
    import torch  # pyright: ignore[reportMissingImports] - of another environment

    image, text = (torch.from_numpy(x).requires_grad_() for x in towers())
    log_scale = torch.tensor(LOG_SCALE, requires_grad=True)
    labels = torch.arange(PAIRS.value)
    cross_entropy = torch.nn.functional.cross_entropy

    def run() -> tuple[Any, Any]:
        scale = log_scale.exp()
        logits_per_image = scale * image @ text.T
        logits_per_text = scale * text @ image.T
        loss = (
            cross_entropy(logits_per_image, labels) + cross_entropy(logits_per_text, labels)
        ) / 2
        return loss.detach(), torch.autograd.grad(loss, (image, text, log_scale))

    return run


def measure(name: str) -> dict[str, Any]:
    """Returns value, norms of the gradients, best seconds, and bytes above inputs at the peak."""
    (value, grads), taken = timed(ours() if name == "tiled" else open_clip(), REPEATS)
    # Without normalising, gradients have a part along the rows, which is taken out here.
    across = []
    for rows, grad in zip(towers(), map(np.asarray, grads[:2]), strict=True):
        across.append(grad - rows * (rows * grad).sum(axis=1, keepdims=True))
    norms = [float(np.linalg.norm(x)) for x in (*across, np.asarray(grads[2]))]
    return {"value": float(value), "norms": norms, **taken}


def main(argv: Sequence[str]) -> None:
    """Prints one line per loss."""
    del argv
    if ONLY.value is not None:
        print(json.dumps(measure(ONLY.value)))
        return
    print(f"InfoNCE both ways, {PAIRS.value} pairs, d = {WIDTH.value}, {os.cpu_count()} cores")
    names = ("image", "text", "log_scale")
    header = "".join(f"{f'|grad {name}|':>18s}" for name in names)
    print(f"{'':10s}{'loss':>10s}{header}{'s':>9s}{'memory MB':>11s}")
    for name in ("tiled", "open_clip"):
        python = TORCH_PYTHON.value if name == "open_clip" else sys.executable
        if name == "open_clip" and not has_modules(python, "torch, absl.flags"):
            print("open_clip  left out: torch or absl-py is not installed")
            continue
        arguments = [f"--pairs={PAIRS.value}", f"--width={WIDTH.value}", f"--only={name}"]
        arguments += [f"--tile={TILE.value}"] if TILE.value else []
        out = subprocess.run([python, __file__, *arguments], check=True, stdout=subprocess.PIPE)
        r = json.loads(out.stdout)
        norms = "".join(f"{norm:18.5e}" for norm in r["norms"])
        print(f"{name:10s}{r['value']:10.5f}{norms}{r['seconds']:9.3f}{r['growth'] / 1e6:11.1f}")


if __name__ == "__main__":
    app.run(main)
