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

from simclr_jax import build
from simclr_jax.cli import app, trained
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
    run = trained.load(WORKDIR.value)
    parts, workdir = run.parts, epath.Path(WORKDIR.value)
    metrics = read_metrics(WORKDIR.value)
    results = workdir / "results.json"
    encoder = {"name": parts.config["encoder"]["name"], **parts.config["encoder"]}
    path = workdir / "report.html"
    write_report(
        ReportContents(
            title=f"{parts.config['method']['name']} on {parts.source.name}",
            dataset=parts.source.name,
            num_images=len(parts.source),
            encoder=", ".join(_phrase(key, value) for key, value in encoder.items()),
            num_params=sum(x.size for x in jax.tree.leaves(run.variables["params"])),
            epochs=round(run.step * parts.dataset.batch_size / len(parts.source), 1),
            batch_size=parts.dataset.batch_size,
            devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            wall_seconds=metrics[-1].get("seconds") if metrics else None,
            config=parts.config,
            metrics=metrics,
            results=json.loads(results.read_text()) if results.exists() else (),
            class_names=parts.source.class_names,
            embedding=_embedding(run),
            view_pairs=build.augmented_pairs(parts, 12),
        ),
        path,
    )
    print(f"Written to {path}")


def _phrase(key: str, value: Any) -> str:
    return str(value) if key == "name" else f"{key} {value}"


def _embedding(run: trained.Trained) -> Embedding:
    source = run.shown_source
    num_shown = min(MAX_IMAGES, len(source))
    chosen = np.arange(num_shown) * len(source) // num_shown
    batches = run.parts.dataset.eval_batches(source, indices=chosen)
    features = extract_features(run.encode, batches, run.parts.mesh)
    side_px = min(THUMBNAIL_PX, run.parts.dataset.canvas)
    return Embedding(
        features=features.features,
        labels=features.labels,
        names=[source[int(i)].name for i in features.ids],
        thumbnails=np.stack([_thumbnail(source, int(i), side_px) for i in features.ids]),
    )


def _thumbnail(source: Source, index: int, side_px: int) -> np.ndarray:
    return decode(source[index].image, canvas=side_px)[0]
