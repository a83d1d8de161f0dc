"""What the ways from a photograph to its views cost, and how far their pixels are off.

python tests/benchmarks/pixels.py --photos=DIR [--num=40] [--megapixels=12]

Views of 224 px, two an image; time is what one thread takes of its core. With --megapixels, the
photographs are laid side by side to large ones, so that they have detail down to the pixel, and
stored as JPEG.
"""

import dataclasses
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from simclr_jax.augment.policies import evaluation, finetune
from simclr_jax.core.types import Cuts
from simclr_jax.data.cut import cut
from simclr_jax.data.decode import decode
from simclr_jax.data.order import random_words

PHOTOS = flags.DEFINE_string("photos", None, "Folder of JPEGs.", required=True)
NUM = flags.DEFINE_integer("num", 40, "How many, evenly spaced.")
MEGAPIXELS = flags.DEFINE_integer("megapixels", 0, "Size of large photographs made of them.")
SIZE, VIEWS, ROUNDS = 224, 2, 3
UNLIMITED = 8192
Box = np.ndarray


@dataclasses.dataclass(frozen=True)
class Design:
    """A way to the device.

    Attributes:
      canvas: side of the square that an image is fitted into.
      cuts: whether the host cuts the views; if not, it sends the canvas.
      columns: width of the canvas, if it is no square; upright images lie on their side in it.
    """

    canvas: int
    cuts: bool = False
    columns: int | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        if self.cuts:
            limit = "" if self.canvas == UNLIMITED else f" of an image within {self.canvas} px"
            return f"views cut on the host{limit}"
        return f"canvas {self.canvas} x {self.columns or self.canvas}"

    @property
    def num_bytes(self) -> int:
        """Pixels of one image on their way to the device."""
        if self.cuts:
            return VIEWS * SIZE * SIZE * 3
        return self.canvas * (self.columns or self.canvas) * 3

    def fit(self, file: bytes) -> np.ndarray:
        """Decodes an image as large as this design has it."""
        if self.columns is None:
            return decode(file, canvas=self.canvas).pixels
        whole = decode(file, canvas=UNLIMITED).pixels
        height, width = sorted(whole.shape[:2])
        scale = min(1, self.canvas / height, self.columns / width)
        return whole if scale == 1 else decode(file, canvas=round(max(whole.shape) * scale)).pixels

    def send(self, file: bytes, boxes: Callable[[tuple[int, int]], np.ndarray]) -> None:
        """Does what the host does for one image."""
        pixels = self.fit(file)
        size = pixels.shape[0], pixels.shape[1]
        if self.cuts:
            out = np.zeros((VIEWS, SIZE, SIZE, 3), np.uint8)
            for view, box in zip(out, boxes(size), strict=True):
                part = cut(pixels, box, SIZE)
                view[: part.shape[0], : part.shape[1]] = part
            return
        if self.columns is not None and size[0] > size[1]:
            pixels = pixels.swapaxes(0, 1)
        out = np.zeros((self.canvas, self.columns or self.canvas, 3), np.uint8)
        out[: pixels.shape[0], : pixels.shape[1]] = pixels

    def view(self, pixels: np.ndarray, box: Box, whole: tuple[int, int]) -> np.ndarray:
        """Returns the view of a box, given in pixels of the whole image."""
        scale = np.array([pixels.shape[0] / whole[0], pixels.shape[1] / whole[1]] * 2)
        y, x, height, width = np.rint(box * scale).astype(int)
        box = np.array([y, x, max(height, 1), max(width, 1)])
        return resized(cut(pixels, box, SIZE if self.cuts else UNLIMITED))


DESIGNS = (
    Design(320),
    Design(512),
    Design(384, columns=512),
    Design(800),
    Design(1280),
    Design(896, cuts=True),
    Design(UNLIMITED, cuts=True),
)


def resized(pixels: np.ndarray) -> np.ndarray:
    """Returns a view in floats by the official resize: Keys' cubic convolution, a = -0.5."""
    for _ in range(2):  # rows, and then columns as rows
        length = pixels.shape[0]
        center = (np.arange(SIZE) + 0.5) * length / SIZE - 0.5
        t = np.abs(center[:, None] - np.arange(length))
        far = np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0)
        weights = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, far)
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        pixels = np.tensordot(weights, pixels.astype(np.float32), axes=1).swapaxes(0, 1)
    return np.clip(pixels / 255, 0, 1)


def large(files: list[bytes], megapixels: int) -> list[bytes]:
    """Lays photographs side by side to a few large ones, 4 wide and 3 high."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    shape, tile = (height, height * 4 // 3), 300
    tiles = [decode(file, canvas=UNLIMITED).pixels[:tile, :tile] for file in files]
    tiles = [pixels for pixels in tiles if pixels.shape == (tile, tile, 3)]
    rng, out = np.random.default_rng(0), []
    for _ in range(max(len(files) // 8, 1)):
        rows, columns = -(-shape[0] // tile), -(-shape[1] // tile)
        chosen = rng.integers(0, len(tiles), (rows, columns))
        pixels = np.concatenate([np.concatenate([tiles[i] for i in row], 1) for row in chosen])
        data = io.BytesIO()
        Image.fromarray(pixels[: shape[0], : shape[1]]).save(data, "JPEG", quality=92)
        out.append(data.getvalue())
    return out


def milliseconds(design: Design, files: list[bytes]) -> float:
    """Returns the least mean CPU time of an image in a few rounds."""
    cuts = finetune(size=SIZE).cuts
    assert isinstance(cuts, Cuts)
    boxes = cuts.boxes
    two = lambda i: (
        lambda size: np.concatenate(
            [boxes(random_words(0, view, i), size) for view in range(VIEWS)]
        )
    )
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for i, file in enumerate(files):
            design.send(file, two(i))
        rounds.append(time.thread_time() - start)
    return 1000 * min(rounds) / len(files)


def distances(design: Design, files: list[bytes]) -> np.ndarray:
    """Returns the RMS difference from the official pixels, [evaluation or training, image]."""
    policies = (evaluation(size=SIZE), finetune(size=SIZE))
    out = []
    for i, file in enumerate(files):
        whole, fitted = decode(file, canvas=UNLIMITED).pixels, design.fit(file)
        size = whole.shape[0], whole.shape[1]
        for policy in policies:
            assert isinstance(policy.cuts, Cuts)
            (box,) = policy.cuts.boxes(random_words(0, 0, i), size)
            want = resized(cut(whole, box, UNLIMITED))
            out.append(np.sqrt(np.mean((design.view(fitted, box, size) - want) ** 2)))
    return np.array(out).reshape(-1, 2).T


def main(argv: Sequence[str]) -> None:
    """Prints a row for each design."""
    del argv
    paths = sorted(Path(PHOTOS.value).iterdir())
    files = [paths[i * len(paths) // NUM.value].read_bytes() for i in range(NUM.value)]
    if MEGAPIXELS.value:
        files = large(files, MEGAPIXELS.value)
    print(f"{len(files)} photographs; RMS, 1.0 for white: median / 95th percentile")
    print("| design | kB an image | host CPU ms | RMS of evaluation views | of training crops |")
    print("|---|---|---|---|---|")
    for design in DESIGNS:
        cells = [design.name, f"{design.num_bytes / 1e3:.0f}"]
        cells.append(f"{milliseconds(design, files):.1f}")
        for rms in distances(design, files):
            cells.append("{:.4f} / {:.4f}".format(*np.quantile(rms, (0.5, 0.95))))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
