"""Official checkpoints in, the official networks' outputs out.

tests/golden/tf1_checkpoints/r18_cifar_w0125 is a TF1 checkpoint in the released naming, with
Momentum, EMA and memory leftovers (cp -r of the reference run); logits_sup.npy is what its
supervised head puts out for infer/* of r18_cifar_w0125.npz. The checkpoint of the other network
is written here from the weights in its npz: the leftovers would make it 8 MB.
"""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.interop.names import tf1_name
from simclr_jax.models.heads import MLP
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel
from simclr_jax.train.checkpoint import Checkpoints
from tests.program import run

pytestmark = [pytest.mark.reference, pytest.mark.interop("tensorflow")]

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
R18 = GOLDEN / "tf1_checkpoints" / "r18_cifar_w0125"


def golden(name):
    with np.load(GOLDEN / f"{name}_w0125.npz") as file:
        return {key: file[key] for key in file.files}


def import_(checkpoint, workdir):
    return run("import", "--format=tf", f"--checkpoint={checkpoint}", f"--workdir={workdir}")


def restore(workdir, shapes):
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device)
    checkpoints = Checkpoints(workdir)
    return checkpoints.restore_variables(checkpoints.find(), jax.tree.map(place, shapes))


def apply(workdir, rows):
    """Rebuilds the network from the workdir's config alone, and runs it."""
    config = json.loads((workdir / "config.json").read_text())
    settings = {key: value for key, value in config["encoder"].items() if key != "name"}
    model = SSLModel(ResNet(**settings), MLP(**config["heads"]["projector"]))
    init = lambda: model.init(jax.random.key(0), jnp.zeros(rows[:1].shape), train=False)
    variables = restore(workdir, jax.eval_shape(init))
    return jax.jit(lambda v: model.apply(v, jnp.asarray(rows), train=False))(variables)


def assert_close(got, want):
    error = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert error < 1e-5, f"largest relative difference {error:.1e}"


def rows_of(arrays):
    x = arrays["x"].astype(np.float32)
    return np.concatenate([x[..., :3], x[..., 3:]])


def test_a_tf1_checkpoint_with_leftovers_gives_the_golden_outputs(tmp_path):
    result = import_(R18, tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == (
        "ResNet-18 (cifar stem), width 0.125; projector of 3 layers to 128; classifier of 10 "
        "classes: 121 variables, 0.18 M parameters in the encoder, step 250228; ignored: "
        f"counter 1, ema_model 105, memory 1, optimizer 73; written to {tmp_path / 'run'}"
    )
    arrays = golden("r18_cifar")
    out = apply(tmp_path / "run", rows_of(arrays))
    assert_close(out["representation"], arrays["infer/final_avg_pool"])
    assert_close(out["projection"], arrays["infer/proj_head_output"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["heads"]["classifier"] == {"num_classes": 10}
    shapes = {"kernel": np.empty((64, 10), np.float32), "bias": np.empty(10, np.float32)}
    params = restore(tmp_path / "run", {"params": {"classifier": shapes}})["params"]
    kernel, bias = (np.asarray(params["classifier"][leaf]) for leaf in ("kernel", "bias"))
    logits = np.asarray(out["representation"]) @ kernel + bias
    assert_close(logits, np.load(R18 / "logits_sup.npy"))


def test_a_tf1_checkpoint_with_selective_kernels_gives_the_golden_outputs(tmp_path):
    tf = importlib.import_module("tensorflow")
    arrays = golden("r50_sk")
    names = [key for key in arrays if key.startswith("w/")]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt-1"),
        tensor_names=[tf1_name(key.removeprefix("w/")) for key in names],
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[key].astype(np.float32)) for key in names],
    )
    result = import_(tmp_path, tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "ResNet-50 with selective kernels" in result.stdout
    out = apply(tmp_path / "run", rows_of(arrays))
    assert_close(out["representation"], arrays["infer/final_avg_pool"])
    assert_close(out["projection"], arrays["infer/proj_head_output"])


def test_a_mistake_is_one_line_and_leaves_nothing_behind(tmp_path):
    data = "model.ckpt-250228.data-00000-of-00001"
    for file in R18.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / data).write_bytes((R18 / data).read_bytes()[:100_000])
    result = import_(tmp_path, tmp_path / "runs" / "r18")
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert "is truncated: 100000 bytes" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()
