"""Three whole networks against the official TF code: forward, statistics, loss, gradients.

The networks are an eighth as wide as the standard ones, with every BatchNorm parameter and
statistic drawn at random, so that no branch is dead and no rule of padding goes unseen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.ssl import SSLModel

pytestmark = pytest.mark.reference

ENCODERS = ("r18_cifar", "r50", "r50_sk")
TEMPERATURE = 0.5


class Network(NamedTuple):
    model: SSLModel
    golden: dict[str, np.ndarray]
    ours: dict[str, str]  # TF2 name -> our path
    variables: dict
    rows: np.ndarray  # [2n, h, w, 3], all of view 1 and then all of view 2


def build(n) -> Network:
    model = SSLModel(n.encoder, n.projector)
    return Network(model, n.golden, n.ours, n.variables, np.concatenate([*n.views.swapaxes(0, 1)]))


def leaf(tree, path: str) -> np.ndarray:
    for part in path.split("/"):
        tree = tree[part]
    return tree


def run(function, *args):
    return jax.tree.map(np.asarray, jax.jit(function)(*args))


def infer(model: SSLModel, variables, rows):
    return model.apply(variables, rows, train=False)


def train(model: SSLModel, params, batch_stats, rows):
    out, updated = model.apply(
        {"params": params, "batch_stats": batch_stats}, rows, train=True, mutable=["batch_stats"]
    )
    return tf_contrastive_loss(out["projection"]), (out, updated["batch_stats"])


def tf_contrastive_loss(z):
    """NT-Xent as the official code has it: both directions summed, and a mean over images."""
    z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    rows = z.shape[0]
    logits = jnp.where(jnp.eye(rows, dtype=bool), -jnp.inf, z @ z.T / TEMPERATURE)
    positive = (jnp.arange(rows) + rows // 2) % rows
    return -2 * jax.nn.log_softmax(logits)[jnp.arange(rows), positive].mean()


def assert_close(got, want, tolerance: float, what: str):
    """Compares on the scale of the whole tensor, as a relu zeroes single elements."""
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < tolerance, f"{what}: largest relative difference {error:.1e}"


@pytest.fixture(scope="module", params=ENCODERS)
def network64(request, golden_network):
    return build(golden_network(request.param, "float64"))


@pytest.fixture(scope="module")
def trained64(network64):
    """Loss, outputs, new statistics and gradients of one step in float64."""
    n = network64
    step = jax.value_and_grad(lambda *args: train(n.model, *args), has_aux=True)
    with jax.enable_x64(True):
        (loss, (out, stats)), grads = run(
            step, n.variables["params"], n.variables["batch_stats"], n.rows
        )
    return loss, out, stats, grads


def test_inference_in_float64(network64):
    n = network64
    with jax.enable_x64(True):
        out = run(lambda *args: infer(n.model, *args), n.variables, n.rows)
    assert_close(out["representation"], n.golden["infer/final_avg_pool"], 1e-6, "representation")
    assert_close(out["projection"], n.golden["infer/proj_head_output"], 1e-6, "projection")


@pytest.mark.parametrize("network64", ["r50", "r50_sk"], indirect=True)
def test_inference_on_odd_image_sizes(network64):
    n = network64
    assert n.golden["odd/x"].shape[1:3] == (75, 53)
    with jax.enable_x64(True):
        images = n.golden["odd/x"].astype(np.float64)
        out = run(lambda *args: infer(n.model, *args), n.variables, images)
    assert_close(out["representation"], n.golden["odd/final_avg_pool"], 1e-6, "representation")


def test_training_mode_in_float64(network64, trained64):
    loss, out, _, _ = trained64
    golden = network64.golden
    assert_close(out["representation"], golden["train/final_avg_pool"], 1e-6, "representation")
    assert_close(out["projection"], golden["train/proj_head_output"], 1e-6, "projection")
    np.testing.assert_allclose(loss, golden["step0/contrast_loss"], rtol=1e-9)


def test_moving_statistics_after_one_step(network64, trained64):
    _, _, stats, _ = trained64
    checked = 0
    for key, want in network64.golden.items():
        if key.startswith("newstats/"):
            path = network64.ours[key.removeprefix("newstats/")]
            assert_close(leaf({"batch_stats": stats}, path), want, 1e-6, path)
            checked += 1
    assert checked == len(jax.tree.leaves(stats))


def test_gradients_in_float64(network64, trained64):
    _, _, _, grads = trained64
    norms = 0
    for key, want in network64.golden.items():
        kind, _, variable = key.partition("/")
        if kind in ("grad", "gradnorm"):
            path = network64.ours[variable]
            got = leaf({"params": grads}, path)
            if kind == "gradnorm":
                got = np.linalg.norm(got)
                norms += 1
            assert_close(got, want, 1e-6, f"{kind} of {path}")
    assert norms == len(jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ENCODERS)
def test_float32_stays_close(golden_network, name):
    """In training mode BatchNorm over a dozen rows amplifies rounding, hence the 1e-3."""
    n = build(golden_network(name, "float32"))

    def both(variables, rows):
        _, (out, _) = train(n.model, variables["params"], variables["batch_stats"], rows)
        return infer(n.model, variables, rows), out

    inferred, trained = run(both, n.variables, n.rows)
    for mode, out, tolerance in (("infer", inferred, 1e-5), ("train", trained, 1e-3)):
        assert out["projection"].dtype == np.float32
        for ours, theirs in (
            ("representation", "final_avg_pool"),
            ("projection", "proj_head_output"),
        ):
            want = n.golden[f"{mode}/{theirs}"]
            assert_close(out[ours], want, tolerance, f"{ours} in {mode}")
