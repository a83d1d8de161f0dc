"""Writes D/report.html: one page that shows what a run learned, for people.

python -m simclr_jax report --workdir=runs/digits

Images that storage is slow to give are waited for as in `train`: --config.data.outage_seconds=3600.
"""

import io
import wave
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Int, UInt8

from simclr_jax.build.experiment import Experiment, build_experiment
from simclr_jax.build.preview import augmented_views
from simclr_jax.build.resolve import frozen_networks
from simclr_jax.cli import app, own_encoder, reading
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import require_writable
from simclr_jax.data.decode import as_rgb, decode
from simclr_jax.data.quarantine import read_quarantine
from simclr_jax.data.reading import Reader
from simclr_jax.data.records import Source, examples_of, has_sounds
from simclr_jax.data.sounds import decode_sound
from simclr_jax.data.subsets import count_labelled
from simclr_jax.data.text import readable_captions
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.results import own_first, read_results
from simclr_jax.report.contents import Embedding, ReportContents
from simclr_jax.report.page import write_report
from simclr_jax.report.towers import Pairs
from simclr_jax.train.metrics import read_metrics
from simclr_jax.train.verdict import judge
from simclr_jax.trained import restored
from simclr_jax.trained.groups import read_groups

MAX_IMAGES = 1000  # in the map and among the neighbours
THUMBNAIL_PX = 64
PLAY_RATE, PLAY_SECONDS = 16_000, 3  # so that a page of forty sounds has 5 MB

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return reading.run(_report, argv, required=("workdir",), keys=reading.PATIENCE)


def _report(settings: reading.Settings) -> None:
    run, workdir = restored.load(WORKDIR.value, STEP.value), epath.Path(WORKDIR.value)
    if "method" not in run.config:
        raise UserError(f"{workdir} holds an import, not a run: there is no training to report.")
    path = workdir / "report.html"
    require_writable(path, "--workdir")
    experiment = build_experiment(run.config | {"data": run.config["data"] | settings})
    metrics, own = read_metrics(WORKDIR.value), experiment.test_source
    examples = examples_of(experiment.policy.cuts)
    encoder = {"name": experiment.config["encoder"]["name"], **experiment.config["encoder"]}
    encoder.pop("remat", None)  # how it was trained, and not what it is
    embedding, ids = _embedding(run, experiment)
    write_report(
        ReportContents(
            title=f"{experiment.config['method']['name']} on {experiment.source.name}",
            dataset=experiment.source.name,
            num_images=len(experiment.source),
            num_unreadable=len(read_quarantine(workdir)),
            encoder=", ".join(_phrase(key, value) for key, value in encoder.items()),
            num_params=sum(x.size for x in jax.tree.leaves(run.variables["params"]["encoder"])),
            epochs=round(run.step * experiment.dataset.batch_size / len(experiment.source), 1),
            batch_size=experiment.dataset.batch_size,
            devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            wall_seconds=metrics[-1].get("seconds") if metrics else None,
            labels_used=_labels_used(experiment),
            config=experiment.config,
            metrics=metrics,
            verdict=judge(metrics, experiment.config, examples),
            results=own_first(read_results(workdir), None if own is None else own.name),
            groups=read_groups(workdir),
            class_names=experiment.source.class_names,
            embedding=embedding,
            examples=examples,
            pairs=_pairs(run, experiment, ids, embedding),
            views=augmented_views(experiment, 12),
        ),
        path,
    )
    print(f"Written to {path}")


def _phrase(key: str, value: Any) -> str:
    return str(value) if key == "name" else f"{key} {value}"


def _labels_used(experiment: Experiment) -> str:
    if frozen_networks(experiment.config["method"]["name"]):
        return "what its teacher says"
    return f"{count_labelled(experiment.source):,}" if experiment.method.needs_labels else "none"


def _embedding(
    run: restored.Restored, experiment: Experiment
) -> tuple[Embedding, Int[np.ndarray, " n"]]:
    """Returns what is shown of test images, and which they are."""
    source = (
        experiment.test_source or experiment.source
    )  # those that were not trained on, if there are any
    num_shown = min(MAX_IMAGES, len(source))
    chosen = np.arange(num_shown) * len(source) // num_shown
    batches = experiment.dataset.eval_batches(
        source, experiment.network.evaluation.cuts, indices=chosen
    )
    features = extract_features(run.encode, batches, experiment.mesh)
    reader = Reader(source, experiment.dataset.patience)
    names, small, rendering = [], [], experiment.dataset.rendering
    for i in features.ids:
        record = reader.record(int(i))
        names.append(record.name)
        if not has_sounds(source):
            pixels = decode(record.image, canvas=THUMBNAIL_PX, rendering=rendering).pixels
            small.append(as_rgb(pixels))
    shown = Embedding(
        features=features.features,
        labels=features.labels,
        names=names,
        thumbnails=_thumbnails(small) if small else _spectrograms(run, experiment, source, chosen),
        examples=examples_of(source),
    )
    return shown, features.ids


def _spectrograms(
    run: restored.Restored, experiment: Experiment, source: Source, ids: Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns small pictures of sounds: time to the right, pitch upwards."""
    view = run.network.evaluation
    batches = experiment.dataset.eval_batches(source, view.cuts, indices=ids)
    rows = extract_features(run.network.pixels, batches, experiment.mesh).features
    every = -(-view.shape[0] // THUMBNAIL_PX)
    pictures = rows.reshape(-1, *view.shape)[:, ::every, ::-1].swapaxes(1, 2)
    return (255 * pictures.clip(0, 1)).astype(np.uint8).repeat(3, axis=3)


def _pairs(
    run: restored.Restored,
    experiment: Experiment,
    ids: Int[np.ndarray, " n"],
    embedding: Embedding,
) -> Pairs | None:
    """Returns the same images with their captions, None if the run has no text tower."""
    if run.model.text is None:
        return None
    source = experiment.test_source or experiment.source
    batches = experiment.dataset.eval_batches(
        source, experiment.network.evaluation.cuts, indices=ids
    )
    rows = extract_features(run.project, batches, experiment.mesh)
    of_images = [readable_captions(source, int(i)) for i in ids]
    captions = [*dict.fromkeys(caption for said in of_images for caption in said)]
    return Pairs(
        image_rows=rows.features,
        thumbnails=embedding.thumbnails,
        captions=captions,
        caption_rows=run.embed_captions(captions),
        belongs=np.array([[caption in said for caption in captions] for said in of_images]),
        play=_player(experiment, source, ids) if has_sounds(source) else None,
        examples=examples_of(source),
    )


def _player(
    experiment: Experiment, source: Source, ids: Int[np.ndarray, " n"]
) -> Callable[[int], bytes]:
    """Returns what makes a WAV file of the beginning of one of these sounds."""
    reader = Reader(source, experiment.dataset.patience)

    def play(index: int) -> bytes:
        samples = decode_sound(reader.record(int(ids[index])), PLAY_RATE)
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setparams((1, 2, PLAY_RATE, 0, "NONE", ""))
            file.writeframes(samples[: PLAY_SECONDS * PLAY_RATE].astype("<i2").tobytes())
        return out.getvalue()

    return play


def _thumbnails(small: list[np.ndarray]) -> np.ndarray:
    """Returns images of one size, each at the top left of a black square."""
    side = max(max(pixels.shape[:2]) for pixels in small)
    out = np.zeros((len(small), side, side, 3), np.uint8)
    for square, pixels in zip(out, small, strict=True):
        square[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out
