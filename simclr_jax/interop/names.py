"""Our variable paths <-> the variable names of the official SimCLR checkpoints.

The official names number convolutions and BatchNorms in the order in which the TF graph
created them, over the whole encoder: "base_model/conv2d_7/kernel". That order follows from
the architecture alone, so a table needs no checkpoint. TF1 and TF2 count alike; only the
scopes around the number differ, and `tf1_name` removes that difference. `recognition`
finds the architecture of a checkpoint and pairs its names with ours.

Source: google-research/simclr at 383d414, resnet.py, model_util.py and tf2/.
"""

import re
from collections.abc import Iterator

from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import BOTTLENECK_DEPTHS, STAGE_SIZES, ResNet

# Our collection and leaf name of each official leaf name, in creation order.
_NORM_LEAVES = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}

_ENCODER_NAME = re.compile(
    r"(?:base_model|resnet)/(?:.*/)?"
    r"(?:(?P<conv>conv2d(?:_\d+)?/kernel)"
    r"|(?:sync_)?(?P<norm>batch_normalization(?:_\d+)?/(?:gamma|beta|moving_mean|moving_variance)))"
)
_PROJECTOR_NAME = re.compile(
    r"(?:head_contrastive|projection_head)/(?P<layer>nl_\d+)/"
    r"(?:dense(?:_\d+)?/(?P<kernel>kernel)"
    r"|(?:.*/)?(?:sync_)?batch_normalization(?:_\d+)?/"
    r"(?P<norm>gamma|beta|moving_mean|moving_variance))"
)
_CLASSIFIER_NAME = re.compile(
    r"(?:head_supervised|supervised_head)/(?:linear_layer/)?dense(?:_\d+)?/(?P<leaf>kernel|bias)"
)
_CLASSIFIER_SCOPE = "head_supervised/linear_layer/dense"
_EMA_NAME = re.compile(r"ema_model/(?P<name>.+)")
# What a checkpoint may hold beside the network; the first pattern that matches names the kind.
_LEFTOVERS = {
    "optimizer": re.compile(
        r".*/(?:Momentum|Adam(?:_1)?)|beta[12]_power|.*/\.OPTIMIZER_SLOT/.*|optimizer/.*"
    ),
    "ema_model": _EMA_NAME,
    "memory": re.compile(r".*memory.*"),
    "counter": re.compile(r"global_step|save_counter"),
}


def official_names(
    encoder: ResNet, projector: MLP | None = None, *, classifier: bool = False
) -> dict[str, str]:
    """Returns the TF1 name of every variable of an `SSLModel`, in creation order.

    Keys are paths such as "params/encoder/stage1/block0/conv1/kernel", values names such as
    "base_model/conv2d_2/kernel". Kernels have the same layout on both sides: height, width,
    input, output for convolutions; input, output for dense layers.

    Args:
      encoder: only its depth, `sk_ratio` and stem matter; unbound.
      projector: only its number of layers matters; None leaves the head out, as in the
        checkpoints of SimCLR v1.
      classifier: whether there is one.
    """
    names = {}
    num_convs = num_norms = 0
    for module in _encoder_modules(encoder):
        path = f"encoder/{module}"
        if "norm" in module.rpartition("/")[2]:
            names |= _norm_names(path, f"base_model/{_numbered('batch_normalization', num_norms)}")
            num_norms += 1
        else:
            conv = _numbered("conv2d", num_convs)
            names[f"params/{path}/kernel"] = f"base_model/{conv}/kernel"
            num_convs += 1
    num_layers = projector.num_layers if projector is not None else 0
    for i in range(num_layers):
        scope = f"head_contrastive/nl_{i}"
        names[f"params/projector/dense{i + 1}/kernel"] = f"{scope}/dense/kernel"
        norm = _norm_names(f"projector/norm{i + 1}", f"{scope}/batch_normalization")
        if i == num_layers - 1:  # the last BatchNorm does not shift
            del norm[f"params/projector/norm{i + 1}/bias"]
        names |= norm
    if classifier:
        for leaf in ("kernel", "bias"):
            names[f"params/classifier/{leaf}"] = f"{_CLASSIFIER_SCOPE}/{leaf}"
    return names


def tf1_name(name: str) -> str | None:
    """Returns the TF1 name of a variable with the given TF1 or TF2 name.

    Whatever is not a variable of encoder, projector or classifier gives None: see
    `leftover_kind`.

    Args:
      name: the variable's own name, such as "base_model/conv2d_5/kernel" or
        "resnet/block_group1/bottleneck_block/conv2d_fixed_padding_5/conv2d_5/kernel:0". The
        object-graph keys of a TF2 checkpoint are not numbered and do not serve.
    """
    name = name.removesuffix(":0")
    if match := _ENCODER_NAME.fullmatch(name):
        return f"base_model/{match['conv'] or match['norm']}"
    if match := _PROJECTOR_NAME.fullmatch(name):
        leaf = f"batch_normalization/{match['norm']}" if match["norm"] else "dense/kernel"
        return f"head_contrastive/{match['layer']}/{leaf}"
    if match := _CLASSIFIER_NAME.fullmatch(name):
        return f"{_CLASSIFIER_SCOPE}/{match['leaf']}"
    return None


def tf1_name_of_ema(name: str) -> str | None:
    """Returns the TF1 name of the variable whose moving average has the given name.

    The released SimCLRv2 checkpoints keep such copies under ema_model/. Both spellings are
    read, with and without the scope: "ema_model/base_model/conv2d/kernel" and
    "ema_model/conv2d/kernel". None if the name is not that of a copy.
    """
    match = _EMA_NAME.fullmatch(name)
    return match and (tf1_name(match["name"]) or tf1_name(f"base_model/{match['name']}"))


def leftover_kind(name: str) -> str | None:
    """Returns what a variable that is none of the network's is for, or None if unknown.

    Training leaves "optimizer" slots (".../Momentum") and each "counter" behind; the released
    SimCLRv2 checkpoints hold "ema_model" copies and the "memory" of negatives as well.
    """
    return next((kind for kind, known in _LEFTOVERS.items() if known.fullmatch(name)), None)


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _norm_names(path: str, scope: str) -> dict[str, str]:
    return {
        f"{collection}/{path}/{leaf}": f"{scope}/{theirs}"
        for theirs, (collection, leaf) in _NORM_LEAVES.items()
    }


def _encoder_modules(encoder: ResNet) -> Iterator[str]:
    """Yields convolutions and norms in the order in which the official graph creates them.

    That is the order of computation, but a projection shortcut comes before its branch.
    """
    resnet_d = encoder.sk_ratio > 0
    stem = ("1", "2", "3") if resnet_d and encoder.stem == "imagenet" else ("",)
    for suffix in stem:
        yield from (f"stem_conv{suffix}", f"stem_norm{suffix}")
    bottleneck = encoder.depth in BOTTLENECK_DEPTHS
    plain = [name for i in (1, 2, 3) for name in (f"conv{i}", f"norm{i}")]
    if bottleneck and resnet_d:
        selective = ("conv", "norm", "squeeze_conv", "squeeze_norm", "select_conv")
        branch = [*plain[:2], *(f"sk/{name}" for name in selective), *plain[4:]]
    else:
        branch = plain if bottleneck else plain[:4]
    for i, num_blocks in enumerate(STAGE_SIZES[encoder.depth], start=1):
        for j in range(num_blocks):
            shortcut = ("shortcut_conv", "shortcut_norm") if j == 0 else ()
            yield from (f"stage{i}/block{j}/{name}" for name in (*shortcut, *branch))
