"""What the train step adds to a bare loss, gradient and update when it fine-tunes.

  python tests/benchmarks/finetune_step.py

Both steps train the same ResNet-50 with LARS on 64 x 64 px. The bare step gets its views ready
made; the other also augments, guards against numbers that are not finite and measures norms.
Steps alternate, so that other load on the machine meets both; medians are compared.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.supervised import supervised
from simclr_jax.models.heads import classifier
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.ssl import SSLModel
from simclr_jax.optim.build import lars
from simclr_jax.optim.schedules import warmup_cosine
from simclr_jax.train.step import init_state, make_train_step

BATCH_SIZE, SIZE_PX, ROUNDS = 32, 64, 15


def main() -> None:
    """Times both steps and prints the ratio."""
    model = SSLModel(ResNet(50), classifier=classifier(num_classes=1000))
    augment = POLICIES["finetune"](size=SIZE_PX).augment
    schedule = warmup_cosine(peak=0.1, total_steps=1000, warmup_steps=0)
    facts = RunFacts(num_steps=1000, num_images=BATCH_SIZE, num_classes=1000, batch_size=BATCH_SIZE)
    method, tx, root = supervised(model, augment, facts), lars(schedule), jax.random.key(0)
    pixels = np.random.default_rng(0).integers(
        0, 256, (BATCH_SIZE, 1, SIZE_PX, SIZE_PX, 3), np.uint8
    )
    batch = {
        "image": jnp.asarray(pixels),
        "size": jnp.full((BATCH_SIZE, 1, 2), SIZE_PX, jnp.int32),
        "label": jnp.arange(BATCH_SIZE, dtype=jnp.int32),
    }
    views = jax.jit(augment)(root, batch)[:, 0]

    def bare_step(state, batch):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            out, updated = model.apply(variables, views, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(out["logits"], batch["label"])
            return losses.mean(), updated["batch_stats"]

        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state), ()

    init = jax.jit(lambda: init_state(method, tx, root, batch))
    steps = {"bare": bare_step, "ours": make_train_step(method, tx, root)}
    compiled = {name: jax.jit(step, donate_argnums=0) for name, step in steps.items()}
    states = {name: init() for name in steps}
    seconds = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, step in compiled.items():
            start = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], batch))
            seconds[name].append(time.perf_counter() - start)
    bare, ours = (float(np.median(seconds[name][1:])) for name in ("bare", "ours"))
    print(f"bare {1e3 * bare:.0f} ms, ours {1e3 * ours:.0f} ms: {ours / bare - 1:+.1%}")


if __name__ == "__main__":
    main()
