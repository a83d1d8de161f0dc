"""SimCLR's ResNet encoders in PyTorch: rebuilds an exported encoder and loads its weights.

    encoder = load_encoder("encoder.safetensors")
    features = encoder(images)  # [n, 3, h, w] in [0, 1] -> [n, encoder.output_dim]

The file stands alone: it imports torch and safetensors, so it can be copied into any project.
Layers are named as in torchvision's ResNets wherever those have them. What torchvision does
not have: widths, selective kernels, the ResNet-D stem (named as in timm) and shortcuts, the
stem for CIFAR, and the max-pool of TensorFlow, which pads an even image at the bottom right
only.
"""

# torch and safetensors are optional: where they are missing, pyright still reads this file.
# pyright: reportMissingImports=false

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

FORMAT_VERSION = "1"
STAGE_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK_DEPTHS = (50, 101, 152, 200)
SETTINGS = {  # keyword arguments of `ResNet` and their types in the file
    "depth": int,
    "width": (int, float),
    "sk_ratio": (int, float),
    "stem": str,
    "geometry": str,
}
NORMALIZATION = ("input_mean", "input_std")  # likewise; both or none are in the file
_MODULE_NAMES = (
    (r"^params/projector/dense1$", "projector"),
    (r"^stem_conv1$", "conv1.0"),
    (r"^stem_norm1$", "conv1.1"),
    (r"^stem_conv2$", "conv1.3"),
    (r"^stem_norm2$", "conv1.4"),
    (r"^stem_conv3$", "conv1.6"),
    (r"^stem_norm3$", "bn1"),
    (r"^stem_conv$", "conv1"),
    (r"^stem_norm$", "bn1"),
    (r"^stage(\d+)/block(\d+)", r"layer\1.\2"),
    (r"/shortcut_conv$", "/downsample.0"),
    (r"/shortcut_norm$", "/downsample.1"),
    (r"norm(\d?)$", r"bn\1"),
)
_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def load_encoder(path: str) -> "ResNet":
    """Reads a file that `python -m simclr_jax export --format=safetensors` wrote.

    Args:
      path: the .safetensors file; no code in it is executed.

    Returns:
      The encoder on the CPU, in eval mode. To train it call `train()`: BatchNorm then uses the
      statistics of the batch and moves its running ones by a tenth towards them, as in the
      original, except that PyTorch's running variance is the unbiased one.

    Raises:
      ValueError: if it is not such a file, or its tensors do not fit its settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as a safetensors file: {error}.") from error
    if metadata.get("simclr_jax") != FORMAT_VERSION:
        raise ValueError(
            f"{path} is no encoder that this code can read: its metadata has simclr_jax="
            f"{metadata.get('simclr_jax')!r}, not {FORMAT_VERSION!r}. Such a file is written by "
            "python -m simclr_jax export --format=safetensors."
        )
    try:
        return from_tensors(checked_settings(metadata.get("encoder", "")), tensors)
    except (ValueError, RuntimeError) as error:  # RuntimeError: of load_state_dict
        raise ValueError(f"{path} does not hold the encoder that it describes: {error}") from error


def from_tensors(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ResNet":
    """Returns an encoder with the given weights, in eval mode.

    Args:
      settings: keyword arguments of `ResNet`.
      tensors: by path, such as "params/encoder/stage1/block0/conv1/kernel"; kernels have the
        layout of JAX: height, width, input, output.

    Raises:
      RuntimeError: if a tensor is missing, left over or of another shape.
    """
    with torch.device("meta"):  # allocates nothing: the weights are the given tensors
        encoder = ResNet(channels=_channels(tensors), projection=_projection(tensors), **settings)
    state = {state_dict_name(path): _in_torch_layout(x) for path, x in tensors.items()}
    encoder.load_state_dict(state, strict=True, assign=True)
    return encoder.eval()


def state_dict_name(path: str) -> str:
    """Returns the name in the state dict of a variable with the given path.

    "params/encoder/stage1/block0/shortcut_conv/kernel" gives "layer1.0.downsample.0.weight".
    A path that is no variable of an encoder gives a name that no encoder has.
    """
    modules, _, leaf = re.sub(r"^(params|batch_stats)/encoder/", "", path).rpartition("/")
    for pattern, name in _MODULE_NAMES:
        modules = re.sub(pattern, name, modules)
    return f"{modules}.{_LEAF_NAMES.get(leaf, leaf)}".replace("/", ".")


class ResNet(nn.Module):
    """A residual network that maps images to one vector each.

    Args:
      depth: 18, 34, 50, 101, 152 or 200.
      width: multiplies the channels of every layer.
      sk_ratio: width of a selective kernel's descriptor, 0.0625 in SimCLRv2; 0 turns selective
        kernels and the ResNet-D stem and shortcuts off.
      stem: "imagenet" (divides the image by 4) or "cifar" (keeps its size).
      geometry: "official", or "torchvision" for exactly the networks of torchvision.
      input_mean: mean of the pixels of each channel, subtracted first.
      input_std: deviation of the pixels of each channel, which are divided by it.
      channels: channels of its images, 3 unless it was trained on others.
      projection: length of the rows of a tower, which ends in a linear projector; None to end in
        the representation.

    Attributes:
      output_dim: length of the vector.

    Source: He et al. 2015, https://arxiv.org/abs/1512.03385; He et al. 2018,
    https://arxiv.org/abs/1812.01187 (ResNet-D); Chen et al. 2020,
    https://arxiv.org/abs/2006.10029 (SimCLRv2).
    """

    def __init__(
        self,
        depth: int,
        width: int | float = 1,
        sk_ratio: int | float = 0.0,
        stem: str = "imagenet",
        geometry: str = "official",
        input_mean: Sequence[float] = (0.0, 0.0, 0.0),
        input_std: Sequence[float] = (1.0, 1.0, 1.0),
        channels: int = 3,
        projection: int | None = None,
    ):
        super().__init__()
        self.input_mean, self.input_std = input_mean, input_std
        if depth not in STAGE_SIZES or not 1 / 32 <= width < math.inf or not 0 <= sk_ratio <= 1:
            raise ValueError(f"No such ResNet: {depth=}, {width=}, {sk_ratio=}.")
        if stem not in ("imagenet", "cifar") or geometry not in ("official", "torchvision"):
            raise ValueError(f"No such ResNet: {stem=}, {geometry=}.")
        bottleneck = depth in BOTTLENECK_DEPTHS
        block = Bottleneck if bottleneck else BasicBlock
        inputs = int(64 * width)  # of the stage that comes next
        if stem == "imagenet" and sk_ratio > 0:
            self.conv1 = _resnet_d_stem(channels, int(32 * width), inputs)
        elif stem == "imagenet":
            self.conv1 = _conv(channels, inputs, 7, stride=2)
        else:
            self.conv1 = _conv(channels, inputs, 3)
        self.bn1 = nn.BatchNorm2d(inputs)
        if stem == "cifar":
            self.maxpool = nn.Identity()
        else:
            self.maxpool = nn.MaxPool2d(3, 2, 1) if geometry == "torchvision" else SameMaxPool()
        stages = []
        for i, num_blocks in enumerate(STAGE_SIZES[depth]):
            features, stride = int(64 * 2**i * width), 1 if i == 0 else 2
            outputs = 4 * features if bottleneck else features
            project = geometry == "official" or stride > 1 or inputs != outputs
            first = Shortcut(inputs, outputs, stride, sk_ratio > 0) if project else None
            blocks = [block(inputs, features, stride, sk_ratio, first)]
            blocks += [block(outputs, features, 1, sk_ratio) for _ in range(num_blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.output_dim = projection or inputs
        self.projector = nn.Linear(inputs, projection, bias=False) if projection else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Returns vectors [n, output_dim] of images [n, channels, h, w] in [0, 1]."""
        if (*self.input_mean, *self.input_std) != (0, 0, 0, 1, 1, 1):
            mean, std = images.new_tensor([self.input_mean, self.input_std])[..., None, None]
            images = (images - mean) / std
        x = self.maxpool(functional.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.projector(x.mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to a shortcut; selective kernels do not take part."""

    def __init__(
        self,
        inputs: int,
        features: int,
        stride: int,
        sk_ratio: int | float,
        downsample: nn.Module | None = None,
    ):
        super().__init__()
        del sk_ratio
        self.conv1 = _conv(inputs, features, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = _conv(features, features, 3)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(shortcut + branch)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, added to a shortcut; the 3x3 may be a selective kernel."""

    def __init__(
        self,
        inputs: int,
        features: int,
        stride: int,
        sk_ratio: int | float,
        downsample: nn.Module | None = None,
    ):
        super().__init__()
        self.conv1 = _conv(inputs, features, 1)
        self.bn1 = nn.BatchNorm2d(features)
        self.selective = sk_ratio > 0
        if self.selective:
            self.sk = SelectiveKernel(features, stride, sk_ratio)
        else:
            self.conv2 = _conv(features, features, 3, stride=stride)
            self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = _conv(features, 4 * features, 1)
        self.bn3 = nn.BatchNorm2d(4 * features)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(shortcut + branch)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.sk(y) if self.selective else functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class SelectiveKernel(nn.Module):
    """Two parallel 3x3 convolutions, mixed per channel by weights from the whole image."""

    def __init__(self, features: int, stride: int, ratio: int | float):
        super().__init__()
        squeezed = max(int(features * ratio), 32)
        self.conv = _conv(features, 2 * features, 3, stride=stride)
        self.bn = nn.BatchNorm2d(2 * features)
        self.squeeze_conv = _conv(features, squeezed, 1)
        self.squeeze_bn = nn.BatchNorm2d(squeezed)
        self.select_conv = _conv(squeezed, 2 * features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mixed streams."""
        x = functional.relu(self.bn(self.conv(x)))
        streams = x.unflatten(1, (2, -1))  # [n, 2, c, h, w]
        squeezed = self.squeeze_conv(streams.sum(dim=1).mean(dim=(2, 3), keepdim=True))
        logits = self.select_conv(functional.relu(self.squeeze_bn(squeezed)))
        weights = logits.unflatten(1, (2, -1)).softmax(dim=1)  # [n, 2, c, 1, 1]
        return (streams * weights).sum(dim=1)


class Shortcut(nn.Sequential):
    """A 1x1 convolution and its BatchNorm; in ResNet-D an average pool does the striding."""

    def __init__(self, inputs: int, outputs: int, stride: int, resnet_d: bool):
        conv = _conv(inputs, outputs, 1, stride=1 if resnet_d else stride)
        super().__init__(conv, nn.BatchNorm2d(outputs))
        self.stride = stride
        self.resnet_d = resnet_d

    def forward(self, input: Tensor) -> Tensor:
        """Returns what is added to the branch."""
        x = input  # the name that torch gives it
        if self.resnet_d:
            # At the edge, a stride of 1 averages the real pixels only, which is what repeating
            # them does. A stride of 2 counts zeros beside them, where the size is odd.
            mode = "replicate" if self.stride == 1 else "constant"
            x = functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode), 2, self.stride)
        return super().forward(x)


class SameMaxPool(nn.Module):
    """Maximum over 3x3 windows with stride 2 and TensorFlow's "SAME" padding, after a relu."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maxima; zeros serve as padding, as nothing after a relu is below them."""
        top, left = x.shape[2] % 2, x.shape[3] % 2
        return functional.max_pool2d(functional.pad(x, (left, 1, top, 1)), 3, 2)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _resnet_d_stem(channels: int, half: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(channels, half, 3, stride=2),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        _conv(half, half, 3),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        _conv(half, outputs, 3),  # its BatchNorm is bn1
    )


def _in_torch_layout(x: Tensor) -> Tensor:
    """Turns height, width, input, output into output, input, height, width."""
    if x.dim() == 2:  # a projector's kernel
        return x.T.contiguous()
    return x.permute(3, 2, 0, 1).contiguous() if x.dim() == 4 else x


def _channels(tensors: Mapping[str, Tensor]) -> int:
    names = (f"params/encoder/{stem}/kernel" for stem in ("stem_conv", "stem_conv1"))
    return next((tensors[name].shape[2] for name in names if name in tensors), 3)


def _projection(tensors: Mapping[str, Tensor]) -> int | None:
    kernel = tensors.get("params/projector/dense1/kernel")
    return None if kernel is None else kernel.shape[1]


def checked_settings(text: str) -> dict[str, Any]:
    """Returns the settings that a file holds as JSON.

    Raises:
      ValueError: if they are not those of an encoder.
    """
    settings = json.loads(text)
    known = [{*SETTINGS}, {*SETTINGS, *NORMALIZATION}]
    if not isinstance(settings, dict) or settings.keys() not in known:
        raise ValueError(f"its settings must be {', '.join(SETTINGS)}; it has {text}.")
    for name, kind in SETTINGS.items():
        if not isinstance(settings[name], kind) or isinstance(settings[name], bool):
            raise ValueError(f"its setting {name} has the value {settings[name]!r}.")
    for name in settings.keys() & {*NORMALIZATION}:
        value = settings[name]
        if not isinstance(value, list) or [*map(type, value)] != [float] * 3:
            raise ValueError(f"its setting {name} has the value {value!r}.")
    return settings
