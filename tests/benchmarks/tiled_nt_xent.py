"""Time and memory of NT-Xent, value and gradient, of random projections [pairs, 2, 128] on CPU.

Compares the tiled loss with the dense one and with lightly.loss.NTXentLoss, each in its own
process; lightly (https://pypi.org/project/lightly) is left out where it is not installed. Above
16384 pairs only the tiled loss runs: the others need tens of gigabytes.

python tests/benchmarks/tiled_nt_xent.py [--pairs=8192] [--lightly_python=.venv/bin/python]
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

PAIRS = flags.DEFINE_integer("pairs", 8192, "Images, each with two views.")
TILE = flags.DEFINE_integer("tile", None, "Rows of a tile; by default the library's.")
LIGHTLY_PYTHON = flags.DEFINE_string(
    "lightly_python", sys.executable, "Interpreter that has lightly, if not this one."
)
ONLY = flags.DEFINE_enum("only", None, ["tiled", "columns", "dense", "lightly"], "Measures one.")
REPEATS = 3
MAX_COMPARED = 16384
TEMPERATURE, WIDTH = 0.1, 128


def projections() -> np.ndarray:
    """Returns [pairs, 2, 128]; second views resemble the first."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((PAIRS.value, 2, WIDTH), np.float32)
    z[:, 1] += z[:, 0]
    return z


def jax_loss(name: str) -> tuple[Callable[[], Any], int]:
    """Returns a call that gives (value, gradient), and the bytes of temporaries compiled in."""
    import jax

    from simclr_jax.losses import contrastive, similarity
    from simclr_jax.parallel.mesh import make_mesh
    from simclr_jax.parallel.sharding import batch_sharding

    tile = TILE.value or similarity.TILE
    if name == "dense":
        similarity.MAX_DENSE_ROWS, tile = 2 * PAIRS.value, None
    z = jax.device_put(projections(), batch_sharding(make_mesh()))
    if name == "columns":  # what arrays outside a mesh get
        z = jax.device_put(projections())
    loss = lambda z: contrastive.nt_xent(z, temperature=TEMPERATURE, tile=tile)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(z).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return lambda: jax.block_until_ready(compiled(z)), memory.temp_size_in_bytes


def lightly_loss() -> tuple[Callable[[], Any], None]:
    """Returns a call that gives (value, gradient)."""
    import torch  # pyright: ignore[reportMissingImports] - of another environment
    from lightly.loss import NTXentLoss  # pyright: ignore[reportMissingImports] - as above

    first, second = torch.from_numpy(projections()).unbind(1)
    views = [view.clone().requires_grad_() for view in (first, second)]
    criterion = NTXentLoss(temperature=TEMPERATURE)

    def run() -> tuple[Any, Any]:
        loss = criterion(*views)
        grads = torch.autograd.grad(loss, views)
        return loss.detach(), torch.stack(grads, 1)

    return run, None


def measure(name: str) -> dict[str, Any]:
    """Returns value, norm of the gradient, best seconds, and bytes above inputs at the peak."""
    run, temporaries = lightly_loss() if name == "lightly" else jax_loss(name)
    repeats = REPEATS if PAIRS.value <= MAX_COMPARED else 1
    (value, grad), taken = timed(run, repeats)
    norm = float(np.linalg.norm(np.asarray(grad)))
    return {"value": float(value), "grad": norm, "temporaries": temporaries, **taken}


def main(argv: Sequence[str]) -> None:
    """Prints one line per loss."""
    del argv
    if ONLY.value is not None:
        print(json.dumps(measure(ONLY.value)))
        return
    compared = PAIRS.value <= MAX_COMPARED
    print(f"NT-Xent, value and gradient, {PAIRS.value} pairs, d = {WIDTH}, {os.cpu_count()} cores")
    print(f"{'':8s}{'loss':>10s}{'|grad|':>12s}{'s':>9s}{'memory MB':>11s}{'compiled MB':>13s}")
    for name in ("tiled", "columns", "dense", "lightly") if compared else ("tiled",):
        python = LIGHTLY_PYTHON.value if name == "lightly" else sys.executable
        if name == "lightly" and not has_modules(python, "lightly.loss, absl.flags"):
            print("lightly  left out: it is not installed (pip install lightly)")
            continue
        arguments = [f"--pairs={PAIRS.value}", f"--only={name}"]
        arguments += [f"--tile={TILE.value}"] if TILE.value else []
        out = subprocess.run([python, __file__, *arguments], check=True, stdout=subprocess.PIPE)
        r = json.loads(out.stdout)
        compiled = "" if r["temporaries"] is None else f"{r['temporaries'] / 1e6:.1f}"
        print(
            f"{name:8s}{r['value']:10.5f}{r['grad']:12.4e}{r['seconds']:9.2f}"
            f"{r['growth'] / 1e6:11.1f}{compiled:>13s}"
        )


if __name__ == "__main__":
    app.run(main)
