"""Fills in what a recipe leaves to the images and to checkpoints: the values that are None."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.files import absolute
from simclr_jax.core.sections import build_section
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source
from simclr_jax.data.sources import suggest_sizes
from simclr_jax.train.workdir import load_config

log = logging.getLogger(__name__)
SECTIONS = ("run", "data", "augment", "encoder", "heads", "method", "optim", "schedule", "evals")
OPTIONAL = ("warm_start", "parallel")
# What people call the gradient accumulation that other code bases have.
ACCUMULATION = re.compile(
    "(num_)?(grad(ient)?s?_)?acc(um(ulat(e|ion))?)?(_grad(ient)?s?)?(_(steps|batches))?"
    "|(num_)?micro_?batch(es|_size)?|every_k_schedule|update_freq"
)
LARGEST_DEFAULT_BATCH = 256


def resolve(
    config: Mapping[str, Any], train_source: Source | None = None
) -> tuple[dict[str, Any], Dataset, Source]:
    """Returns the config with every value settled, and the images that settled it.

    Args:
      config: sections, see `build.build_experiment`.
      train_source: takes the place of the training images; None opens those of the config.

    Raises:
      UserError: if a section is unknown or missing, or the images or the teacher are not there.
    """
    check_sections(config)
    config = take_over_network(config)
    resolved = {section: dict(config[section]) for section in SECTIONS}
    for section in OPTIONAL:
        resolved[section] = dict(config[section]) if section in config else {}
    data, method = resolved["data"], resolved["method"]
    if "teacher" in method:
        method["teacher"] = _teacher(method["teacher"])
        data["class_names"] = data.get("class_names") or method["teacher"].get("class_names")
    dataset, source = _open(data, resolved["augment"], train_source)
    _settle_classes(resolved["heads"], method, source)
    return resolved, dataset, source


def check_sections(config: Mapping[str, Any]) -> None:
    """Checks that a config has the sections that it must have, and no others.

    Raises:
      UserError: if a section is unknown or missing, or accumulates gradients.
    """
    known = SECTIONS + OPTIONAL
    for section in config:
        if section not in known:
            raise UserError(
                f"config.{section} does not exist.{did_you_mean(section, known)} "
                f"Known sections: {', '.join(known)}."
            )
    missing = [section for section in SECTIONS if section not in config]
    if missing:
        raise UserError(f"config.{missing[0]} is missing.")
    for section, values in config.items():
        for key in values:
            if advice := instead_of_accumulation(key):
                raise UserError(f"config.{section}.{key} does not exist: {advice}")


def take_over_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config with what it leaves to the run or the import that it starts from.

    An encoder without a name is that of `config.warm_start.checkpoint`; so are then a projector
    that the classifier is on, and canvas and view size where they are None. A student takes these
    two from its teacher.

    Raises:
      UserError: if there is no such checkpoint.
    """
    config = {section: dict(values) for section, values in config.items()}
    data, augment, heads = config["data"], config["augment"], config["heads"]
    encoder, method = config["encoder"], config["method"]
    teacher = method.get("teacher")
    if "name" in encoder and encoder["name"] is None:
        start = config["warm_start"]["checkpoint"] if "warm_start" in config else None
        if not start:
            raise UserError(
                "config.encoder.name is not set, so the encoder is that of a checkpoint, and "
                "config.warm_start.checkpoint is missing: the workdir of a trained run, as in "
                "--config.warm_start.checkpoint=runs/pretrained."
            )
        there = load_config(start)
        encoder.update(there["encoder"])
        log.info("Encoder of %s: %s.", start, encoder)
        if "select" in heads and heads["select"] and heads.get("projector") is None:
            heads["projector"] = there["heads"].get("projector")
    elif isinstance(teacher, str):
        there = load_config(teacher)
    else:
        return config
    if augment["size"] is None:
        augment["size"] = there["augment"]["size"]
    if data["canvas"] is None:
        data["canvas"] = there["data"]["canvas"]
    return config


def instead_of_accumulation(key: str) -> str:
    """Returns what to do in place of accumulating gradients if that is what a key means, or ""."""
    if not ACCUMULATION.fullmatch(key):
        return ""
    return (
        "gradients added up over small batches are not those of the large one where a loss "
        "compares the images of a batch. config.method.grad_cache_chunks=8 puts the batch through "
        "the network in 8 parts, and the loss sees all of it."
    )


def _open(
    data: dict[str, Any], augment: dict[str, Any], train_source: Source | None
) -> tuple[Dataset, Source]:
    if data.get("path") is not None:
        data["path"] = absolute(data["path"])
    unsettled = {name: 2 for name in ("canvas", "batch_size") if data.get(name, 2) is None}
    dataset = build_section("config.data", Dataset, data | unsettled)
    source: Source = dataset.open_train() if train_source is None else train_source
    if data["canvas"] is None or augment.get("size", 0) is None:
        canvas, size = suggest_sizes(source)
        data["canvas"] = data["canvas"] or canvas
        augment["size"] = augment["size"] or size
        log.info("From the images: canvas %d px, views %d px.", data["canvas"], augment["size"])
    if data["batch_size"] is None:
        largest = 2 ** int(np.log2(max(len(source) // 2, 2)))
        data["batch_size"] = min(LARGEST_DEFAULT_BATCH, largest)
        log.info("From %d images: batch size %d.", len(source), data["batch_size"])
    data["class_names"] = source.class_names or dataset.class_names
    settled = {name: data[name] for name in ("canvas", "batch_size", "class_names")}
    return dataclasses.replace(dataset, **settled), source


def _teacher(teacher: Any) -> dict[str, Any]:
    """Returns a teacher's checkpoint and network, so that only a fresh start needs its workdir."""
    if isinstance(teacher, Mapping):
        return dict(teacher)
    if not teacher:
        raise UserError(
            "config.method.teacher is missing: the workdir of a fine-tuned run, as in "
            "--config.method.teacher=runs/finetuned."
        )
    config = load_config(teacher)
    if not _num_classes(config["heads"]):
        raise UserError(
            f"config.method.teacher={teacher!r} has no classifier to learn from. Fine-tune it "
            "first: python -m simclr_jax train --config=configs/finetune.py:... "
            f"--config.warm_start.checkpoint={teacher} --workdir=..."
        )
    data = config["data"]
    return {
        "checkpoint": teacher,
        "encoder": config["encoder"],
        "heads": config["heads"],
        "class_names": data.get("class_names"),  # of an import nobody knows them
    }


def _settle_classes(heads: dict[str, Any], method: Mapping[str, Any], source: Source) -> None:
    """Gives the classifier as many classes as the labels, or else the teacher, have."""
    if "classifier" not in heads or heads["classifier"] is None:
        return
    taught = _num_classes(method["teacher"]["heads"]) if "teacher" in method else None
    classifier = dict(heads["classifier"])
    if "num_classes" not in classifier or classifier["num_classes"] is None:
        classifier["num_classes"] = len(source.class_names) or taught
    if not classifier["num_classes"]:
        raise UserError(
            f"{source.name} has no labels to train a classifier with. For a folder of class "
            "folders, set config.data.labels_from_folders=True."
        )
    if taught not in (None, classifier["num_classes"]):
        raise UserError(
            f"The teacher {method['teacher']['checkpoint']} tells {taught} classes apart and the "
            f"student {classifier['num_classes']} ({source.name}); they must be the same classes."
        )
    heads["classifier"] = classifier


def _num_classes(heads: Mapping[str, Any]) -> int | None:
    classifier = heads.get("classifier")
    return classifier["num_classes"] if classifier else None
