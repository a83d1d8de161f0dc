"""Every recipe and every variant builds, on devices or not, and keeps its published numbers."""

import functools
from types import SimpleNamespace
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import bench_table, methods_table, plans_table, results_table
from simclr_jax.build import resolve
from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.online import online_evaluation
from simclr_jax.build.recipe import names
from simclr_jax.build.schema import complete, describe
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section, lookup
from simclr_jax.core.tree import not_matching, select
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Record
from simclr_jax.models.published import NETWORKS
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import ENCODERS
from simclr_jax.parallel.sharding import PRESETS
from simclr_jax.plan.dataset_spec import open_or_describe
from simclr_jax.train.metrics import MetricsWriter
from tests import helpers

recipe = functools.cache(helpers.recipe)


def variants(name):
    """Returns the variants of a recipe, with each of their options alone."""
    known = recipe(name).VARIANTS
    options = known if isinstance(known, dict) else {}
    return [",".join((v, *option)) for v in known for option in ((), *zip(options.get(v, ())))]


class Images:
    """As many labelled images as the real data set has, without having them."""

    class_names = tuple("0123456789")
    fingerprint = "none"

    def __init__(self, name, size):
        self.name, self._size = name, size

    @property
    def labels(self):
        return np.arange(self._size) % 10

    def __len__(self):
        return self._size

    def __getitem__(self, index, /):
        return Record(np.zeros((300, 400, 3), np.uint8), index % 10, str(index))


SIZES = {
    "digits": 4000,
    "folder": 900,
    "tfds/cifar10": 50_000,
    "tfds/imagenet2012": 1_281_167,
    "tfds/imagenet2012_subset/1pct": 12_811,
    "tfds/imagenet2012_subset/10pct": 128_116,
}
DOWNSTREAM = ("linear_probe", "finetune", "supervised", "distill")
PRETRAINING = [
    ("simclr_digits", ""),
    ("simclr_digits", "smoke"),
    ("simclr_digits", "vit"),
    *(("simclr_cifar10", variant) for variant in ("r18", "r50", "small")),
    ("simclr_folder", ""),
    ("simclr_folder", "laptop"),
    *(("simclr_imagenet", variant) for variant in (*NETWORKS, "smoke")),
]
# Of other methods: batch size and largest rate of each variant but the small ones.
FAMILY = {
    "barlow_twins": {"r50": (2048, 1.6)},
    "byol": {"r50": (4096, 3.2)},
    "colorization": {"r50": (256, 0.1), "cifar10": (128, 2e-3)},
    "cpc": {"r50": (512, 2e-4)},
    "dcl": {"r50": (256, 1.2), "dclw": (256, 1.2)},
    "deepcluster_v2": {"r50": (4096, 4.8)},
    "dino": {"vit_s": (512, 1e-3), "r50": (4096, 0.48)},
    "hard_negatives": {"cifar10": (256, 1e-3), "debiased": (256, 1e-3)},
    "hybrid": {"r50": (4096, 6.4)},
    "instdisc": {"r50": (256, 0.03), "nce": (256, 0.03), "cifar10": (128, 0.03)},
    "jigsaw": {"r50": (256, 0.1)},
    "mae": {"vit_b": (4096, 2.4e-3), "vit_l": (4096, 2.4e-3)},
    "margin": {"cifar10": (256, 1e-3)},
    "mochi": {"r50": (256, 0.03)},
    "moco_v2": {"r50": (256, 0.03), "v1": (256, 0.03)},
    "moco_v3": {"r50": (4096, 4.8), "r50_100": (4096, 9.6), "vit_s": (4096, 2.4e-3)},
    "nnclr": {"r50": (4096, 4.8)},
    "rotation": {"r50": (256, 0.1), "cifar10": (128, 0.1)},
    "simsiam": {"r50": (512, 0.1)},
    "supcon": {"cifar10": (1024, 0.5), "r50": (6144, 7.2)},
    "swav": {"r50": (4096, 4.8), "r50_256": (256, 0.6)},
    "triplet": {"cifar10": (256, 1e-3)},
    "vicreg": {"r50": (2048, 1.6)},
}
FINETUNED = {
    "encoder": {"name": "resnet", "depth": 18, "width": 0.25},
    "heads": {
        "classifier": {"num_classes": 10},
        "projector": {"num_layers": 2, "output_dim": 8},
        "select": 0,
    },
    "data": {"class_names": tuple("0123456789"), "canvas": 96},
    "augment": {"size": 64},
}


