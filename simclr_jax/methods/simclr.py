"""SimCLR and SimCLRv2 pretraining: NT-Xent on two augmented views of each image.

Chen et al. 2020, https://arxiv.org/abs/2002.05709 (v1: 2-layer projector)
Chen et al. 2020, https://arxiv.org/abs/2006.10029 (v2: 3-layer projector, SK-ResNet, memory)
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Collection, Params, PRNGKey, Projections, Scalar, Views
from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.losses.geometry import geometry
from simclr_jax.losses.similarity import l2_normalize, unit_std
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_grad_cache_chunks,
    init_model,
    keep_method_state,
)
from simclr_jax.methods.memory import RING_RULE, Ring, Target, ring_rows
from simclr_jax.models.ssl import SSLModel


@dataclasses.dataclass(frozen=True)
class Memory:
    """The momentum memory of SimCLRv2.

    The paper gives it one sentence and the released code lacks it. Its author says that what a
    view is compared with comes from the momentum encoder, from this batch and past ones, as in
    MoCo (github.com/google-research/simclr/issues/115). We read that as follows. As in MoCo, the
    target starts as a copy of the network, normalises with the statistics of its batch, and
    follows the weights after each step; the queue starts with random directions. As in SimCLR,
    both views of an image are queries and keys, and the keys of other images of this batch are
    negatives, besides the queue. MoCo shuffles images between devices because each of them
    normalises by itself; here BatchNorm is global, and nothing leaks.

    The state of a method with a memory is {"target": {"params", "batch_stats"}, "queue"}; the
    queue [slots, 2b, d] is float32 and holds unit keys.

    Attributes:
      size: keys in the queue, a multiple of the 2b keys of a batch; the paper's 64K if not set.
      ema: share of itself that the target keeps in each step, in [0, 1).
    """

    size: Count = 65536
    ema: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(
                f"ema={self.ema}; it must be in [0, 1): at 1 the target would never move. "
                "The paper uses 0.999."
            )

    @property
    def target(self) -> Target:
        """What the keys come from."""
        return Target(self.ema)

    @property
    def ring(self) -> Ring:
        """The queue."""
        return Ring(self.size)


def simclr(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    memory: Memory | None = None,
    gradient_scale: Positive = 1.0,
    loss_tile: int | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SimCLR for `model`.

    Args:
      model: its output has an entry "projection" of shape [n, d].
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: temperature of NT-Xent, > 0.
      memory: SimCLRv2's; None to contrast the views of one batch only.
      gradient_scale: multiplies the gradient, > 0; the loss that is logged stays the mean over
        views, in nats. The official code sums the losses of an image's two views
        (tf2/objective.py), and its rates and weight decays were tuned with that: 2 goes with
        them in LARS recipes, where another rate would not do. The trust ratio cancels a factor
        of the gradient alone, not of the sum with the decay, and BatchNorm has none.
      loss_tile: candidates that the loss compares with at a time; memory grows with it. None
        or 0: all at once, or tiles of a good size for a batch above 4096 images.
      grad_cache_chunks: parts of the batch that go through the network one after the other, so
        that more fits; the loss sees all of it. See `base.apply_model`.

    Raises:
      ValueError: if the temperature is not positive, the tile or the chunks are out of range, or
        a setting of the memory is wrong; `init` raises one if the model has no projection.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}; it must be > 0. The papers use 0.1 to 0.5.")
    if loss_tile is not None and loss_tile < 0:
        raise ValueError(
            f"loss_tile={loss_tile}; it must be at least 1, or 0 or None to choose by size."
        )
    check_grad_cache_chunks(grad_cache_chunks)
    tile = loss_tile or None
    num_keys = 2 * facts.batch_size  # of a batch
    num_negatives = num_keys - 2 + (memory.size if memory else 0)

    def project(
        params: Params, batch_stats: Collection, views: Views, key: PRNGKey | None
    ) -> tuple[Projections, Collection]:
        out, stats = apply_model(
            model, params, batch_stats, views, key=key, grad_cache_chunks=grad_cache_chunks
        )
        if "projection" not in out:
            raise ValueError("method simclr needs heads.projector, and no heads.classifier.")
        return by_image(out["projection"], views), stats

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        network = (variables.params, variables.batch_stats)
        keys, _ = jax.eval_shape(functools.partial(project, *network, key=None), views)
        if memory is None:
            return variables
        key = jax.random.fold_in(key, 1)
        queue = memory.ring.init(key, num_keys, keys.shape[-1], "memory.size")
        memories = {"target": memory.target.init(variables), "queue": queue}
        return variables._replace(method_state=memories)

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        z, batch_stats = project(params, state.batch_stats, views, key)
        keys, queue, carry = None, None, ()
        if memory is not None:
            network, queue = state.method_state["target"], ring_rows(state.method_state["queue"])
            keys, target_stats = project(network["params"], network["batch_stats"], views, key=None)
            carry = (keys, target_stats)
        value = nt_xent(z, temperature=temperature, keys=keys, queue=queue, tile=tile)
        chance = jnp.log(num_negatives + 1.0)  # all similarities equal: nothing learned
        metrics = {
            "loss": value,
            "loss_chance": chance,
            # In nats, of two views (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748,
            # Eq. 5).
            "mutual_information_bound": chance - value,
            "projection_std": unit_std(z),
            **geometry(z),
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }
        return gradient_scale * value, StepOutput(batch_stats, metrics, carry)

    def after_update(state: TrainState, carry: Any) -> Any:
        if memory is None:
            return keep_method_state(state, carry)
        keys, batch_stats = carry
        rows = l2_normalize(keys).reshape(-1, keys.shape[-1])
        return {
            "target": memory.target.update(state.method_state["target"], state, batch_stats),
            "queue": memory.ring.push(state.method_state["queue"], rows, state),
        }

    return Method(
        init,
        augment,
        loss,
        after_update,
        state_rules=(RING_RULE,),
        negatives=num_negatives,
        grad_cache_chunks=grad_cache_chunks,
    )
