"""How far a ResNet-50's HBM traffic is from the least that its layers can do with.

  python -m simclr_jax plan --config=configs/simclr_imagenet.py:v1_r50_1x --topology=v5e:8x8 \
      --json > PLAN
  python tests/benchmarks/traffic_floor.py PLAN

The least, for each tensor of the device's views in bf16. A bottleneck block takes x, makes a and b
by its first two convolutions, and ends with s = relu(BatchNorm(b times a kernel) + shortcut); the
statistics of the last product follow from b. BatchNorm needs all of a tensor before any of it can
go on, so a tensor is written by one kernel and read by the next.

  forward   a and b are written, to be there for the backward pass; x is read by the first
            convolution and by the shortcut; s is written
  backward  the gradient of s is read for BatchNorm's sums, for the products, and for the shortcut;
            s is read for relu's mask; x for the first kernel's gradient, and once more where the
            shortcut has a kernel; the gradient of x is written; a and b are read

A tensor of which the chip can keep two at a time stays there between two kernels of one pass: only
what is kept for the backward pass counts, once in each pass. Parameters are read in each pass and
by the optimizer, their momenta and gradients read and written, and each of them is read once more
for LARS's norms, in float32.
"""

import json
import sys
from pathlib import Path

BLOCKS = (3, 4, 6, 3)
VMEM = 128 * 2**20  # of a v5e, by https://docs.jax.dev/en/latest/pallas/tpu (recalled)
PLACES = 9  # of a float32 array as large as the parameters: reads and writes, see above

OTHERS = "parameters and all else"


def main() -> None:
    """Runs the command."""
    answer = json.loads(Path(sys.argv[1]).read_text())
    views = 2 * answer["batch_per_device"]
    least = {"stem": stem(views), OTHERS: (0.0, PLACES * 4.0 * answer["parameters"])}
    for n in range(len(BLOCKS)):
        least[f"stage{n + 1}"] = stage(n, views)
    found = dict.fromkeys(least, 0.0)
    for part in answer["traffic"]:
        name = part["part"].rpartition("/")[2].removeprefix("_")
        found[name if name in least else OTHERS] += part["hbm_bytes"]
    print("| part | GB | the least | forward, backward |")
    print("|---|---|---|---|")
    for name, (forward, backward) in least.items():
        both = "-" if name == OTHERS else f"{forward / 1e9:.2f}, {backward / 1e9:.2f}"
        print(f"| {name} | {found[name] / 1e9:.2f} | {(forward + backward) / 1e9:.2f} | {both} |")
    total = sum(map(sum, least.values()))
    print(f"| all | {answer['hbm_bytes'] / 1e9:.2f} | {total / 1e9:.2f} | |")


def stem(views: float) -> tuple[float, float]:
    """Returns the least bytes of the first convolution and the pool, forward and backward.

    Its output is written and read by the pool; backward it is read, and its gradient is written by
    the pool and read for the kernel's.
    """
    output = 2.0 * views * 112**2 * 64
    return 2 * output, 3 * output


def stage(number: int, views: float) -> tuple[float, float]:
    """Returns the least bytes of one stage, forward and backward."""
    forward = backward = 0.0
    side, width = 56 // 2**number, 64 * 2**number
    for block in range(BLOCKS[number]):
        first = block == 0
        x_side = 2 * side if first and number else side
        x = tensor(views, x_side, (64 if number == 0 else 2 * width) if first else 4 * width)
        a, b = tensor(views, x_side, width), tensor(views, side, width)
        s = tensor(views, side, 4 * width)
        forward += a + b + s + 2 * on_the_way(x) + on_the_way(a) + on_the_way(b)
        reads_of_x = 2 if first else 1
        backward += 3 * on_the_way(s) + s + reads_of_x * on_the_way(x) + on_the_way(x) + a + b
        backward += 2 * on_the_way(a) + 2 * on_the_way(b)  # written and read, their gradients
    return forward, backward


def tensor(views: float, side: int, channels: int) -> float:
    """Returns the bytes of one tensor."""
    return 2.0 * views * side**2 * channels


def on_the_way(nbytes: float) -> float:
    """Returns what a tensor costs between two kernels of one pass."""
    return nbytes if 2 * nbytes > VMEM else 0.0


if __name__ == "__main__":
    main()