def build(name, variant):
    """Builds a variant on four devices, over which the smallest batch, 20, can be split."""
    config = recipe(name).get_config(variant)
    if "warm_start" in config:
        config.warm_start.checkpoint = "pretrained"  # not read before the run starts
    if config.method.name == "distill":
        config.method.teacher = "finetuned"
    opened = lambda self, split: Images(self.name, SIZES[self.name])
    with (
        mock.patch.object(Dataset, "open", opened),
        mock.patch.object(resolve, "load_config", return_value=FINETUNED),
    ):
        return build_experiment(config.to_dict(), jax.devices()[:4])


built = functools.cache(build)


def assert_complete(experiment):
    assert experiment.num_steps > 1
    assert experiment.config["parallel"]["preset"] in PRESETS
    assert "encoder" in experiment.abstract_state.params
    online = online_evaluation(experiment, MetricsWriter("unused"))
    assert len(online) == sum(value is not None for value in experiment.config["evals"].values())


# Networks of ImageNet that are traced, for seconds each; `resnet_test.py` traces all of them.
WHOLE = ("v1_r50_1x", "v2_r50_1x", "v2_r50_1x_sk", "v2_r152_3x_sk")


@pytest.mark.parametrize(
    ("name", "variant"), [row for row in PRETRAINING if row[1] not in {*NETWORKS} - {*WHOLE}]
)
def test_builds_under_eval_shape(name, variant):
    assert_complete(built(name, variant))


@pytest.mark.parametrize("name", names())
def test_a_recipe_leaves_out_what_is_at_its_default(name):
    """Which network it is, and what was published of methods and optimizers, is said anyway."""
    stated = {}
    for variant in variants(name):
        config = recipe(name).get_config(variant).to_dict()
        defaults = {key.path: key.default for key in describe(complete(config))}
        for section, values in config.items():
            for key, value in values.items():
                path = f"{section}.{key}"
                differs = path not in defaults or value != defaults[path]
                stated[path] = stated.get(path, False) or differs
    plumbing = ("run", "data", "encoder", "heads", "parallel", "warm_start")
    network = ("encoder.size", "encoder.patch")
    needless = [path for path, differs in stated.items() if not differs and path not in network]
    assert [path for path in needless if path.startswith(plumbing)] == []


class Light(nn.Module):
    """Stands for an encoder that the test above has traced."""

    norm: str = "batch"

    def __call__(self, images, *, train):
        return self.maps(images, train=train)[:, 0, 0]

    @nn.compact
    def maps(self, images, *, train):
        features = jnp.tile(images.mean(axis=(1, 2), keepdims=True), 4)  # four devices
        if self.norm == "layer":
            return nn.LayerNorm()(features)
        return nn.BatchNorm(use_running_average=not train)(features)


@pytest.fixture
def light_encoders(monkeypatch):
    def light(
        depth,
        width=1,
        sk_ratio=0.0,
        stem="imagenet",
        dtype="float32",
        geometry="official",
        remat="none",
        norm="batch",
    ):
        ResNet(depth, width, sk_ratio, stem, dtype, geometry, remat, norm=norm)  # checks them
        return Light(norm)

    monkeypatch.setitem(ENCODERS, "resnet", light)


@pytest.mark.parametrize("name", ["simclr_imagenet", *DOWNSTREAM])
def test_every_variant_builds_under_eval_shape(name, light_encoders):
    """Of those that differ in the encoder alone, one is built."""
    published = recipe(name).PUBLISHED if name in DOWNSTREAM else ()
    seen = set()
    for variant in sorted({*variants(name), *published}):
        config = recipe(name).get_config(variant).to_dict()
        encoder = config.pop("encoder")
        if encoder["name"] is not None:  # that of the checkpoint
            fn, settings = lookup("config.encoder", ENCODERS, encoder)
            build_section("config.encoder", fn, settings)
        if repr(config) not in seen:
            assert_complete(build(name, variant))
        seen.add(repr(config))


