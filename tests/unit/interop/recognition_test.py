"""Recognition of networks from names and shapes, against graphs built as the official code does."""

import collections
import functools
import gzip
from pathlib import Path

import pytest

from simclr_jax.interop import recognition
from simclr_jax.interop.recognition import recognise

NAMES = Path(__file__).parents[2] / "golden" / "official_names.txt.gz"
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BLOCKS |= {152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
# What the official code reports, moving statistics included: SimCLRv2, README, and the three
# widths of SimCLR, which have no projector in their checkpoints.
PUBLISHED = {
    (50, 1, False): 23_561_152,
    (50, 1, True): 35_277_408,
    (50, 2, False): 94_013_312,
    (50, 2, True): 140_428_864,
    (101, 1, False): 42_605_504,
    (101, 1, True): 64_786_144,
    (101, 2, False): 169_981_824,
    (101, 2, True): 257_377_984,
    (152, 1, False): 58_295_232,
    (152, 1, True): 89_119_584,
    (152, 2, False): 232_556_416,
    (152, 2, True): 353_752_896,
    (152, 3, True): 795_235_360,
}
PUBLISHED_V1 = {1: 23_561_152, 2: 94_013_312, 4: 375_590_656}


_init = functools.cache(recognition._init)


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """Networks that several tests recognise are traced for the first one."""

    def copied(*args, **settings):
        representation, shapes = _init(*args, **settings)
        return representation, dict(shapes)  # which the caller adds to

    monkeypatch.setattr(recognition, "_init", copied)


def official_graph(
    depth,
    width: float = 1,
    sk_ratio=0.0,
    *,
    stem="imagenet",
    num_layers=3,
    hidden_dim=None,
    out_dim=128,
    num_classes=None,
):
    """{TF1 name: shape}, created one after another as the official code builds its graph."""
    shapes, counts = {}, collections.Counter()

    def numbered(kind):
        counts[kind] += 1
        return f"base_model/{kind}_{counts[kind] - 1}" if counts[kind] > 1 else f"base_model/{kind}"

    def norm(channels, scope=None, leaves=("gamma", "beta", "moving_mean", "moving_variance")):
        scope = scope or numbered("batch_normalization")
        shapes.update({f"{scope}/{leaf}": (channels,) for leaf in leaves})

    def conv(size, inputs, outputs, normalise=True):
        shapes[f"{numbered('conv2d')}/kernel"] = (size, size, inputs, outputs)
        if normalise:
            norm(outputs)
        return outputs

    if stem == "imagenet" and sk_ratio:
        x = conv(3, 3, int(32 * width))
        x = conv(3, conv(3, x, int(32 * width)), int(64 * width))
    else:
        x = conv(7 if stem == "imagenet" else 3, 3, int(64 * width))
    for filters, blocks in zip((64, 128, 256, 512), BLOCKS[depth], strict=True):
        f = int(filters * width)
        outputs = f if depth < 50 else 4 * f
        for block in range(blocks):
            if block == 0:
                conv(1, x, outputs)
            if depth < 50:
                conv(3, x, f)
                x = conv(3, f, f)
            elif sk_ratio:
                mid = max(int(f * sk_ratio), 32)
                conv(1, x, f)
                conv(3, f, 2 * f)
                conv(1, f, mid)
                conv(1, mid, 2 * f, normalise=False)
                x = conv(1, f, outputs)
            else:
                conv(1, x, f)
                conv(3, f, f)
                x = conv(1, f, outputs)
    if num_classes:
        shapes["head_supervised/linear_layer/dense/kernel"] = (x, num_classes)
        shapes["head_supervised/linear_layer/dense/bias"] = (num_classes,)
    for j in range(num_layers):
        scope, last = f"head_contrastive/nl_{j}", j == num_layers - 1
        outputs = out_dim if last else hidden_dim or x
        shapes[f"{scope}/dense/kernel"] = (x, outputs)
        scale_only = [("gamma", "moving_mean", "moving_variance")] if last else []
        norm(outputs, f"{scope}/batch_normalization", *scale_only)
        x = outputs
    return shapes


def golden_list(network):
    lines = [line.split() for line in gzip.decompress(NAMES.read_bytes()).decode().splitlines()]
    return {n: tuple(map(int, s.split(","))) for net, n, s in (x for x in lines if x[0] == network)}


def settings(found):
    return found.encoder.depth, found.encoder.width, found.encoder.sk_ratio, found.encoder.stem


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("r18_cifar_tf1", {"depth": 18, "stem": "cifar"}),
        ("r50_tf1", {"depth": 50}),
        ("r50_sk_tf1", {"depth": 50, "sk_ratio": 0.0625}),
    ],
)
def test_the_graphs_of_this_test_are_the_official_ones(network, arguments):
    assert list(official_graph(**arguments).items()) == [
        item for item in golden_list(network).items() if "head_supervised" not in item[0]
    ]


