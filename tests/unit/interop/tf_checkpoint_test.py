"""Reading of TF1 and TF2 checkpoints, and what damaged and foreign files get."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.tree import path_name
from simclr_jax.interop.names import tf1_name
from simclr_jax.interop.tf_checkpoint import checkpoint_prefix, read_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
R18 = GOLDEN / "tf1_checkpoints" / "r18_cifar_w0125"
PREFIX = R18 / "model.ckpt-250228"
INDEX, DATA = "model.ckpt-250228.index", "model.ckpt-250228.data-00000-of-00001"


needs_tensorflow = pytest.mark.interop("tensorflow")


@pytest.fixture
def tf():
    return importlib.import_module("tensorflow")


@pytest.fixture
def copied(tmp_path):
    """The checkpoint of a ResNet-18 in a directory where it may be damaged."""
    for name in (INDEX, DATA, "checkpoint"):
        (tmp_path / name).write_bytes((R18 / name).read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def golden():
    """{TF2 name: array} of the same network."""
    with np.load(GOLDEN / "r18_cifar_w0125.npz") as file:
        names = [name for name in file.files if name.startswith("w/")]
        return {name.removeprefix("w/"): file[name].astype(np.float32) for name in names}


def write_tf1(tf, prefix, arrays):
    names = list(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )


def by_name(imported):
    leaves = jax.tree_util.tree_leaves_with_path(imported.variables)
    return {imported.network.names[path_name(path)]: np.asarray(x) for path, x in leaves}


@pytest.mark.parametrize("given", [R18, PREFIX])
def test_a_checkpoint_is_named_by_its_prefix_or_its_directory(given):
    assert checkpoint_prefix(str(given)) == str(PREFIX)


def test_the_file_checkpoint_tells_the_newest_of_several_wherever_it_was_written(tmp_path):
    for step in (1, 20, 3):
        (tmp_path / f"model.ckpt-{step}.index").touch()
    with pytest.raises(UserError, match=r"3 checkpoints .*choose one, such as .*model\.ckpt-3"):
        checkpoint_prefix(str(tmp_path))
    text = 'model_checkpoint_path: "/cluster/{}"\nall_model_checkpoint_paths: "model.ckpt-1"\n'
    (tmp_path / "checkpoint").write_text(text.format("model.ckpt-20"))
    assert checkpoint_prefix(str(tmp_path)) == str(tmp_path / "model.ckpt-20")
    (tmp_path / "checkpoint").write_text(text.format("model.ckpt-21"))
    with pytest.raises(UserError, match="choose one"):
        checkpoint_prefix(str(tmp_path))


def test_a_saved_model_holds_its_checkpoint_in_variables(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").touch()
    assert checkpoint_prefix(str(tmp_path)) == str(tmp_path / "variables" / "variables")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a directory without a checkpoint"),
        ("model.ckpt-1", "does not exist"),
        ("notes.txt", "is a file, but a TensorFlow checkpoint is named by what its files begin"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=message) as error:
        checkpoint_prefix(str(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def test_says_how_to_install_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-interop\.txt"):
        read_checkpoint(str(PREFIX))


@needs_tensorflow
def test_reads_a_tf1_checkpoint_and_leaves_the_leftovers(tf, golden):
    imported = read_checkpoint(str(R18))
    wanted = {tf1_name(name) or "": array for name, array in golden.items()}
    got = by_name(imported)
    assert got.keys() - wanted.keys() == {
        f"head_supervised/linear_layer/dense/{leaf}" for leaf in ("kernel", "bias")
    }
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert imported.step == 250228
    ignored = {"optimizer": 73, "ema_model": 105, "memory": 1, "counter": 1}
    assert imported.network.ignored == ignored


@needs_tensorflow
def test_reads_ema_copies_on_request(tf):
    weights, averages = (by_name(read_checkpoint(str(R18), ema=ema)) for ema in (False, True))
    reader = tf.train.load_checkpoint(str(PREFIX))
    name = "ema_model/conv2d_5/kernel"
    np.testing.assert_array_equal(averages[name], reader.get_tensor(name))
    assert not np.array_equal(averages[name], weights["base_model/conv2d_5/kernel"])
    head = "head_contrastive/nl_0/dense/kernel"
    np.testing.assert_array_equal(averages[head], weights[head])


def object_graph(tf, golden):
    """Modules that hold the variables in places that tell nothing of their numbers."""
    rng = np.random.default_rng(0)
    model = tf.Module()
    model.layers = {}
    for i in rng.permutation(len(golden)):
        name = list(golden)[i]
        layer = model.layers[f"layer{len(model.layers)}"] = tf.Module()
        trainable = "moving_" not in name
        layer.variable = tf.Variable(golden[name], trainable=trainable, name=name)
    return model


@needs_tensorflow
def test_reads_a_tf2_object_graph_by_the_names_of_its_variables(tf, golden, tmp_path):
    model, momentum = object_graph(tf, golden), tf.Module()
    momentum.velocity = tf.Variable(1.0, name="SGD/resnet/conv2d/kernel/momentum")
    step = tf.Variable(700, dtype=tf.int64, name="iter")
    saver = tf.train.Checkpoint(model=model, optimizer=momentum, global_step=step)
    imported = read_checkpoint(saver.save(str(tmp_path / "ckpt")))
    got = by_name(imported)
    assert got.keys() == golden.keys()
    for name, array in golden.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert imported.step == 700
    assert imported.network.ignored == {"optimizer": 1, "counter": 2}


@needs_tensorflow
def test_reads_a_saved_model(tf, golden, tmp_path):
    exported = tf.Module()
    exported.model = object_graph(tf, golden)
    exported.trainable_variables_list = list(exported.model.trainable_variables)
    tf.saved_model.save(exported, str(tmp_path / "saved_model"))
    got = by_name(read_checkpoint(str(tmp_path / "saved_model")))
    for name, array in golden.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@needs_tensorflow
@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (INDEX, lambda b: b[:5000], r"\.index: not an sstable"),
        (INDEX, lambda b: b"", r"\.index: file is too short"),
        (INDEX, lambda b: b"These are notes.\n" * 100, r"\.index: not an sstable"),
        (
            DATA,
            lambda b: b[:-1000],
            r"\.data-\*: the file is truncated: 2264208 bytes of .* 2265208",
        ),
        (DATA, lambda b: b[:9000] + b"\x7f" + b[9001:], r"\.data-\*: base_model/\S+: .*Checksum"),
        (DATA, None, r"\.data-\*: the file is truncated: 0 bytes"),
    ],
    ids=["short_index", "empty_index", "text", "short_data", "flipped_byte", "no_data"],
)
def test_damaged_files_are_named(tf, copied, file, damage, message):
    contents = (copied / file).read_bytes()
    if damage is None:
        (copied / file).unlink()
    else:
        (copied / file).write_bytes(damage(contents))
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(str(copied))
    assert str(copied / "model.ckpt-250228") in str(error.value)


@needs_tensorflow
def test_a_checkpoint_of_something_else_is_refused_with_its_name(tf, golden, tmp_path):
    write_tf1(tf, tmp_path / "other", {"dense/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"other\.index: holds no encoder of SimCLR"):
        read_checkpoint(str(tmp_path / "other"))
    arrays = {tf1_name(name): array for name, array in golden.items()}
    arrays |= {"base_model/conv2d_5/bias": np.zeros(8, np.float32)}
    del arrays["base_model/batch_normalization_2/beta"]
    write_tf1(tf, tmp_path / "odd", arrays)
    with pytest.raises(UserError, match=r"odd\.index: .*1 missing: \S+_2/beta. 1 not in it: \S+as"):
        read_checkpoint(str(tmp_path / "odd"))


@needs_tensorflow
def test_numbers_of_another_type_become_float32_and_text_is_refused(tf, golden, tmp_path):
    arrays = {tf1_name(name): array.astype(np.float16) for name, array in golden.items()}
    write_tf1(tf, tmp_path / "half", arrays)
    got = by_name(read_checkpoint(str(tmp_path / "half")))
    assert {array.dtype for array in got.values()} == {np.dtype(np.float32)}
    arrays["base_model/batch_normalization/beta"] = np.array([b"text"] * 8)
    write_tf1(tf, tmp_path / "text", arrays)
    with pytest.raises(UserError, match="batch_normalization/beta"):
        read_checkpoint(str(tmp_path / "text"))
