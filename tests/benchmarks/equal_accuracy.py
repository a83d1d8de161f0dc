"""Equal settings, equal accuracy: this program and lightly train the same network on CIFAR-10.

  python tests/benchmarks/equal_accuracy.py --data=DIR --lightly_python=VENV/bin/python
  python tests/benchmarks/equal_accuracy.py --data=DIR --width=0.25 --set=optim.nesterov=true

DIR is the directory of TFDS data sets, VENV an environment with lightly and torchvision; without
it only this program trains. Both take the first 10,000 training images five times in batches of
256, with what `config` says, and are judged by the same kNN on the first 2,000 test images.
`--set` changes one setting of ours, to see what it is worth. A run that is in `--results` already
is not done again: a seed takes an hour or two on two cores at full width, and a quarter of the
width, or ImageNet's stem, which shrinks an image by four before the first block, a tenth of that.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from simclr_jax.build.experiment import Experiment, build_experiment, train_step
from simclr_jax.data.place import place_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.knn import knn_predict

DATA = flags.DEFINE_string("data", None, "Directory of TFDS data sets.", required=True)
SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Seeds to train with.")
STEM = flags.DEFINE_enum("stem", "cifar", ["cifar", "imagenet"], "First layers of the network.")
WIDTH = flags.DEFINE_float("width", 1.0, "Multiplies channels; only 1 with ImageNet's stem.")
LIGHTLY = flags.DEFINE_string("lightly_python", None, "Python of an environment with lightly.")
RESULTS = flags.DEFINE_string("results", None, "File that keeps results, one JSON line each.")
SET = flags.DEFINE_multi_string("set", [], "SECTION.KEY=JSON, a change of our settings.")


class Result(NamedTuple):
    """Accuracies of kNN before and after training, and how long it took."""

    before: float
    after: float
    seconds: float


def config(seed: int) -> dict[str, Any]:
    """Returns the settings that lightly's script has, too, in our words."""
    sections: dict[str, Any] = dict(
        run=dict(seed=seed, epochs=5),
        data=dict(name="tfds/cifar10", split="train[:10000]", test_split="test[:2000]"),
        augment=dict(name="simclr_cifar", size=32, color_strength=0.5, crop_sampler="area"),
        encoder=dict(name="resnet", depth=18, stem=STEM.value),
        heads=dict(projector=dict(num_layers=2, hidden_dim=512, output_dim=128)),
        method=dict(name="simclr", temperature=0.5),
        optim=dict(name="sgd", weight_decay=5e-4, momentum=0.9),
        schedule=dict(base_lr=0.12, scaling="none", warmup_epochs=0.0),
        evals={},
    )
    sections["data"].update(path=DATA.value, batch_size=256, canvas=32)
    sections["encoder"].update(kernel_init="he_fan_out", zero_init_residual=False)
    sections["heads"]["projector"].update(kernel_init="torch")
    if STEM.value == "imagenet":
        sections["encoder"].update(geometry="torchvision")
    sections["encoder"].update(width=WIDTH.value)
    sections["optim"].update(nesterov=False, decay_norms=True)
    for change in SET.value:
        path, _, value = change.partition("=")
        *parents, key = path.split(".")
        section = sections
        for name in parents:
            section = section[name]
        section[key] = json.loads(value)
    return sections


def train(experiment: Experiment) -> Result:
    """Trains with this program."""
    step, state = train_step(experiment), jax.jit(experiment.init)()
    before = judge(*features(experiment, state))
    batches = experiment.dataset.train_batches(
        experiment.source,
        experiment.policy.cuts,
        seed=experiment.run.seed,
        first_step=0,
        num_steps=experiment.num_steps,
        quarantine=Quarantine(),
    )
    start, metrics = time.monotonic(), {}
    for i, batch in enumerate(place_batches(batches, experiment.mesh)):
        state, metrics = step(state, batch)
        if i % 39 == 38:
            print(f"  step {i + 1}: loss {float(metrics['loss']):.3f}", flush=True)
    jax.block_until_ready(state)
    seconds = time.monotonic() - start
    return Result(before, judge(*features(experiment, state)), seconds)


