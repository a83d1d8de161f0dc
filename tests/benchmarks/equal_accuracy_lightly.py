"""The other side of equal_accuracy.py, which starts it: SimCLR with lightly and torchvision.

  VENV/bin/python tests/benchmarks/equal_accuracy_lightly.py IMAGES.npz FEATURES.npz STEM SEED STEPS

Views, projector and loss are lightly's, the network torchvision's ResNet-18. Made equal to ours
here: with the CIFAR stem 3x3 and no pooling, and a convolution in the shortcut of the first
stage; no mean and standard deviation taken from pixels; and no shift in the projector's last
BatchNorm.
"""

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


def network(stem):
    """Returns torchvision's ResNet-18 without its classifier, or that for small images."""
    encoder = torchvision.models.resnet18()
    encoder.fc = nn.Identity()
    if stem == "imagenet":
        return encoder
    encoder.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    shortcut = nn.Conv2d(64, 64, 1, bias=False)
    for conv in (encoder.conv1, shortcut):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    encoder.layer1[0].downsample = nn.Sequential(shortcut, nn.BatchNorm2d(64))
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


def main(there, back, stem, seed, num_steps):
    """Trains, and writes features from before and after."""
    torch.manual_seed(seed)
    with np.load(there) as file:
        images, test = file["train"], file["test"]
    encoder, projector = network(stem), SimCLRProjectionHead(512, 512, 128, num_layers=2)
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
    found["seconds"] = time.monotonic() - start
    found |= {"after_train": encode(encoder, images), "after_test": encode(encoder, test)}
    np.savez(back, **found)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
