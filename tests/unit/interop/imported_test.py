"""The workdir of imported weights: its config, its checkpoint, and what it never overwrites."""

import json

import jax
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section, lookup
from simclr_jax.interop.imported import require_free, resolve_size, write_workdir
from simclr_jax.interop.recognition import Imported, Recognised
from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import ENCODERS
from simclr_jax.models.vit import ViT
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.workdir import VERSION

SOURCE = {"format": "tf", "checkpoint": "there/model.ckpt", "ema": False}
VARIABLES = {
    "params": {"encoder": {"stem_conv": {"kernel": np.arange(6, dtype=np.float32)}}},
    "batch_stats": {"encoder": {"stem_norm": {"mean": np.ones(2, np.float32)}}},
}


def imported(encoder, projector=None, num_classes=None):
    network = Recognised(encoder, projector, num_classes, names={}, shapes={}, ignored={})
    return Imported(network, jax.tree.map(jax.numpy.asarray, VARIABLES), step=250228)


def write(workdir, contents, **options):
    options = {"source": SOURCE, "size_px": 224, "select": 0} | options
    write_workdir(str(workdir), contents, **options)
    return json.loads((workdir / "config.json").read_text())


def test_the_config_describes_network_and_images(tmp_path):
    encoder, projector = ResNet(50, width=2, sk_ratio=0.0625), MLP(hidden_dim=48)
    assert write(tmp_path / "run", imported(encoder, projector, 1000), select=1) == {
        "version": VERSION,
        "imported": SOURCE,
        "data": {
            "name": "tfds/imagenet2012",
            "split": "train",
            "test_split": "validation",
            "path": None,
            "batch_size": 256,
            "canvas": 8192,
        },
        "augment": {"name": "eval", "size": 224},
        "encoder": {
            "name": "resnet",
            "depth": 50,
            "width": 2,
            "sk_ratio": 0.0625,
            "stem": "imagenet",
            "geometry": "official",
            "dtype": "float32",
        },
        "heads": {
            "projector": {"num_layers": 3, "hidden_dim": 48, "output_dim": 128},
            "classifier": {"num_classes": 1000},
            "select": 1,
        },
    }


def test_a_checkpoint_without_heads_says_so(tmp_path):
    config = write(tmp_path / "run", imported(ResNet(18, stem="cifar")), size_px=32)
    assert config["heads"] == {"projector": None}
    assert (config["data"]["name"], config["data"]["canvas"]) == ("tfds/cifar10", 32)


def test_the_checkpoint_holds_step_and_variables_and_nothing_for_training(tmp_path):
    write(tmp_path / "new" / "run", imported(ResNet(18)))
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device)
    checkpoints = Checkpoints(tmp_path / "new" / "run")
    assert checkpoints.find() == 250228
    restored = checkpoints.restore_variables(250228, jax.tree.map(place, VARIABLES))
    jax.tree.map(np.testing.assert_array_equal, restored, VARIABLES)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]


def test_an_empty_directory_may_be_filled_and_no_other(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", imported(ResNet(18)))
    (tmp_path / "file").touch()
    for taken in ("empty", "file"):
        with pytest.raises(UserError, match=r"exists and is not empty; import into a new"):
            require_free(str(tmp_path / taken))
        with pytest.raises(UserError, match="not empty"):
            write(tmp_path / taken, imported(ResNet(18)))


def test_nothing_is_left_of_an_import_that_fails(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(CheckpointWriter, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "run", imported(ResNet(18)))
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to --workdir"):
        write(tmp_path / "file" / "run", imported(ResNet(18)))


def test_a_network_of_torchvision_keeps_geometry_and_normalisation(tmp_path):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    encoder = ResNet(50, geometry="torchvision", input_mean=mean, input_std=std)
    config = write(tmp_path / "run", imported(encoder))["encoder"]
    assert config["geometry"] == "torchvision"
    assert (config["input_mean"], config["input_std"]) == ([*mean], [*std])
    fn, settings = lookup("config.encoder", ENCODERS, config)
    assert build_section("config.encoder", fn, settings) == encoder.clone(dtype="float32")


def test_a_vit_is_described_in_full(tmp_path):
    encoder = ViT("b", num_heads=6, learned_positions=224)
    config = write(tmp_path / "run", imported(encoder, num_classes=10))
    assert config["data"]["name"] == "tfds/imagenet2012"
    assert config["encoder"] == {
        "name": "vit",
        "size": "b",
        "patch": 16,
        "num_heads": 6,
        "learned_positions": 224,
        "pool": "token",
        "pre_norm": False,
        "dtype": "float32",
    }


def test_views_are_as_large_as_in_training_unless_told_otherwise():
    resnet, vit = ResNet(50), ViT("s", patch=8, learned_positions=96)
    assert resolve_size(resnet, None) == 224
    assert resolve_size(ResNet(18, stem="cifar"), None) == 32
    assert resolve_size(resnet, 160) == 160
    assert resolve_size(vit, None) == 96
    assert resolve_size(vit, 224) == 224
    with pytest.raises(UserError, match=r"--size=16 does not fit a ResNet-50.*needs 17 px"):
        resolve_size(resnet, 16)
    for size in (4, 100):
        with pytest.raises(UserError, match=rf"--size={size} does not fit a ViT.*multiples of 8"):
            resolve_size(vit, size)