def features(experiment: Experiment, state: Any) -> tuple[Any, Any]:
    """Returns those of the training and of the test images."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    encode = lambda batch: experiment.network.encode(variables, batch)
    test = experiment.test_source
    assert test is not None
    train, test = (
        extract_features(
            encode,
            experiment.dataset.eval_batches(source, experiment.network.evaluation.cuts),
            experiment.mesh,
        )
        for source in (experiment.source, test)
    )
    return train, test


def judge(train: Any, test: Any) -> float:
    """Returns the accuracy of kNN with k = 20 and temperature 0.1 on the test images."""
    predicted = knn_predict(
        train.features, train.labels, test.features, num_classes=10, k=20, temperature=0.1
    )
    return float((np.asarray(predicted) == test.labels).mean())


def train_lightly(experiment: Experiment, python: str) -> Result:
    """Trains with lightly, on the same decoded images, in a process of its own."""
    test = experiment.test_source
    assert test is not None
    pixels = lambda batch: batch["image"].reshape(len(batch["image"]), -1)
    images = [
        extract_features(
            pixels,
            experiment.dataset.eval_batches(source, experiment.network.evaluation.cuts),
            experiment.mesh,
        )
        for source in (experiment.source, test)
    ]
    with tempfile.TemporaryDirectory() as directory:
        there, back = Path(directory) / "images.npz", Path(directory) / "features.npz"
        arrays = [x.features.astype(np.uint8).reshape(-1, 32, 32, 3) for x in images]
        np.savez(there, train=arrays[0], test=arrays[1])
        script = Path(__file__).with_name("equal_accuracy_lightly.py")
        arguments = [STEM.value, WIDTH.value, experiment.run.seed, experiment.num_steps]
        subprocess.run([python, script, there, back, *map(str, arguments)], check=True)
        with np.load(back) as found:
            before, after = (
                judge(*(x._replace(features=found[f"{when}_{split}"]) for x, split in pairs))
                for when in ("before", "after")
                for pairs in [list(zip(images, ("train", "test"), strict=True))]
            )
            return Result(before, after, float(found["seconds"]))


def settings(program: str, seed: int) -> dict[str, Any]:
    """Returns what tells a run from all others; `--set` is for our settings alone."""
    changes = sorted(SET.value) if program == "simclr_jax" else []
    return dict(program=program, seed=seed, stem=STEM.value, width=WIDTH.value, **{"set": changes})


def remembered(program: str, seed: int) -> Result | None:
    """Returns what `--results` holds of a run, None if nothing."""
    if not RESULTS.value or not Path(RESULTS.value).exists():
        return None
    for row in map(json.loads, Path(RESULTS.value).read_text().splitlines()):
        if row["settings"] == settings(program, seed):
            return Result(**row["result"])
    return None


def remember(program: str, seed: int, result: Result) -> None:
    """Adds a line to `--results`."""
    if RESULTS.value:
        row = {"settings": settings(program, seed), "result": result._asdict()}
        with Path(RESULTS.value).open("a") as file:
            file.write(json.dumps(row) + "\n")


def main(argv: Sequence[str]) -> None:
    """Prints the accuracies of each seed, and how far the means are apart."""
    del argv
    results: dict[str, list[Result]] = {}
    for seed in map(int, SEEDS.value):
        experiment = build_experiment(config(seed), jax.devices()[:1])
        runs = {"simclr_jax": lambda e=experiment: train(e)}
        if python := LIGHTLY.value:
            runs["lightly"] = lambda e=experiment, python=python: train_lightly(e, python)
        for name, run in runs.items():
            result = remembered(name, seed)
            if result is None:
                result = run()
                remember(name, seed, result)
            results.setdefault(name, []).append(result)
            print(
                f"{name:10}  seed {seed}  kNN before {result.before:.4f}  "
                f"after {result.after:.4f}  {result.seconds:.0f} s",
                flush=True,
            )
    means = {name: np.mean([r.after for r in runs]) for name, runs in results.items()}
    for name, runs in results.items():
        after = [r.after for r in runs]
        spread = f" +- {np.std(after, ddof=1):.4f}" if len(after) > 1 else ""
        print(f"{name:10}  mean {means[name]:.4f}{spread} of {len(after)} seeds")
    if len(means) > 1:
        print(f"difference  {means['simclr_jax'] - means['lightly']:+.4f}")


if __name__ == "__main__":
    app.run(main)
