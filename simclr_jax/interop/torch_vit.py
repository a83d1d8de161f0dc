"""Vision transformers in PyTorch: rebuilds an exported encoder and loads its weights.

    encoder = load_encoder("encoder.safetensors")
    features = encoder(images)  # [n, 3, h, w] in [0, 1] -> [n, encoder.output_dim]

The file stands alone: it imports torch and safetensors, so it can be copied into any project.
Layers are named as in timm's VisionTransformer. What timm does not have: fixed positions, which
are here computed anew for images of another size.
"""

# torch and safetensors are optional: where they are missing, pyright still reads this file.
# pyright: reportMissingImports=false

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

FORMAT_VERSION = "1"
SIZES = {"tiny": (128, 4, 2), "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
SETTINGS = {  # keyword arguments of `ViT` and their types in the file
    "size": str,
    "patch": int,
    "num_heads": (int, type(None)),
    "learned_positions": (int, type(None)),
    "pool": str,
    "pre_norm": bool,
}
_MODULE_NAMES = (
    (r"^params/projector/dense1$", "projector"),
    (r"^patches$", "patch_embed.proj"),
    (r"^block(\d+)", r"blocks.\1"),
    (r"/(qkv)$", r"/attn.\1"),
    (r"/out$", "/attn.proj"),
    (r"/(fc\d)$", r"/mlp.\1"),
)
_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "class_token": "cls_token",
    "positions": "pos_embed",
}


