"""The network of a config, and what can be done with it once it has weights.

encoder   models.ssl.ENCODERS[name]
heads     build_heads
augment   the shape of its views
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.augment.policies import EVALUATIONS, POLICIES, Policy
from simclr_jax.core import rng
from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import (
    Section,
    build_section,
    config_errors_at,
    lookup,
    settings_of,
)
from simclr_jax.core.types import Batch, Clips, Sentences, Texts
from simclr_jax.evals.online import Apply
from simclr_jax.models import heads
from simclr_jax.models.own import require_imported
from simclr_jax.models.ssl import ENCODERS, SSLModel
from simclr_jax.models.text import TextTransformer


@dataclasses.dataclass(frozen=True)
class Network:
    """A model and its inference functions; none of it has touched a device.

    Attributes:
      model: encoder and heads, without their variables.
      evaluation: how the view that is judged is made of an image.
      shapes: shapes of its variables, {"params": ..., "batch_stats": ...}.
      encode: (variables, batch) -> representations [b, d].
      classify: (variables, batch) -> logits [b, k], if the model has a classifier.
      project: (variables, batch) -> projections [b, d], if the model has a projector.
      embed_text: (variables, {"text": [n, context], "length": [n]}) -> rows [n, d] where images
        are projected to, if the model has a text tower.
      update_statistics: (variables, batch) -> batch_stats of the encoder, moved by these images
        as in training.
      pixels: batch -> the same images as raw pixels [b, h * w * c], a baseline for `encode`.
    """

    model: SSLModel
    evaluation: Policy
    shapes: dict[str, Any]
    encode: Apply
    classify: Apply
    project: Apply
    embed_text: Callable[[Mapping[str, Any], Texts], jax.Array]
    update_statistics: Callable[[Mapping[str, Any], Batch], dict[str, Any]]
    pixels: Callable[[Batch], jax.Array]

    @property
    def channels(self) -> int:
        """Channels of the images, or spectrograms, that the encoder takes."""
        return self.evaluation.shape[2]

    def random_variables(self, seed: int) -> dict[str, Any]:
        """Returns the variables that training from scratch with this seed starts from."""
        return _init(self.model, self.evaluation.shape, rng.stream(jax.random.key(seed), "init", 0))


def network(config: Mapping[str, Any], channels: int = 3) -> Network:
    """Builds the network that the sections `encoder` and `heads` describe.

    Args:
      config: sections.
      channels: how many channels its images will have.

    Raises:
      UserError: naming the section, the key and the value that does not fit.
    """
    require_imported(config["encoder"]["name"])
    encoder, settings = lookup("config.encoder", ENCODERS, config["encoder"])
    encoder = build_section("config.encoder", encoder, settings)
    model = build_section("config.heads", build_heads, config["heads"], encoder)
    evaluation = evaluation_policy(config["augment"], channels)
    if (encoder is None) != isinstance(evaluation.cuts, Sentences):
        raise UserError(
            f"config.encoder.name={config['encoder']['name']!r} and config.augment.name="
            f"{config['augment']['name']!r}: a text tower alone takes texts alone. For them, use "
            "config.encoder.name='none' and config.augment.name='texts', as in the recipe simcse; "
            "for images or sounds neither."
        )
    sized = ".size" if "size" in config["augment"] else ""
    with config_errors_at(f"config.augment{sized} and config.encoder"):
        init = lambda: _init(model, evaluation.shape, jax.random.key(0))
        shapes = jax.eval_shape(init)

    def images(batch: Batch) -> jax.Array:
        return jax.tree.leaves(evaluation.augment(jax.random.key(0), batch))[0][:, 0]

    def apply(method: str) -> Apply:
        def run(variables: Mapping[str, Any], batch: Batch) -> jax.Array:
            out = model.apply(variables, images(batch), method=method)
            assert isinstance(out, jax.Array)  # nothing is mutable here
            return out

        return jax.jit(run)

    @jax.jit
    def pixels(batch: Batch) -> jax.Array:
        views = images(batch)
        return views.reshape(views.shape[0], -1)

    @jax.jit
    def embed_text(variables: Mapping[str, Any], texts: Texts) -> jax.Array:
        out = model.apply(variables, texts, method="embed_text")
        assert isinstance(out, jax.Array)
        return out

    @jax.jit
    def update_statistics(variables: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
        settings: dict[str, Any] = {"train": True, "method": "encode", "mutable": ["batch_stats"]}
        moved: Any = model.apply(variables, images(batch), **settings)[1]
        return moved["batch_stats"]

    return Network(
        model=model,
        evaluation=evaluation,
        shapes=shapes,
        encode=apply("encode"),
        classify=apply("classify"),
        project=apply("project"),
        embed_text=embed_text,
        update_statistics=update_statistics,
        pixels=pixels,
    )


def evaluation_policy(augment: Mapping[str, Any], channels: int = 3) -> Policy:
    """Returns how the view that is judged is made, by a section `augment`."""
    fn = POLICIES["eval"]
    if {"name": "eval", **augment}["name"] in EVALUATIONS:
        fn = EVALUATIONS[augment["name"]]
    settings = {key: augment[key] for key in settings_of(fn)}
    policy = build_section("config.augment", fn, settings)
    if isinstance(policy.cuts, Clips | Sentences):
        return policy
    return dataclasses.replace(policy, shape=(*policy.shape[:2], channels))


def _init(model: SSLModel, shape: tuple[int, int, int], key: jax.Array) -> dict[str, Any]:
    if model.encoder is None:
        one = jnp.ones((1,), jnp.int32)
        texts = {"text": one[:, None], "length": one}
        variables = {"batch_stats": {}, **model.init(key, texts, method="embed_text")}
    else:
        images = jnp.zeros((1, *shape))
        variables = {"batch_stats": {}, **model.init(key, images, train=False)}
    if more := variables.keys() - {"params", "batch_stats"}:
        raise ValueError(
            f"the network has the collections {', '.join(sorted(more))}; only params and "
            "batch_stats are trained and stored."
        )
    return {name: variables[name] for name in ("params", "batch_stats")}


def build_heads(
    encoder: nn.Module | None,
    *,
    projector: heads.MLP | None = None,
    classifier: Annotated[nn.Dense | None, Section(heads.classifier)] = None,
    select: int = 0,
    predictor: heads.MLP | None = None,
    prototypes: heads.Prototypes | None = None,
    text: TextTransformer | None = None,
    text_projector: heads.MLP | None = None,
) -> SSLModel:
    """Returns the model that the sections `encoder` and `heads` describe.

    Args:
      encoder: maps images to representations; None to have a text tower alone.
      projector: MLP on representations, which the loss of a pretraining method sees.
      classifier: linear layer to the logits of classes.
      select: features that the classifier sees; see `models.ssl.SSLModel`.
      predictor: MLP on projections, of methods that predict one view from another.
      prototypes: directions that projections are compared with, of methods that cluster.
      text: tower of captions, of methods of two towers; config.data.captions decides its tokens.
      text_projector: MLP from the output of `text` to the space of the images' projections.
    """
    return SSLModel(
        encoder=encoder,
        projector=projector,
        classifier=classifier,
        select=select,
        predictor=predictor,
        prototypes=prototypes,
        text=text,
        text_projector=text_projector,
    )
