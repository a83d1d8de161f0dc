"""Writes D/report.html: one page that shows what a run learned, for people.

python -m simclr_jax report --workdir=runs/digits
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from simclr_jax.build.parts import Parts, augmented_views, parts
from simclr_jax.cli import app, trained
from simclr_jax.core.errors import UserError
from simclr_jax.data.decode import decode
from simclr_jax.data.records import Source
from simclr_jax.evals.features import extract_features
from simclr_jax.report.contents import Embedding, ReportContents
from simclr_jax.report.page import write_report
from simclr_jax.train.metrics import read_metrics

MAX_IMAGES = 1000  # in the map and among the neighbours
THUMBNAIL_PX = 64

WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_report, argv, required=("workdir",))


def _report() -> None:
    run, workdir = trained.load(WORKDIR.value), epath.Path(WORKDIR.value)
    if "method" not in run.config:
        raise UserError(f"{workdir} holds an import, not a run: there is no training to report.")
    p = parts(run.config)
    metrics = read_metrics(WORKDIR.value)
    results = workdir / "results.json"
    encoder = {"name": p.config["encoder"]["name"], **p.config["encoder"]}
    encoder.pop("remat", None)  # how it was trained, and not what it is
    path = workdir / "report.html"
    write_report(
        ReportContents(
            title=f"{p.config['method']['name']} on {p.source.name}",
            dataset=p.source.name,
            num_images=len(p.source),
            encoder=", ".join(_phrase(key, value) for key, value in encoder.items()),
            num_params=sum(x.size for x in jax.tree.leaves(run.variables["params"]["encoder"])),
            epochs=round(run.step * p.dataset.batch_size / len(p.source), 1),
            batch_size=p.dataset.batch_size,
            devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            wall_seconds=metrics[-1].get("seconds") if metrics else None,
            labels_used=_labels_used(p),
            config=p.config,
            metrics=metrics,
            results=json.loads(results.read_text()) if results.exists() else (),
            class_names=p.source.class_names,
            embedding=_embedding(run, p),
            views=augmented_views(p, 12),
        ),
        path,
    )
    print(f"Written to {path}")


def _phrase(key: str, value: Any) -> str:
    return str(value) if key == "name" else f"{key} {value}"


def _labels_used(p: Parts) -> str:
    if p.network.model.classifier is None:
        return "none"
    return "what its teacher says" if "teacher" in p.config["method"] else f"{len(p.source):,}"


def _embedding(run: trained.Trained, p: Parts) -> Embedding:
    source = p.test_source or p.source  # those that were not trained on, if there are any
    num_shown = min(MAX_IMAGES, len(source))
    chosen = np.arange(num_shown) * len(source) // num_shown
    batches = p.dataset.eval_batches(source, indices=chosen)
    features = extract_features(run.encode, batches, p.mesh)
    side_px = min(THUMBNAIL_PX, p.dataset.canvas)
    return Embedding(
        features=features.features,
        labels=features.labels,
        names=[source[int(i)].name for i in features.ids],
        thumbnails=np.stack([_thumbnail(source, int(i), side_px) for i in features.ids]),
    )


def _thumbnail(source: Source, index: int, side_px: int) -> np.ndarray:
    return decode(source[index].image, canvas=side_px)[0]