def load_encoder(path: str) -> "ViT":
    """Reads a file that `python -m simclr_jax export --format=safetensors` wrote.

    Args:
      path: the .safetensors file; no code in it is executed.

    Returns:
      The encoder on the CPU, in eval mode.

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
        settings = checked_settings(metadata.get("encoder", ""))
        return from_tensors(settings, tensors, int(metadata.get("image_size", "")))
    except (ValueError, RuntimeError) as error:  # RuntimeError: of load_state_dict
        raise ValueError(f"{path} does not hold the encoder that it describes: {error}") from error


def from_tensors(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], image_size: int
) -> "ViT":
    """Returns an encoder with the given weights, in eval mode.

    Args:
      settings: keyword arguments of `ViT`.
      tensors: by path, such as "params/encoder/block0/qkv/kernel", in the layout of JAX.
      image_size: side in px of the images that fixed positions are computed for beforehand.

    Raises:
      RuntimeError: if a tensor is missing, left over or of another shape.
    """
    if settings["learned_positions"] is not None:
        image_size = settings["learned_positions"]
    with torch.device("meta"):  # allocates nothing: the weights are the given tensors
        encoder = ViT(
            image_size=image_size,
            channels=_channels(tensors, settings["patch"]),
            projection=_projection(tensors),
            **settings,
        )
    state = {}
    for path, x in tensors.items():
        name = state_dict_name(path)
        state[name] = to_torch_layout(name, x, encoder.patch, encoder.has_token)
    if not encoder.learned:
        state["pos_embed"] = encoder.sincos_positions(image_size // encoder.patch)
    encoder.load_state_dict(state, strict=True, assign=True)
    encoder.pos_embed.requires_grad = encoder.learned
    return encoder.eval()


def state_dict_name(path: str) -> str:
    """Returns the name in the state dict of a variable with the given path.

    "params/encoder/block3/out/kernel" gives "blocks.3.attn.proj.weight". A path that is no
    variable of an encoder gives a name that no encoder has.
    """
    modules, _, leaf = re.sub(r"^params/encoder/", "", path).rpartition("/")
    for pattern, name in _MODULE_NAMES:
        modules = re.sub(pattern, name, modules)
    return f"{modules}.{_LEAF_NAMES.get(leaf, leaf)}".lstrip(".").replace("/", ".")


def to_torch_layout(name: str, x: Tensor, patch: int, has_token: bool) -> Tensor:
    """Returns a variable of JAX as the state dict has it under a name."""
    if name == "cls_token":
        return x.reshape(1, 1, -1)
    if name == "pos_embed":  # timm adds the first to the class token, which has none here
        return functional.pad(x.flatten(0, 1), (0, 0, int(has_token), 0))[None]
    if name == "patch_embed.proj.weight" and x.dim() == 2:
        return x.unflatten(0, (patch, patch, -1)).permute(3, 2, 0, 1).contiguous()
    return x.T.contiguous() if x.dim() == 2 else x


class ViT(nn.Module):
    """A vision transformer that maps images to one vector each.

    Args:
      size: "tiny", "s", "b" or "l".
      patch: side of the square patches in px.
      image_size: side in px of the images that positions are stored for; others get learned
        positions by bicubic interpolation, or fixed ones of their own.
      num_heads: heads of the attention; None for as many as the size has.
      learned_positions: `image_size`, or None for fixed sines and cosines.
      pool: "token" for a class token, or "mean" for the mean of the patches.
      pre_norm: normalise the tokens before the first block, and project without a bias.
      channels: channels of its images, 3 unless it was trained on others.
      projection: length of the rows of a tower, which ends in a linear projector; None to end in
        the representation.

    Attributes:
      output_dim: length of the vector.

    Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929; positions: He et al. 2021,
    https://arxiv.org/abs/2111.06377.
    """

    def __init__(
        self,
        size: str,
        patch: int,
        image_size: int,
        num_heads: int | None = None,
        learned_positions: int | None = None,
        pool: str = "token",
        pre_norm: bool = False,
        channels: int = 3,
        projection: int | None = None,
    ):
        super().__init__()
        if size not in SIZES or pool not in ("token", "mean"):
            raise ValueError(f"No such ViT: {size=}, {pool=}.")
        width, depth, heads = SIZES[size]
        heads = num_heads or heads
        if patch < 1 or image_size < patch or image_size % patch or width % heads:
            raise ValueError(f"No such ViT: {patch=}, {image_size=}, {num_heads=}.")
        self.patch, self.width, self.output_dim = patch, width, projection or width
        self.learned, self.has_token = learned_positions is not None, pool == "token"
        num_tokens = (image_size // patch) ** 2 + self.has_token
        self.patch_embed = PatchEmbed(channels, width, patch, bias=not pre_norm)
        if self.has_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, width), self.learned)
        self.norm_pre = _layer_norm(width) if pre_norm else nn.Identity()
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = _layer_norm(width)
        self.projector = nn.Linear(width, projection, bias=False) if projection else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Returns vectors [n, output_dim] of images [n, channels, h, w] in [0, 1]."""
        rows, columns = (side // self.patch for side in images.shape[2:])
        x = self.patch_embed(images)
        if self.has_token:  # not len(x), which would fix the batch of an exported graph
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm_pre(x + self.positions(rows, columns))
        x = self.norm(self.blocks(x))
        return self.projector(x[:, 0] if self.has_token else x.mean(dim=1))

    def positions(self, rows: int, columns: int) -> Tensor:
        """Returns what is added to the tokens [1, t, width] of a grid of patches."""
        first = int(self.has_token)
        side = round((self.pos_embed.shape[1] - first) ** 0.5)
        if (rows, columns) == (side, side):
            return self.pos_embed
        if not self.learned:
            return self.sincos_positions(rows, columns).to(self.pos_embed)
        grid = self.pos_embed[:, first:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        return torch.cat([self.pos_embed[:, :first], grid.flatten(2).transpose(1, 2)], dim=1)

    def sincos_positions(self, rows: int, columns: int | None = None) -> Tensor:
        """Returns fixed positions [1, t, width], zeros for the class token first."""
        quarter = self.width // 4
        frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
        sizes = torch.arange(rows), torch.arange(rows if columns is None else columns)
        row, column = torch.meshgrid(*sizes, indexing="ij")
        angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
        waves = torch.cat([wave for x in angles for wave in (x.sin(), x.cos())], dim=1)
        return functional.pad(waves.float(), (0, 0, int(self.has_token), 0))[None]


class PatchEmbed(nn.Module):
    """The projection of each patch to a token."""

    def __init__(self, channels: int, width: int, patch: int, bias: bool):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the tokens [n, t, width], row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1 = _layer_norm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = _layer_norm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the tokens with both branches added."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Softmax attention of all tokens to all."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what each token sees of the others."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)  # [n, heads, t, width]
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the second layer."""
        return self.fc2(functional.gelu(self.fc1(x)))


def _layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _channels(tensors: Mapping[str, Tensor], patch: int) -> int:
    kernel = tensors.get("params/encoder/patches/kernel")
    return 3 if kernel is None else kernel.shape[0] // patch**2


def _projection(tensors: Mapping[str, Tensor]) -> int | None:
    kernel = tensors.get("params/projector/dense1/kernel")
    return None if kernel is None else kernel.shape[1]


def checked_settings(text: str) -> dict[str, Any]:
    """Returns the settings that a file holds as JSON.

    Raises:
      ValueError: if they are not those of an encoder.
    """
    settings = json.loads(text)
    if not isinstance(settings, dict) or settings.keys() != SETTINGS.keys():
        raise ValueError(f"its settings must be {', '.join(SETTINGS)}; it has {text}.")
    for name, kind in SETTINGS.items():
        is_bool = isinstance(settings[name], bool)
        if not isinstance(settings[name], kind) or is_bool != (kind is bool):
            raise ValueError(f"its setting {name} has the value {settings[name]!r}.")
    return settings
