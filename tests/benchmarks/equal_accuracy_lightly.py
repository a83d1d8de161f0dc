"""The other side of equal_accuracy.py, which starts it: SimCLR with lightly and torchvision.

  VENV/bin/python tests/benchmarks/equal_accuracy_lightly.py IMAGES FEATURES STEM WIDTH SEED STEPS

IMAGES and FEATURES are .npz files. Views, projector and loss are lightly's, the network
torchvision's ResNet-18. Made equal to ours here: with the CIFAR stem 3x3 and no pooling, a
convolution in the shortcut of the first stage, and channels multiplied by WIDTH; no mean and
standard deviation taken from pixels; and no shift in the projector's last BatchNorm.
"""

# pyright: reportMissingImports=false
# The modules are those of another environment.
import math
import sys
import time

import numpy as np
import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn

BATCH_SIZE, RATE, MOMENTUM, DECAY, TEMPERATURE = 256, 0.12, 0.9, 5e-4, 0.5


class TwoViews(torch.utils.data.Dataset):
    """Two views of each image that stands in an order."""

    def __init__(self, images, order):
        self.images, self.order = images, order
        self.transform = SimCLRTransform(
            input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None
        )

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[self.order[i]]))


class Narrower(torchvision.models.ResNet):
    """torchvision's ResNet with other numbers of channels in its stages."""

    width = 1.0

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:
            self.inplanes = int(64 * self.width)  # what the stem gives
        return super()._make_layer(block, int(planes * self.width), blocks, stride, dilate)


def network(stem, width):
    """Returns torchvision's ResNet-18 without its classifier, or that for small images."""
    if stem == "imagenet":
        encoder = torchvision.models.resnet18()
        encoder.fc = nn.Identity()
        return encoder
    Narrower.width = width
    encoder = Narrower(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2])
    encoder.fc = nn.Identity()
    channels = int(64 * width)
    encoder.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    encoder.bn1 = nn.BatchNorm2d(channels)
    shortcut = nn.Conv2d(channels, channels, 1, bias=False)
    for conv in (encoder.conv1, shortcut):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    encoder.layer1[0].downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))
    encoder.maxpool = nn.Identity()
    return encoder


@torch.no_grad()
def encode(encoder, images):
    """Returns features of whole images, in inference mode."""
    encoder.eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    features = [encoder(part.float() / 255).numpy() for part in pixels.split(BATCH_SIZE)]
    encoder.train()
    return np.concatenate(features)


def main(there, back, stem, width, seed, num_steps):
    """Trains, and writes features from before and after."""
    torch.manual_seed(seed)
    with np.load(there) as file:
        images, test = file["train"], file["test"]
    encoder = network(stem, width)
    projector = SimCLRProjectionHead(int(512 * width), 512, 128, num_layers=2)
    projector.layers[-1].bias.requires_grad_(False)
    found = {"before_train": encode(encoder, images), "before_test": encode(encoder, test)}
    parameters = [*encoder.parameters(), *projector.parameters()]
    optimizer = torch.optim.SGD(parameters, RATE, momentum=MOMENTUM, weight_decay=DECAY)
    cosine = lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine)
    epochs = math.ceil(num_steps * BATCH_SIZE / len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    views = TwoViews(images, order[: num_steps * BATCH_SIZE].tolist())
    loader = torch.utils.data.DataLoader(views, BATCH_SIZE, num_workers=2)
    criterion, start = NTXentLoss(temperature=TEMPERATURE), time.monotonic()
    for i, (first, second) in enumerate(loader):
        z = projector(encoder(torch.cat([first, second])))
        loss = criterion(*z.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if i % 39 == 38:
            print(f"  step {i + 1}: loss {loss.item():.3f}", flush=True)
    seconds = time.monotonic() - start
    found |= {"after_train": encode(encoder, images), "after_test": encode(encoder, test)}
    np.savez(back, allow_pickle=False, seconds=seconds, **found)


if __name__ == "__main__":
    there, back, stem, width, seed, num_steps = sys.argv[1:]
    main(there, back, stem, float(width), int(seed), int(num_steps))
