"""SimCLRv2's momentum memory: what a view is compared with comes from a target and from a queue.

Chen et al. 2020, https://arxiv.org/abs/2006.10029, Section 2
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Metrics, Params, PRNGKey, Projections, Scalar, Views
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_grad_cache_chunks,
    check_heads,
    init_model,
    projection_width,
)
from simclr_jax.methods.memory import RING_RULE, Queue, Ring, Target, TargetAndQueue, ring_rows
from simclr_jax.methods.projected import projection_metrics
from simclr_jax.models.ssl import SSLModel

MemoryContrast: TypeAlias = Callable[[Projections, Projections, Queue], tuple[Scalar, Metrics]]


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


def with_memory(
    name: str,
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    contrast: MemoryContrast,
    memory: Memory,
    *,
    gradient_scale: float,
    negatives: int,
    grad_cache_chunks: int,
) -> Method:
    """Returns a method that contrasts projections with the keys of a memory; see `Memory`.

    Args:
      name: name of the method, for messages.
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      contrast: (projections [b, 2, d], the target's projections of the same views, unit rows of
        the queue [k, d]) -> (value, what is logged beside it); no gradient may reach the last two.
      memory: settings of the target and the queue.
      gradient_scale: multiplies the gradient and not the loss that is logged.
      negatives: rows that each row is contrasted with, the queue's included.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range; `init` raises one
        if the queue is not a whole number of batches.
    """
    check_heads(model, name, "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    apply = functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks)
    num_keys = 2 * facts.batch_size  # both views are keys
    kept = TargetAndQueue(Target(memory.ema), Ring(memory.size), num_keys, "memory.size")

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views, two_views=True)
        return variables._replace(method_state=kept.init(key, variables, projection_width(model)))

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        out, batch_stats = apply(params, state.batch_stats, views, key=key)
        old, queue = state.method_state["target"], ring_rows(state.method_state["queue"])
        target_out, target_stats = apply(old["params"], old["batch_stats"], views, key=None)
        z, keys = (by_image(x["projection"], views) for x in (out, target_out))
        value, metrics = contrast(z, keys, queue)
        metrics = {"loss": value, **projection_metrics(z), **metrics}
        carry = (keys, target_stats)
        return gradient_scale * value, StepOutput(batch_stats, metrics, carry)

    return Method(
        init,
        augment,
        loss,
        kept.update,
        state_rules=(RING_RULE,),
        negatives=negatives,
        grad_cache_chunks=grad_cache_chunks,
    )