def published(networks, fast):
    """All networks; the others than one are more of the same."""
    more = [pytest.mark.reference, pytest.mark.thorough]
    marks = {network: () if network == fast else more for network in networks}
    return [pytest.param(network, marks=marks[network]) for network in networks]


@pytest.mark.parametrize("network", published(PUBLISHED, fast=(50, 1, True)))
def test_every_published_network_of_simclr_v2_is_recognised(network):
    depth, width, sk = network
    shapes = official_graph(depth, width, 0.0625 if sk else 0.0, num_classes=1000)
    found = recognise(shapes)
    assert settings(found) == (depth, width, 0.0625 if sk else 0.0, "imagenet")
    assert found.projector is not None
    assert (found.projector.num_layers, found.projector.hidden_dim) == (3, None)
    assert found.num_classes == 1000
    assert sorted(found.names.values()) == sorted(shapes)
    assert found.encoder_size == PUBLISHED[network]
    assert not found.ignored


@pytest.mark.parametrize("width", published(PUBLISHED_V1, fast=4))
def test_every_published_network_of_simclr_v1_is_recognised(width):
    found = recognise(official_graph(50, width, num_layers=0, num_classes=1001))
    assert settings(found) == (50, width, 0.0, "imagenet")
    assert found.projector is None
    assert found.encoder_size == PUBLISHED_V1[width]


def test_no_two_networks_have_the_same_sequence_of_kernel_sizes():
    sizes = {tuple(recognition._kernel_sizes(encoder)) for encoder in recognition._candidates()}
    assert len(sizes) == 6 * 2 * 2 - 2


@pytest.mark.parametrize("width", [1 / 32, 0.125, 1 / 3, 1.5])
def test_widths_between_whole_numbers_give_the_same_channels_in_every_layer(width):
    found = recognise(official_graph(18, width, stem="cifar", num_layers=2, out_dim=64))
    assert found.encoder.width == pytest.approx(width, abs=1 / 512)
    assert found.encoder.stem == "cifar"
    assert found.projector is not None
    assert (found.projector.num_layers, found.projector.output_dim) == (2, 64)


@pytest.mark.parametrize(("width", "sk_ratio"), [(1 / 3, 57.5 / 170), (0.125, 1.0)])
def test_other_ratios_of_selective_kernels_are_read_off_the_squeezed_width(width, sk_ratio):
    found = recognise(official_graph(50, width, sk_ratio, num_layers=0))
    assert found.encoder.sk_ratio == pytest.approx(sk_ratio, abs=1 / 170)


def test_resnet_d_is_told_by_its_stem_where_blocks_have_no_selective_kernels():
    assert recognise(official_graph(34, 0.25, 0.0625)).encoder.sk_ratio == 0.0625
    assert recognise(official_graph(34, 0.25)).encoder.sk_ratio == 0


@pytest.mark.parametrize("offset", [0, 53])
def test_tf2_names_are_recognised_wherever_keras_began_to_count(offset):
    def shifted(name):
        for kind in ("sync_batch_normalization", "conv2d"):
            head, sep, tail = name.rpartition(f"/{kind}")
            if sep and name.startswith("resnet/"):
                number, _, leaf = tail.partition("/")
                return f"{head}{sep}_{int(number.strip('_') or 0) + offset}/{leaf}"
        return name

    shapes = golden_list("r50_sk_tf2")
    found = recognise({shifted(name) if offset else name: s for name, s in shapes.items()})
    assert settings(found) == (50, 1, 0.0625, "imagenet")
    first = found.names["params/encoder/stem_conv1/kernel"]
    assert first.endswith(f"/conv2d_{offset}/kernel" if offset else "/conv2d/kernel")
    assert found.num_classes == 1000


def small(**options):
    return official_graph(18, 0.125, stem="cifar", num_classes=10, **options)


LEFTOVERS = {
    "base_model/conv2d/kernel/Momentum": (3, 3, 3, 8),
    "head_contrastive/nl_0/dense/kernel/Momentum": (64, 64),
    "memory/buffer": (64, 16),
    "global_step": (),
}


def test_leftovers_of_training_are_ignored_and_counted():
    copies = {f"ema_model/{name}": shape for name, shape in small(num_layers=0).items()}
    found = recognise(small() | LEFTOVERS | copies)
    assert found.ignored == {"optimizer": 2, "memory": 1, "counter": 1, "ema_model": len(copies)}