@pytest.mark.parametrize("name", sorted({name for name, _ in PRETRAINING} | {*DOWNSTREAM}))
def test_an_unknown_variant_is_told_what_there_is(name):
    with pytest.raises(ValueError, match=r"Unknown variant 'r5'; this recipe knows "):
        recipe(name).get_config("r5")


@pytest.mark.parametrize(
    ("name", "variant", "steps", "peak"),
    [
        ("simclr_cifar10", "r18", 97657, 2.0),
        ("simclr_imagenet", "v1_r50_1x", 312785, 4.8),
        ("simclr_imagenet", "v2_r50_1x", 250228, 6.4),
    ],
)
def test_published_recipes_have_the_official_length_and_rate(name, variant, steps, peak):
    assert_length_and_rate(built(name, variant), steps, peak)


@pytest.mark.parametrize(("name", "variant"), PRETRAINING)
def test_recipes_with_official_rates_take_the_official_gradient(name, variant):
    """And these are those with LARS."""
    config = complete(recipe(name).get_config(variant).to_dict())
    official = config["optim"]["name"] == "lars"
    assert config["method"]["gradient_scale"] == (2.0 if official else 1.0)


@pytest.mark.parametrize(
    ("name", "variant", "steps", "peak"),
    [
        ("linear_probe", "v1_r50_1x", 28151, 1.6),
        ("linear_probe", "v2_r152_3x_sk", 28151, 1.6),
        ("finetune", "v1_r50_4x,fraction=0.01", 12811 * 60 // 4096 + 1, 0.8),
        ("finetune", "v1_r50_4x,fraction=0.1", 128116 * 30 // 4096 + 1, 0.8),
        ("finetune", "v2_r50_1x,fraction=0.01", 751, 0.16),
        ("finetune", "v2_r152_1x,fraction=0.1", 128116 * 30 // 1024 + 1, 0.16),
        ("finetune", "v2_r50_1x_sk,fraction=0.01", 751, 0.064),
        ("finetune", "v2_r101_2x", 1281167 * 30 // 1024 + 1, 0.064),
        ("supervised", "v2_r50_1x", 28151, 1.6),
        ("distill", "v2_r50_1x,fraction=0.1", 1281167 * 400 // 4096 + 1, 6.4),
    ],
)
def test_what_follows_pretraining_has_too(light_encoders, name, variant, steps, peak):
    assert_length_and_rate(build(name, variant), steps, peak)


@pytest.mark.parametrize(("name", "published"), FAMILY.items())
def test_recipes_of_other_methods_build_with_the_published_batch_and_rate(
    light_encoders, name, published
):
    for variant, (batch_size, peak) in published.items():
        experiment = build(name, variant)
        assert_complete(experiment)
        assert experiment.config["method"]["name"] == name
        assert experiment.dataset.batch_size == batch_size
        np.testing.assert_allclose(largest_rate(experiment), peak, rtol=1e-3)


@pytest.mark.parametrize(
    "name",
    sorted(
        set(methods_table.TABLES["cifar10"].names) & set(FAMILY) - {*methods_table.OTHER_CIFAR10}
    ),
)
def test_recipes_for_cifar10_take_twelve_epochs_and_the_same_encoder(light_encoders, name):
    experiment = build(name, "cifar10_small")
    assert_complete(experiment)
    assert experiment.num_steps == round(12 * 50_000 / 128)
    assert experiment.config["method"]["name"] == name
    assert experiment.config["encoder"] == build("simclr_cifar10", "small").config["encoder"]


def test_barlow_twins_slows_down_every_bias_and_scale(light_encoders):
    """In the released code those are the parameters of one dimension; here a whole network's."""
    init = functools.partial(ResNet(50).init, train=True)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    ((pattern, factor),) = recipe("barlow_twins").get_config("r50").optim.rates
    assert factor == pytest.approx(0.0048 / 0.2)
    slow = not_matching(pattern)({"encoder": params})
    jax.tree.map(
        lambda x, fast: np.testing.assert_equal(fast, x.ndim > 1), {"encoder": params}, slow
    )


def largest_rate(experiment):
    """Returns the largest of the rates of about 2000 steps of a run."""
    steps = np.arange(0, experiment.num_steps, max(1, experiment.num_steps // 2000))
    return jax.vmap(experiment.schedule)(steps).max()


def assert_length_and_rate(experiment, steps, peak):
    assert experiment.num_steps == steps
    np.testing.assert_allclose(largest_rate(experiment), peak, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "variant", "pretrained"),
    [
        ("linear_probe", "v1_r50_1x", ("simclr_imagenet", "v1_r50_1x")),
        ("finetune", "v2_r50_1x_sk,fraction=0.1", ("simclr_imagenet", "v2_r50_1x_sk")),
        ("finetune", "cifar10,fraction=0.01", ("simclr_cifar10", "small")),
        ("finetune", "digits,fraction=0.01", ("simclr_digits", "")),
    ],
)
def test_a_warm_start_fits_what_the_pretraining_recipe_makes(name, variant, pretrained):
    (start,) = built(name, variant).warm_starts
    target = built(name, variant).abstract_state
    source = built(*pretrained).abstract_state
    assert start.trees is not None
    for path, path_there in start.trees.items():
        want, got = select(vars(target), path), select(vars(source), path_there)
        assert jax.tree.map(np.shape, want) == jax.tree.map(np.shape, got)
    # What is trained along and does not come from the checkpoint is the classifier.
    assert {path.split("/")[1] for path in start.trees} == {*target.params} - {"classifier"}


@pytest.mark.parametrize(
    ("variant", "select"),
    [
        ("v2_r50_1x,fraction=0.01", 1),
        ("v2_r50_1x,fraction=0.01,select=0", 0),
        ("v2_r50_1x,fraction=1", 0),
        ("v2_r50_1x,fraction=1,select=1", 1),
        ("v1_r50_1x,fraction=0.1", 0),
        ("cifar10,select=1", 1),
    ],
)
def test_a_classifier_is_where_the_variant_puts_it(variant, select):
    config = recipe("finetune").get_config(variant)
    assert config.heads.select == select
    taken_over = {tree for tree in config.warm_start.trees if "projector" in tree}
    assert len(taken_over) == 3 * select


@pytest.mark.parametrize("name", ["finetune", "linear_probe"])
def test_own_images_are_trained_on_with_the_network_and_the_sizes_of_the_checkpoint(name):
    config = build(name, "folder").config
    assert config["encoder"].items() >= FINETUNED["encoder"].items()
    assert (config["augment"]["size"], config["data"]["canvas"]) == (64, 96)
    with pytest.raises(UserError, match="checkpoint=runs/pretrained"):
        resolve.take_over_network(complete(recipe(name).get_config("folder").to_dict()))


def test_own_images_are_distilled_at_the_sizes_of_the_teacher():
    config = build("distill", "folder,laptop").config
    assert (config["augment"]["size"], config["data"]["canvas"]) == (64, 96)
    assert config["encoder"]["width"] == 0.25


def test_a_distilled_student_sees_the_labels_of_its_teacher_at_most(light_encoders):
    source = build("distill", "digits,fraction=0.01").source
    assert len(source) == 4000
    assert sum(source[i].label >= 0 for i in range(4000)) == 40


def test_every_published_number_belongs_to_one_variant():
    """That the variants build is tested above."""
    numbers = {name: [] for name in NETWORKS}
    for name in DOWNSTREAM:
        for variant, top1 in recipe(name).PUBLISHED.items():
            numbers[variant.partition(",")[0]].append(top1)
    for name, network in NETWORKS.items():
        supervised = () if network.supervised is None else (network.supervised,)
        want = (network.linear, *network.finetuned, *supervised, *network.distilled)
        assert sorted(numbers[name]) == sorted(want)


def test_the_table_of_results_is_what_the_script_prints():
    assert between_marks(results_table) == results_table.section(), "run it with --write"


def test_the_table_of_plans_is_what_the_script_prints():
    assert between_marks(plans_table) == plans_table.section(plans_table._load())


def test_the_tables_of_methods_are_what_the_script_prints():
    page = methods_table.PAGE.read_text()
    for name, text in methods_table.sections().items():
        assert f"<!-- {name} -->\n{text}<!-- /{name} -->\n" in page, "run it with --write"


def test_the_table_of_times_is_what_the_script_prints():
    assert between_marks(bench_table) == bench_table.section(bench_table.kept())


def test_times_stand_with_the_place_and_the_day_that_they_are_of():
    side = {"median": 2.0, "low": 1.9, "high": 2.2, "quiet": 9, "samples": 9}
    row = {"what": bench_table.ROWS[0].what, "peer": "lightly", "ratio": 1.0, "bar": 1.2}
    place = {"date": "2026-01-02", "machine": "2 x CPU", "versions": {"jax": "1"}}
    kept = {row["what"]: {**place, "rows": [{**row, "ours": side, "theirs": side}]}}
    day, _, header, _, line, _, missing = bench_table.section(kept).splitlines()
    assert day == "2026-01-02, 2 x CPU; jax 1:"
    assert header.startswith("| what | ours | peer |")
    assert line.startswith(f"| {row['what']} | 2.00 s (1.90 to 2.20) | lightly |")
    assert missing.startswith("Not run: ")
    assert row["what"] not in missing


def between_marks(table):
    _, _, rest = table.PAGE.read_text().partition(table.START)
    written, end, _ = rest.partition(table.END)
    assert end
    return written


def test_the_table_shows_what_was_measured(monkeypatch):
    finetune = recipe("finetune")
    measured = {"v2_r50_1x,fraction=0.01": 57.5}
    recipes = lambda name: SimpleNamespace(
        VARIANTS=finetune.VARIANTS,
        PUBLISHED=finetune.PUBLISHED if name == "finetune" else {},
        MEASURED=measured if name == "finetune" else {},
    )
    monkeypatch.setattr(results_table, "recipe", recipes)
    row = next(r for r in results_table.section().splitlines() if r.startswith("| `v2_r50_1x` |"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells == ["-", "57.9 / 57.5", "68.4 / not run", "76.3 / not run", "-", "-", "-"]


def test_clip_has_the_published_size_batch_and_rate():
    config = recipe("clip").get_config("vit_b16").to_dict()
    source, _ = open_or_describe(config, 400_000_000)  # which nobody has
    experiment = build_experiment(config, jax.devices()[:4], train_source=source)
    # The released model has 149,620,737, with a position for the class token, which ours lacks.
    assert sum(x.size for x in jax.tree.leaves(experiment.abstract_state.params)) == 149_619_969
    assert experiment.abstract_batch["text"].shape == (32768, 77)
    np.testing.assert_allclose(largest_rate(experiment), 5e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("variant", "num_texts", "batch_size", "num_sentences", "steps", "rate"),
    [
        ("unsupervised", 1, 64, 1_000_000, 15_626, 3e-5),
        ("supervised", 3, 512, 275_601, 1_615, 5e-5),
    ],
)
def test_simcse_has_the_published_size_batch_length_and_rate(
    variant, num_texts, batch_size, num_sentences, steps, rate
):
    config = recipe("simcse").get_config(variant).to_dict()
    source, _ = open_or_describe(config, num_sentences)
    experiment = build_experiment(config, jax.devices()[:4], train_source=source)
    assert experiment.abstract_batch["text"].shape == (batch_size, num_texts, 32)
    assert_length_and_rate(experiment, steps, rate)
    # As in BERT-base; what is below and above its 12 blocks differs.
    blocks = {k: v for k, v in experiment.abstract_state.params["text"].items() if "block" in k}
    assert sum(x.size for x in jax.tree.leaves(blocks)) == 12 * 7_087_872


def test_sizes_that_are_left_open_come_from_the_images():
    experiment = built("simclr_folder", "")
    assert experiment.config["augment"]["size"] == 224
    assert (experiment.dataset.canvas, experiment.dataset.batch_size) == (400, 256)


def test_the_largest_network_has_the_published_size():
    encoder = built("simclr_imagenet", "v2_r152_3x_sk").abstract_state.params["encoder"]
    assert sum(leaf.size for leaf in jax.tree.leaves(encoder)) == 794_704_160
