"""Both towers as a directory that OpenCLIP loads: its names, its config and the tokenizer.

Cherti et al. 2022, https://arxiv.org/abs/2212.07143; https://github.com/mlfoundations/open_clip.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.core.optional import import_optional
from simclr_jax.data.text import FILE as TOKENIZER_FILE
from simclr_jax.interop.encoder import Encode
from simclr_jax.interop.text_tower import TrainedTowers
from simclr_jax.models.text import TextTransformer
from simclr_jax.models.transformer import EPSILON
from simclr_jax.models.vit import SIZES, ViT, resize_positions, sincos_positions

# Names that OpenCLIP looks for in a directory.
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
README_FILE = "README.md"
ELSE = "Take each tower, --tower=image and --tower=text, as safetensors, stablehlo or onnx."
README = """# Two towers for OpenCLIP

```python
import open_clip
import torch
from tokenizers import Tokenizer

model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")  # this directory
tokenizer = Tokenizer.from_file("tokenizer.json")


def tokenize(texts):
    rows = torch.zeros(len(texts), {context}, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: {context} - 2]
        row[: len(ids) + 2] = torch.tensor([{start_token}, *ids, {end_token}])
    return rows


images = model.encode_image(preprocess(image)[None], normalize=True)
texts = model.encode_text(tokenize(["a caption"]), normalize=True)
```

