"""SimCSE: a sentence told from all others of the batch by itself under another dropout.

Gao et al. 2021, https://arxiv.org/abs/2104.08821
"""

import functools

import jax
import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Texts
from simclr_jax.losses.geometry import geometry
from simclr_jax.losses.momentum import info_nce
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    check_heads,
    check_other_images,
)
from simclr_jax.models.ssl import SSLModel


def simcse(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.05,
    hard_negatives: bool = False,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SimCSE for `model`, whose only tower is text.

    The positive of a sentence is its second text where there is one (supervised), or else the
    sentence itself (unsupervised): all texts of a batch go through the tower at once, and each is
    under a dropout mask of its own.

    Args:
      model: text tower and its projector; no encoder, and no other head.
      augment: (key, batch) -> the texts of each example.
      facts: facts of the run.
      temperature: divides cosines, > 0.
      hard_negatives: whether each example has a third text, which is a negative of every sentence
        of the batch.
      loss_tile: candidates that the loss compares at a time; None or 0: a good size.
      grad_cache_chunks: parts of the batch that go through the tower one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one sentence.
      ValueError: if the model has other parts, or the chunks are out of range.

    Source: Equations 4 and 5.
    """
    check_other_images(facts, "simcse")
    check_heads(model, "simcse", "text", "text_projector")
    check_grad_cache_chunks(grad_cache_chunks)
    if model.encoder is not None:
        raise ValueError(
            "method simcse trains a text tower alone: use config.encoder.name='none' and "
            "config.augment.name='texts'."
        )
    negatives = facts.batch_size * (2 if hard_negatives else 1) - 1

    def init(key: PRNGKey, texts: Texts) -> Variables:
        _check_texts(texts, model, hard_negatives)
        one = jax.tree.map(lambda x: x[:1, 0], texts)
        variables = model.init(key, one, method="embed_text")
        return Variables(variables["params"], {})

    def loss(
        params: Params, state: TrainState, texts: Texts, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        b, num_texts = texts["length"].shape
        if num_texts == 1:
            texts = jax.tree.map(functools.partial(jnp.repeat, repeats=2, axis=1), texts)
        rows, batch_stats = apply_model(
            model,
            params,
            state.batch_stats,
            texts,
            key=key,
            output="embed_text",
            grad_cache_chunks=grad_cache_chunks,
        )
        rows = rows.reshape(b, -1, rows.shape[-1])  # [b, v, d]
        value = info_nce(
            rows[:, 0],
            rows[:, 1],
            temperature=temperature,
            hard_negatives=rows[:, 2] if hard_negatives else None,
            tile=loss_tile or None,
        )
        metrics = {"loss": value, "loss_chance": jnp.log(negatives + 1.0), **geometry(rows)}
        return value, StepOutput(batch_stats, metrics)

    return Method(init, augment, loss, negatives=negatives, grad_cache_chunks=grad_cache_chunks)


def _check_texts(texts: Texts, model: SSLModel, hard_negatives: bool) -> None:
    """Checks that there are as many texts of each example as the loss needs, and two views."""
    num_texts = texts["length"].shape[1]
    if (num_texts == 3) != hard_negatives:
        raise ValueError(
            f"method simcse with hard_negatives={hard_negatives} takes "
            f"{'3 texts' if hard_negatives else '1 or 2 texts'} of each example, and "
            f"config.augment.num_texts is {num_texts}."
        )
    assert model.text is not None  # see `check_heads`
    if num_texts == 1 and not model.text.dropout:
        raise ValueError(
            "config.heads.text.dropout=0 makes both views of a sentence the same; use 0.1, or "
            "pairs of texts, config.augment.num_texts=2."
        )
