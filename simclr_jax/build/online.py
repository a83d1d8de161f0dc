"""The section `evals` of a config: what is evaluated while training, as hooks of the loop."""

import dataclasses
import functools
from typing import Any

from simclr_jax.build.experiment import Experiment
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.sections import build_section, config_errors_at
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import select
from simclr_jax.evals.online import (
    Apply,
    EvaluationImages,
    OnlineEvaluation,
    OnlineProtocol,
    OnlineProtocols,
)
from simclr_jax.methods.base import Method
from simclr_jax.train.loop import Hook
from simclr_jax.train.metrics import MetricsWriter

# Metrics that each protocol adds.
EVALUATED = {"knn": ("knn_top1",), "classifier": ("test_top1", "test_top5")}


def online_evaluation(experiment: Experiment, writer: MetricsWriter) -> list[Hook]:
    """Returns the hooks of the section `evals`; none if it is empty.

    Raises:
      UserError: if the images or the network are not what a protocol needs.
    """
    protocols = build_section("config.evals", OnlineProtocols, experiment.config["evals"])
    _require_metric(experiment.run.keep_best, protocols)
    network, hooks = experiment.network, []
    if protocols.knn is not None:
        images = _evaluation_images(experiment, "knn", needs_train_labels=True)
        with config_errors_at("config.evals.knn"):
            protocols.knn.voters(images.train)
        hooks.append(_hook(experiment, writer, protocols.knn, network.encode, images))
    if protocols.classifier is not None:
        if network.model.classifier is None:
            raise UserError("config.evals.classifier needs config.heads.classifier.")
        images = _evaluation_images(experiment, "classifier", needs_train_labels=False)
        hooks.append(_hook(experiment, writer, protocols.classifier, network.classify, images))
    return hooks


def _require_metric(name: str, protocols: OnlineProtocols) -> None:
    added = [f for f in EVALUATED if getattr(protocols, f) is not None]
    known = ["loss", *(metric for protocol in added for metric in EVALUATED[protocol])]
    if name and name not in known:
        raise UserError(
            f"config.run.keep_best={name!r} must be one of {', '.join(known)}."
            f"{did_you_mean(name, known)} The sections of config.evals add others."
        )


def _hook(
    experiment: Experiment,
    writer: MetricsWriter,
    protocol: OnlineProtocol,
    apply: Apply,
    images: EvaluationImages,
) -> Hook:
    variables = functools.partial(_evaluated_variables, experiment.method)
    return OnlineEvaluation(
        writer, protocol, apply, images, variables, num_steps=experiment.num_steps
    )


def _evaluation_images(
    experiment: Experiment, name: str, *, needs_train_labels: bool
) -> EvaluationImages:
    test = experiment.test_source
    labelled = experiment.source.class_names or not needs_train_labels
    if test is None or not test.class_names or not labelled:
        lacking = "config.data.test_split" if test is None else "labels"
        raise UserError(
            f"config.evals.{name} needs {lacking}: it judges labelled test images. Set "
            f"--config.evals.{name}=None, or say which images, such as --config.data.split=train "
            "--config.data.test_split=test, and for class folders in them "
            "--config.data.labels_from_folders=True."
        )
    cuts = experiment.network.evaluation.cuts
    return EvaluationImages(experiment.dataset, cuts, experiment.source, test, experiment.mesh)


def _evaluated_variables(method: Method, state: TrainState) -> dict[str, Any]:
    """Returns the copy of params and batch_stats that is evaluated; see `Method.evaluated`."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    copy = select(fields, method.evaluated) if method.evaluated else fields
    return {"params": copy["params"], "batch_stats": copy["batch_stats"]}