Logits are scale * cosine + bias, with scale {scale:.6g} and bias {bias:.6g}. `preprocess` neither
subtracts a mean nor divides by a deviation: pixels are in [0, 1]. `open_clip.get_tokenizer` has
OpenAI's vocabulary, which is that of tokenizer.json only if the run was trained with it.
"""


def write(towers: TrainedTowers, path: Path) -> str:
    """Writes the directory; returns how to use it.

    Raises:
      UserError: naming a setting that OpenCLIP's networks lack.
    """
    config = {
        "model_cfg": model_config(towers),
        "preprocess_cfg": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    }
    path.mkdir()
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (path / TOKENIZER_FILE).write_text(towers.text.tokenizer.json)
    (path / README_FILE).write_text(README.format(**towers.facts()))
    state = {name: np.ascontiguousarray(x, np.float32) for name, x in state_dict(towers).items()}
    weights, metadata = str(path / WEIGHTS_FILE), {"format": "pt"}
    import_optional("safetensors.numpy").save_file(state, weights, metadata)
    return (
        "open_clip.create_model_from_pretrained('local-dir:DIRECTORY') gives the model and what "
        f"makes its images; {README_FILE} in it shows how texts become tokens."
    )


def read(path: Path) -> Encode:
    """Returns what OpenCLIP's model computes with the directory: unit rows, images first."""
    torch, open_clip = import_optional("torch"), import_optional("open_clip")
    level = logging.getLogger().level
    try:
        logging.getLogger().setLevel(logging.WARNING)  # it tells each step to the root logger
        model = open_clip.create_model(f"local-dir:{path}", require_pretrained=True).eval()
    finally:
        logging.getLogger().setLevel(level)

    def encode(images: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        del lengths  # it looks for the end token
        with torch.inference_mode():
            pixels = torch.tensor(images.transpose(0, 3, 1, 2))
            of_images = model.encode_image(pixels, normalize=True)
            of_texts = model.encode_text(torch.tensor(tokens).long(), normalize=True)
            return torch.cat([of_images, of_texts]).numpy()

    return encode


def model_config(towers: TrainedTowers) -> dict[str, Any]:
    """Returns the model_cfg of OpenCLIP.

    Raises:
      UserError: naming a setting that OpenCLIP's networks lack.
    """
    image, text = _supported(towers)
    width, depth, num_heads = SIZES[image.size]
    epsilon = {"eps": EPSILON}
    config = {
        "embed_dim": towers.text.projection.shape[1],
        "vision_cfg": {
            "image_size": towers.image.image_size,
            "patch_size": image.patch,
            "width": width,
            "layers": depth,
            "head_width": width // (image.num_heads or num_heads),
            "no_ln_pre": not image.pre_norm,
            "norm_kwargs": epsilon,
        },
        "text_cfg": {
            "context_length": text.context,
            "vocab_size": text.num_tokens,
            "width": text.width,
            "heads": text.num_heads,
            "layers": text.depth,
            "pool_type": "eos",
            "eos_id": towers.text.tokenizer.end,
            "norm_kwargs": epsilon,
        },
    }
    return config if towers.bias is None else {**config, "init_logit_bias": towers.bias}


def state_dict(towers: TrainedTowers) -> dict[str, np.ndarray]:
    """Returns the weights under OpenCLIP's names and in its layout.

    Positions are for images of the size that the tower was trained on. A bias of the patches, which
    OpenCLIP's networks lack, is added to their positions.
    """
    image, text = _supported(towers)
    of_image, of_text = towers.image.params, towers.text.params
    projection = towers.image.projection
    assert projection is not None  # that of a tower
    side = towers.image.image_size // image.patch
    kernel = np.asarray(of_image["patches"]["kernel"])
    positions = np.asarray(_positions(image, of_image, side)).reshape(side * side, -1)
    if "bias" in of_image["patches"]:
        positions = positions + of_image["patches"]["bias"]
    patches = kernel.reshape(image.patch, image.patch, 3, -1)
    state = {
        "visual.class_embedding": of_image["class_token"],
        "visual.conv1.weight": patches.transpose(3, 2, 0, 1),
        # The first is of the class token, which has no position here.
        "visual.positional_embedding": np.pad(positions, ((1, 0), (0, 0))),
        **_layer_norm("visual.ln_post", of_image["norm"]),
        "visual.proj": projection,
        "token_embedding.weight": of_text["embed"]["embedding"],
        "positional_embedding": of_text["positions"],
        **_layer_norm("ln_final", of_text["norm"]),
        "text_projection": towers.text.projection,
        "logit_scale": np.log(towers.scale),
    }
    if image.pre_norm:
        state |= _layer_norm("visual.ln_pre", of_image["norm_pre"])
    if towers.bias is not None:
        state["logit_bias"] = np.asarray(towers.bias)
    for i in range(SIZES[image.size].depth):
        state |= _block(f"visual.transformer.resblocks.{i}", of_image[f"block{i}"])
    for i in range(text.depth):
        state |= _block(f"transformer.resblocks.{i}", of_text[f"block{i}"])
    return state


def _supported(towers: TrainedTowers) -> tuple[ViT, TextTransformer]:
    image, text = towers.image.network, towers.text.network
    if not isinstance(image, ViT):
        raise UserError(
            "--format=open_clip is for image towers that are ViTs, config.encoder.name='vit': "
            f"OpenCLIP's ResNets are other networks than this {type(image).__name__}. {ELSE}"
        )
    for setting, value, known in (
        ("config.encoder.pool", image.pool, "token"),
        ("config.heads.text.causal", text.causal, True),
        ("config.heads.text.pool", text.pool, "end"),
        # One setting for both towers there, and a ViT has no other here.
        ("config.heads.text.activation", text.activation, "gelu"),
    ):
        if value != known:
            raise UserError(
                f"--format=open_clip: {setting}={value!r}, and its networks have {known!r} alone. "
                f"{ELSE}"
            )
    return image, text


def _positions(image: ViT, params: Mapping[str, Any], side: int) -> jax.Array:
    if image.learned_positions is None:
        return sincos_positions((side, side), image.width)
    return resize_positions(jnp.asarray(params["positions"]), (side, side))


def _layer_norm(name: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {f"{name}.weight": params["scale"], f"{name}.bias": params["bias"]}


def _block(name: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    qkv = params["qkv"]
    state = {
        **_layer_norm(f"{name}.ln_1", params["norm1"]),
        **_layer_norm(f"{name}.ln_2", params["norm2"]),
        f"{name}.attn.in_proj_weight": qkv["kernel"].T,
        f"{name}.attn.in_proj_bias": qkv["bias"],
    }
    for theirs, ours in (("attn.out_proj", "out"), ("mlp.c_fc", "fc1"), ("mlp.c_proj", "fc2")):
        state[f"{name}.{theirs}.weight"] = params[ours]["kernel"].T
        state[f"{name}.{theirs}.bias"] = params[ours]["bias"]
    return state
