"""Text towers in PyTorch: rebuilds an exported text tower and loads its weights.

    tower = load_encoder("text.safetensors")
    rows = tower(tokens, lengths)  # [n, context] and [n] -> [n, tower.output_dim]

Rows are compared with those of the image tower by cosine. Tokens are made by the tokenizer beside
the file, see the JSON file beside it. This file stands alone: it imports torch and safetensors, so
it can be copied into any project.
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
SETTINGS = {  # keyword arguments of `TextTransformer` and their types in the file
    "num_tokens": int,
    "context": int,
    "width": int,
    "depth": int,
    "num_heads": int,
    "causal": bool,
    "pool": str,
    "activation": str,
}
ACTIVATIONS = {
    "gelu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
_NAMES = (
    (r"^params/text_projector/dense1/", "projector/"),
    (r"^params/text/", ""),
    (r"^block(\d+)/", r"blocks/\1/"),
    (r"/(kernel|scale|embedding)$", "/weight"),
)


def load_encoder(path: str) -> "TextTransformer":
    """Reads a file that `python -m simclr_jax export --tower=text --format=safetensors` wrote.

    Args:
      path: the .safetensors file; no code in it is executed.

    Returns:
      The tower on the CPU, in eval mode.

    Raises:
      ValueError: if it is not such a file, or its tensors do not fit its settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as a safetensors file: {error}.") from error
    found = (metadata.get("simclr_jax"), metadata.get("kind"))
    if found != (FORMAT_VERSION, "text"):
        raise ValueError(
            f"{path} is no text tower that this code can read: its metadata has simclr_jax="
            f"{found[0]!r} and kind={found[1]!r}, not {FORMAT_VERSION!r} and 'text'. Such a file "
            "is written by python -m simclr_jax export --tower=text --format=safetensors."
        )
    try:
        return from_tensors(_checked_settings(metadata.get("encoder", "")), tensors)
    except (ValueError, RuntimeError) as error:  # RuntimeError: of load_state_dict
        raise ValueError(f"{path} does not hold the tower that it describes: {error}") from error


def from_tensors(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "TextTransformer":
    """Returns a tower with the given weights, in eval mode.

    Args:
      settings: keyword arguments of `TextTransformer`.
      tensors: by path, such as "params/text/block0/qkv/kernel", in the layout of JAX.

    Raises:
      RuntimeError: if a tensor is missing, left over or of another shape.
    """
    kernel = tensors.get("params/text_projector/dense1/kernel")
    if kernel is None:
        raise RuntimeError("params/text_projector/dense1/kernel is missing.")
    with torch.device("meta"):  # allocates nothing: the weights are the given tensors
        tower = TextTransformer(output_dim=kernel.shape[1], **settings)
    state = {
        state_dict_name(path): x.T.contiguous() if path.endswith("/kernel") else x
        for path, x in tensors.items()
    }
    tower.load_state_dict(state, strict=True, assign=True)
    return tower.eval()


def state_dict_name(path: str) -> str:
    """Returns the name in the state dict of a variable with the given path.

    "params/text/block3/out/kernel" gives "blocks.3.out.weight". A path that is no variable of a
    tower gives a name that no tower has.
    """
    for pattern, name in _NAMES:
        path = re.sub(pattern, name, path)
    return path.replace("/", ".")


class TextTransformer(nn.Module):
    """A transformer that maps texts to one row each.

    Args:
      num_tokens: size of the vocabulary.
      context: most tokens of a text.
      width: width of the tokens.
      depth: blocks.
      num_heads: heads of the attention.
      causal: let a token see itself and those before it, or all of its text.
      pool: "end", the last token of each text, or "mean", the mean of its tokens.
      activation: "gelu" or "quick_gelu".
      output_dim: length of the rows.

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020.
    """

    def __init__(
        self,
        num_tokens: int,
        context: int,
        width: int,
        depth: int,
        num_heads: int,
        causal: bool,
        pool: str,
        activation: str,
        output_dim: int,
    ):
        super().__init__()
        if pool not in ("end", "mean") or activation not in ACTIVATIONS:
            raise ValueError(f"No such text tower: {pool=}, {activation=}.")
        if min(num_tokens, context, depth, num_heads) < 1 or width % num_heads:
            raise ValueError(f"No such text tower: {width=}, {depth=}, {num_heads=}.")
        self.causal, self.pool, self.output_dim = causal, pool, output_dim
        self.embed = nn.Embedding(num_tokens, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, activation) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.projector = nn.Linear(width, output_dim, bias=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Returns the rows [n, output_dim] of texts.

        Args:
          tokens: numbers [n, t] in [0, num_tokens), with padding after a text's end; t is at most
            the context.
          lengths: tokens of each text [n], with those for its start and end.
        """
        t = tokens.shape[1]
        places = torch.arange(t, device=tokens.device)
        valid = places[None] < lengths[:, None]
        # Neither an end nor a mean takes padding in: it is hidden only where all tokens are seen.
        seen = places[None] <= places[:, None] if self.causal else valid[:, None, None]
        x = self.embed(tokens) + self.positions[:t]
        for block in self.blocks:
            x = block(x, seen)
        x = self.norm(x)
        if self.pool == "end":
            last = (lengths.long() - 1)[:, None, None].expand(-1, 1, x.shape[2])
            return self.projector(x.gather(1, last)[:, 0])
        x = x.masked_fill(~valid[..., None], 0.0).sum(dim=1) / lengths[:, None]
        return self.projector(x)


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input."""

    def __init__(self, width: int, num_heads: int, activation: str):
        super().__init__()
        self.num_heads, self.activation = num_heads, ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Returns the tokens with both branches added; `seen` says what each attends to."""
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # [n, heads, t, width]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


def _checked_settings(text: str) -> dict[str, Any]:
    settings = json.loads(text)
    if not isinstance(settings, dict) or settings.keys() != SETTINGS.keys():
        raise ValueError(f"its settings must be {', '.join(SETTINGS)}; it has {text}.")
    for name, kind in SETTINGS.items():
        if not isinstance(settings[name], kind) or isinstance(settings[name], bool) != (
            kind is bool
        ):
            raise ValueError(f"its setting {name} has the value {settings[name]!r}.")
    return settings
