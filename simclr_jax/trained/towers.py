"""Judges two towers: classes and captions told by text alone."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import config_errors_at
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source, has_sounds
from simclr_jax.data.text import readable_captions
from simclr_jax.evals.features import Features, check_labels, extract_features
from simclr_jax.evals.retrieval import recalls
from simclr_jax.evals.zero_shot import class_rows, predict
from simclr_jax.trained.restored import Restored

log = logging.getLogger(__name__)
PROTOCOLS = ("zero_shot", "retrieval")
TEMPLATES = ("a photo of a {}.",)  # where a data set has none of its own
FEATURES = "towers"


def evaluate_towers(
    run: Restored, dataset: Dataset, protocols: Sequence[str], templates: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Returns a row of figures for each protocol, two for retrieval.

    Args:
      run: with a text tower.
      dataset: its test split is judged.
      protocols: some of `PROTOCOLS`.
      templates: captions with {} in place of the name of a class; those of the data set if None.

    Raises:
      UserError: if the run has no text tower, or the images lack what a protocol needs.
    """
    run.require_text()
    test = dataset.open_test(None)
    if test is None:
        raise UserError(
            f"{dataset.name} has no test_split: say which {run.examples}, --test_split=test."
        )
    log.info("towers: %d %s of %s ...", len(test), run.examples, test.name)
    batches = dataset.eval_batches(test, run.network.evaluation.cuts)
    images = extract_features(run.project, batches, run.mesh)
    what = {
        "features": FEATURES,
        "train_data": f"captions of {run.dataset.name}/{run.dataset.split}",
        "test_data": test.name,
        "num_test": len(images.ids),
    }
    rows = []
    if "zero_shot" in protocols:
        rows.append(what | _zero_shot(run, test, images, templates))
    if "retrieval" in protocols:
        rows += [what | row for row in _retrieval(run, test, images)]
    return rows


def _zero_shot(
    run: Restored, test: Source, images: Features, templates: Sequence[str] | None
) -> dict[str, Any]:
    names = test.class_names
    if not names:
        raise UserError(
            f"--protocol=zero_shot asks for classes by their names, and {test.name} has none; "
            "--protocol=retrieval needs captions alone."
        )
    said: Sequence[str] = templates or getattr(test, "templates", TEMPLATES)
    if wrong := [template for template in said if "{}" not in template]:
        raise UserError(f"--template={wrong[0]!r} has no {{}} in place of the name of a class.")
    captions = [template.replace("{}", name) for name in names for template in said]
    rows = run.embed_captions(captions)
    classes = class_rows(rows.reshape(len(names), len(said), -1))
    with config_errors_at(f"--protocol=zero_shot on {test.name}"):
        labels = check_labels(images.labels, len(names))
    found = predict(images.features, classes)
    right = found == labels[:, None]
    return {
        "protocol": "zero_shot",
        "top1": float(right[:, :1].any(axis=1).mean()),
        "top5": float(right[:, :5].any(axis=1).mean()),
        "top1_chance": 1 / len(names),
        "num_classes": len(names),
        "templates": list(said),
    }


def _retrieval(run: Restored, test: Source, images: Features) -> list[dict[str, Any]]:
    said = [(n, text) for n, i in enumerate(images.ids) for text in readable_captions(test, int(i))]
    owners, here = np.array([n for n, _ in said], np.int64), np.arange(len(images.ids))
    if len(np.unique(owners)) < len(here):
        raise UserError(
            f"--protocol=retrieval needs a caption of each, and {test.name} has some for "
            f"{len(np.unique(owners))} of {len(here)} {run.examples}."
        )
    captions = run.embed_captions([text for _, text in said])
    seen = "audio" if has_sounds(test) else "image"
    both_ways = {
        f"{seen}_to_text": recalls(images.features, captions, here, owners),
        f"text_to_{seen}": recalls(captions, images.features, owners, here),
    }
    return [
        {
            "protocol": protocol,
            **{f"top{k}": share for k, share in found.items()},
            "top1_chance": 1 / len(here),  # of either: a caption has one image
            "num_captions": len(captions),
        }
        for protocol, found in both_ways.items()
    ]