@pytest.mark.parametrize("scope", ["ema_model/", "ema_model/base_model/"])
def test_ema_copies_of_the_encoder_replace_it_on_request(scope):
    shapes = small()
    copies = {
        name.replace("base_model/", scope): shape
        for name, shape in shapes.items()
        if name.startswith("base_model/")
    }
    found = recognise(shapes | copies | LEFTOVERS, ema=True)
    assert found.names["params/encoder/stem_conv/kernel"] == f"{scope}conv2d/kernel"
    assert found.names["params/projector/dense1/kernel"] == "head_contrastive/nl_0/dense/kernel"
    assert found.ignored == {"optimizer": 2, "memory": 1, "counter": 1, "replaced": len(copies)}


def test_ema_needs_copies_of_the_whole_encoder():
    with pytest.raises(ValueError, match="no ema_model/ copies"):
        recognise(small(), ema=True)
    with pytest.raises(ValueError, match=r"104 missing: .*base_model"):
        recognise(small() | {"ema_model/conv2d/kernel": (3, 3, 3, 8)}, ema=True)


def without(shapes, *parts):
    return {name: s for name, s in shapes.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"w": (3,), "dense/kernel": (2, 2)}, r"no encoder of SimCLR.*2 others: w, dense/kernel"),
        ({}, r"no encoder of SimCLR.*0 others"),
        (without(small(), "n_7/beta"), r"1 missing: base_model/batch_normalization_7/beta\. 0"),
        (without(small(), "2d/kernel"), "ResNet-18.*1 missing: base_model/conv2d/kernel"),
        (small() | {"base_model/conv2d_3/bias": (8,)}, "1 not in it: base_model/conv2d_3/bias"),
        (small() | {"resnet/a/conv2d_3/kernel": (8,)}, "1 not in it: resnet/a/conv2d_3/kernel"),
        (without(small(), "dense/bias"), "1 missing: head_supervised/linear_layer/dense/bias"),
        (without(small(), "nl_1"), r"nl_1/dense/kernel.* not in it: head_contrastive/nl_2"),
        # The last of three blocks: a ResNet-34 and not an 18, with a dozen variables missing.
        (
            without(official_graph(34), *(f"2d_{i}/" for i in (34, 35)), "n_34/", "n_35/"),
            r"ResNet-34.*10 missing",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_missing_and_extra_variables_are_listed(shapes, message):
    with pytest.raises(ValueError, match=message):
        recognise(shapes)


def test_a_long_list_ends_after_ten_names_but_counts_all():
    with pytest.raises(ValueError, match="missing") as error:
        recognise(without(small(), "moving_"))
    assert "48 missing" in str(error.value)
    assert str(error.value).count("/moving_") == 10


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("base_model/conv2d_9/kernel", (3, 3, 16, 17), r"is \[3, 3, 16, 17\].*be \[3, 3, 16, 16\]"),
        ("base_model/batch_normalization_2/beta", (), r"_2/beta is \[\] and should be \[8\]"),
        ("base_model/conv2d_18/kernel", (3, 3, 64, 128), "fit width=0.25.* of another shape"),
        ("base_model/conv2d_18/kernel", (), "width"),
        ("head_contrastive/nl_2/dense/kernel", (), "output_dim=0"),
        ("head_contrastive/nl_1/dense/kernel", (64, 32), "1 of another shape"),
        ("head_supervised/linear_layer/dense/kernel", (32, 10), r"should be \[64, 10\]"),
        ("head_supervised/linear_layer/dense/kernel", (64, 1), "num_classes=1"),
    ],
)
def test_variables_of_another_shape_are_listed(name, shape, message):
    with pytest.raises(ValueError, match=message):
        recognise(small() | {name: shape})


def test_the_classifier_may_start_from_the_first_projector_layer():
    shapes = small(hidden_dim=48) | {"head_supervised/linear_layer/dense/kernel": (48, 10)}
    found = recognise(shapes, select=1)
    assert found.projector is not None
    assert found.projector.hidden_dim == 48
    with pytest.raises(ValueError, match=r"\[48, 10\] and should be \[64, 10\]"):
        recognise(shapes, select=0)


@pytest.mark.parametrize(
    ("shapes", "lacking"),
    [(without(small(), "supervised"), "classifier"), (small(num_layers=0), "projector")],
)
def test_selecting_what_is_not_there_is_an_error(shapes, lacking):
    with pytest.raises(ValueError, match=f"no {lacking}, which --select=1 needs"):
        recognise(shapes, select=1)


def test_says_what_it_found_in_words():
    assert str(recognise(small())) == (
        "ResNet-18 (cifar stem), width 0.125; projector of 3 layers to 128; "
        "classifier of 10 classes"
    )
