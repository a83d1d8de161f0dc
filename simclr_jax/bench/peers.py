"""The other side of each comparison, run by a Python that has what requirements-peer.txt names.

Like `ours`: a function that prepares, and returns what is timed. Nothing of ours is imported but
the inputs, which need NumPy alone.
"""

# Those programs are not here: pyright still reads this file.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import nn

from simclr_jax.bench import inputs

Run = Callable[[], object]


class Narrower(torchvision.models.ResNet):
    """torchvision's ResNet with other numbers of channels."""

    width = 1.0

    def _make_layer(self, block, planes, *arguments, **settings):
        if planes == 64:
            self.inplanes = int(64 * self.width)  # what the stem gives
        return super()._make_layer(block, int(planes * self.width), *arguments, **settings)


def network(depth: int, stem: str, width: float) -> nn.Module:
    """Returns torchvision's ResNet without its classifier."""
    block, stages = {
        18: (torchvision.models.resnet.BasicBlock, [2, 2, 2, 2]),
        50: (torchvision.models.resnet.Bottleneck, [3, 4, 6, 3]),
    }[depth]
    Narrower.width = width
    encoder, channels = Narrower(block, stages), int(64 * width)
    encoder.bn1, encoder.fc = nn.BatchNorm2d(channels), nn.Identity()
    if stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        encoder.maxpool = nn.Identity()
    else:
        encoder.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
    return encoder


def step(*, depth: int, stem: str, width: float, size: int, pairs: int) -> Run:
    """Forward and backward pass, NT-Xent and SGD, from views on."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    encoder = network(depth, stem, width)
    dim = int(512 * width) * (4 if depth == 50 else 1)
    model = nn.Sequential(encoder, SimCLRProjectionHead(dim, 512, 128, num_layers=2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    criterion = NTXentLoss(temperature=0.5)
    pixels = torch.from_numpy(inputs.pixels(2 * pairs, size, size)).permute(0, 3, 1, 2)
    views = (pixels.float() / 255).to(memory_format=torch.channels_last)

    def run() -> None:
        loss = criterion(*model(views).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def augment(*, images: int, height: int, width: int, size: int, blur: bool) -> Run:
    """Two views of each image, one after the other."""
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(size, antialias=False),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(2 * (size // 20) + 1, (0.1, 2.0))], 0.5))
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
    pixels = torch.from_numpy(inputs.pixels(images, height, width)).permute(0, 3, 1, 2).contiguous()
    return lambda: torch.stack([transform(image) for image in pixels for _ in range(2)])


def loss(*, pairs: int) -> Run:
    """NT-Xent and its gradient."""
    from lightly.loss import NTXentLoss

    first, second = torch.from_numpy(inputs.projections(pairs)).unbind(1)
    views = [view.clone().requires_grad_() for view in (first, second)]
    criterion = NTXentLoss(temperature=inputs.TEMPERATURE)
    return lambda: torch.autograd.grad(criterion(*views), views)


def decode_file(*, size: int, files: list[str]) -> Run:
    """Each file read and decoded, and two views of it made, with one thread."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    torch.set_num_threads(1)
    transform = SimCLRTransform(input_size=size)
    return lambda: [transform(Image.open(file).convert("RGB")) for file in files]


def startup() -> Run:
    """A process that imports, prepares, and takes one step of the digits' network."""

    def run() -> None:
        subprocess.run([sys.executable, "-m", "simclr_jax.bench.peers"], check=True)

    return run


def first_step() -> None:
    """Makes 128 pairs of views, and takes a step with them."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    transform = SimCLRTransform(input_size=28, gaussian_blur=0.0)
    for pixels in inputs.pixels(128, 28, 28):
        transform(Image.fromarray(pixels))
    step(depth=18, stem="imagenet", width=0.25, size=28, pairs=128)()


def knn(*, num_train: int, num_test: int, dim: int) -> Run:
    """The classes that the nearest neighbours vote for."""
    import faiss

    x, labels = inputs.features(num_train, dim, seed=1)
    test, _ = inputs.features(num_test, dim, seed=2)

    def run() -> np.ndarray:
        train, rows = x.copy(), test.copy()
        faiss.normalize_L2(train)
        faiss.normalize_L2(rows)
        index = faiss.IndexFlatIP(dim)
        index.add(train)
        cosine, found = index.search(rows, inputs.K)
        votes = np.zeros((num_test, inputs.NUM_CLASSES))
        weights = np.exp((cosine - cosine[:, :1]) / inputs.TEMPERATURE)
        np.add.at(votes, (np.arange(num_test)[:, None], labels[found]), weights)
        return votes.argmax(1)

    return run


def probe(*, num_train: int, dim: int) -> Run:
    """Logistic regression of the same objective, as near to its minimum."""
    from sklearn.linear_model import LogisticRegression

    x, labels = inputs.features(num_train, dim, seed=1)
    x, strength = inputs.standardised(x), 1 / (inputs.L2 * num_train)

    def fit(tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        fitted = LogisticRegression(C=strength, max_iter=1000, tol=tolerance).fit(x, labels)
        return fitted.coef_, fitted.intercept_

    tolerance = inputs.loosest(fit, x, labels)
    return lambda: fit(tolerance)


KINDS: dict[str, Callable[..., Run]] = {
    "step": step,
    "augment": augment,
    "loss": loss,
    "decode": decode_file,
    "startup": startup,
    "knn": knn,
    "probe": probe,
}

if __name__ == "__main__":
    first_step()
    os._exit(0)  # at once, as the process that ours is compared by
