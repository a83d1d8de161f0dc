"""Whether a run learns, in words: what its metrics say, what they rest on, and what to try.

A verdict on the loss waits until the warm-up and a tenth of the run are over.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Rows = Sequence[Mapping[str, Any]]

LAST = 0.1  # share of the rows that a verdict is about; the median of so many is not noise
EARLY = 0.1  # share of a run before which even one that goes well may not have left chance

# At the usual temperatures, 0.1 to 0.5, a perfect encoder ends a third below chance and more, and
# a batch differs from the next by less than a hundredth.
NEAR_CHANCE = 0.98
# Rows that point everywhere deviate by 1 / sqrt(d) in each of d dimensions, collapsed ones by 0
# (SimSiam, https://arxiv.org/abs/2011.10566, Section 4.1 and Figure 2); this is a share of that.
COLLAPSED = 0.1
# Share of what was gained on chance. Less is lost where a target or a queue begins to move.
GIVEN_BACK = 0.5
GRADIENT_GROWTH = 100.0  # LARS and AdamW hide its scale, but a loss that goes well has no such jump
# Length of one step as a share of that of all parameters: recipes that train stay at a hundredth
# or below, but for small networks with AdamW.
LONG_STEP = 0.1
# The same, of all steps together. Kernels must turn from where they were drawn to learn anything.
SHORT_WAY = 0.1
# Share of the time between two lines. Images that come in time are there before they are asked for,
# and the share is next to 0; where they don't, it is soon the larger part.
STARVED = 0.25
# Of pairs. Where BatchNorm's statistics tell which images belong together, nearly all are soon
# matched while kNN gets worse (MoCo, https://arxiv.org/abs/1911.05722, Appendix A.9).
SOLVED = 0.99
LONG_WARMUP = 0.5  # of the run; published recipes take a tenth or less
# Adam's second moment is a mean over a thousand steps, the smallest recipe takes 1,500 steps and
# those of the papers 10,000 and more.
FEW_STEPS = 500
# Where nothing is learned.
LOOK = {
    "images": "look at the views on the page that the verb report writes: two of one image must "
    "show one thing",
    "sounds": "look at the spectrograms on the page that the verb report writes: what tells one "
    "sound from another must be seen",
    "texts": "read some of the texts: equal ones of a batch are each other's negatives",
}


class Finding(NamedTuple):
    """Something that is wrong with a run.

    Attributes:
      what: what is wrong, in a sentence.
      figures: figures that it rests on.
      advice: what to try, in settings.
    """

    what: str
    figures: str
    advice: str


class Verdict(NamedTuple):
    """What the metrics of a run say.

    Attributes:
      findings: what is wrong, the worst first.
      figures: name and value of what the verdict rests on, for people.
      early: whether it is too early to judge the loss.
    """

    findings: list[Finding]
    figures: dict[str, str]
    early: bool

    @property
    def headline(self) -> str:
        """The verdict in a sentence or two."""
        if self.findings:
            return " ".join(finding.what for finding in self.findings)
        if self.early:
            return "Nothing is wrong so far; it is too early to judge the loss."
        return "Nothing wrong was found."


def judge(rows: Rows, config: Mapping[str, Any], examples: str) -> Verdict | None:
    """Judges a run by what it has logged.

    Args:
      rows: lines of `metrics.jsonl`, in order of step; a line may lack any key but "step".
      config: the complete config of the run.
      examples: what it was trained on: "images", "sounds" or "texts".

    Returns:
      None if no row has a step and an epoch.
    """
    rows = [
        row for row in rows if row["step"] > 0 and _is_number(row, "epoch") and row["epoch"] > 0
    ]
    if not rows:
        return None
    epochs, warmup = config["run"]["epochs"], config["schedule"]["warmup_epochs"]
    step, epoch = rows[-1]["step"], rows[-1]["epoch"]
    num_steps = int(round(epochs * step / epoch, 6)) + 1  # but for a run that was made longer
    early = epoch < epochs and epoch < max(warmup, EARLY * epochs)
    figures = {"steps": f"{step:,} of about {num_steps:,}", **_figures(rows, examples)}
    findings = [*_not_finite(rows), *_colourless(rows)]
    if not early:
        dim = (config["heads"]["projector"] or {"output_dim": None})["output_dim"]
        stuck = [*_collapsed(rows, dim, examples), *_at_chance(rows, examples), *_diverging(rows)]
        findings += [*stuck, *(_rate(rows) if stuck else []), *_leak(rows, examples)]
    if config["heads"]["classifier"] is None:  # a classifier may be done after a few
        findings += _few_steps(num_steps, epochs)
    return Verdict(
        [*findings, *_long_warmup(warmup, epochs), *_starved(rows, examples)], figures, early
    )


def _is_number(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float)  # somebody may have edited the file


def _values(rows: Rows, key: str) -> Float[np.ndarray, " n"]:
    values = np.array([row[key] for row in rows if _is_number(row, key)], np.float64)
    return values[np.isfinite(values)]


def _end(values: Float[np.ndarray, " n"]) -> float:
    return float(np.median(values[-max(1, round(LAST * len(values))) :]))


def _figures(rows: Rows, examples: str) -> dict[str, str]:
    names = {
        "loss": "loss",
        "loss_chance": "loss at chance",
        "contrastive_accuracy": "pairs matched in the batch",
        "positive_similarity": "similarity of positives",
        "negative_similarity": "similarity of negatives",
        "projection_std": "deviation of projections",
        "participation_ratio": "directions that they use",
        "norm/grads": "norm of the gradient",
        "norm/updates": "norm of an update",
        "norm/params": "norm of the parameters",
        "pairs_per_second": f"{examples} per second",
        "wait_share": f"share of waits for {examples}",
        "goodput": "share of all time spent in steps",
    }
    found = {name: _values(rows, key) for key, name in names.items()}
    return {name: f"{_end(values):.4g}" for name, values in found.items() if len(values)}


def _not_finite(rows: Rows) -> list[Finding]:
    steps = [row["step"] for row in rows if row.get("health/finite") == 0]
    if not steps:
        return []
    return [
        Finding(
            "The loss or a gradient was not finite.",
            f"first at step {steps[0]:,}",
            "lower config.schedule.base_lr or raise config.schedule.warmup_epochs",
        )
    ]


def _colourless(rows: Rows) -> list[Finding]:
    shares = _values(rows, "coloured")
    if not len(shares) or shares.max() > 0:
        return []
    return [
        Finding(
            "No image had a colour: there was nothing to learn from.",
            f"their share is 0 in all lines that tell it, {len(shares):,}",
            "train on images with colours, or with a method that needs none, such as simclr",
        )
    ]


def _collapsed(rows: Rows, dim: int | None, examples: str) -> list[Finding]:
    deviations = _values(rows, "projection_std")
    if dim is None or not len(deviations):
        return []
    most, last = dim**-0.5, _end(deviations)
    if last >= COLLAPSED * most:
        return []
    return [
        Finding(
            f"The projections have collapsed: all {examples} look nearly the same to the network.",
            f"they deviate by {last:.2g}, and {most:.2g} is most in {dim} dimensions",
            "lower config.schedule.base_lr, raise config.schedule.warmup_epochs, or start from the "
            "recipe of the method: heads without norms and targets that move fast collapse, too",
        )
    ]


def _at_chance(rows: Rows, examples: str) -> list[Finding]:
    losses, chances = _values(rows, "loss"), _values(rows, "loss_chance")
    if not len(losses) or not len(chances) or _end(losses) < NEAR_CHANCE * _end(chances):
        return []
    return [
        Finding(
            "The loss is at chance: nothing has been learned.",
            f"{_end(losses):.4g}, and chance is {_end(chances):.4g}",
            f"{LOOK[examples]}; then try config.schedule.base_lr three times lower and higher",
        )
    ]


def _leak(rows: Rows, examples: str) -> list[Finding]:
    """Returns whether pairs are matched by what does not help to recognise an example."""
    matched, accuracies = _values(rows, "contrastive_accuracy"), _values(rows, "knn_top1")
    if len(accuracies) < 2 or not len(matched) or _end(matched) < SOLVED:
        return []
    first, last = accuracies[0], accuracies[-1]
    if last > first:
        return []
    return [
        Finding(
            "Pairs are matched without features that help: statistics leak, or views have a "
            "shortcut.",
            f"{_end(matched):.1%} are matched, and kNN went from {first:.1%} to {last:.1%}",
            "raise config.data.batch_size, so that BatchNorm tells less of each of the "
            f"{examples}, or set config.encoder.norm=layer; on the page that the verb report "
            "writes, look at what two views of one share beside what they show",
        )
    ]


def _diverging(rows: Rows) -> list[Finding]:
    rows = [row for row in rows if row.get("assigned") != 0]  # without clusters nothing is trained
    advice = "lower config.schedule.base_lr or raise config.schedule.warmup_epochs"
    findings = []
    losses, chances = _values(rows, "loss"), _values(rows, "loss_chance")
    if len(losses) >= 1 / LAST and len(chances):  # without a fixed scale it may well rise
        parts = np.array_split(losses, round(1 / LAST))
        lowest, chance = min(float(np.median(part)) for part in parts), _end(chances)
        gained = lowest < NEAR_CHANCE * chance
        if gained and _end(losses) - lowest > GIVEN_BACK * (chance - lowest):
            findings.append(
                Finding(
                    "The loss rises: more than half of what had been learned is lost again.",
                    f"it was {lowest:.4g}, is {_end(losses):.4g}, and chance is {chance:.4g}",
                    advice,
                )
            )
    norms = _values(rows, "norm/grads")
    if len(norms) and _end(norms) > GRADIENT_GROWTH * np.median(norms):
        findings.append(
            Finding(
                "The gradient grows without bound.",
                f"its norm is {_end(norms):.2g} at the end, and {np.median(norms):.2g} in the "
                "middle of all",
                advice,
            )
        )
    return findings


def _rate(rows: Rows) -> list[Finding]:
    """Returns whether the learning rate explains why nothing is learned."""
    both = [
        row for row in rows if all(_is_number(row, key) for key in ("norm/updates", "norm/params"))
    ]
    lengths = _values(both, "norm/params")
    if not len(lengths) or not lengths.min() > 0:
        return []
    share = _values(both, "norm/updates").mean() / lengths.mean()
    way = share * rows[-1]["step"]
    if share > LONG_STEP:
        return [
            Finding(
                "The learning rate is too high.",
                f"a step moves the parameters by {share:.0%} of their length; {LONG_STEP:.0%} is "
                "much",
                "lower config.schedule.base_lr",
            )
        ]
    if way < SHORT_WAY and rows[-1]["step"] >= FEW_STEPS:
        return [
            Finding(
                "The learning rate is too low.",
                f"all steps together moved the parameters by {way:.2%} of their length at most; "
                f"{SHORT_WAY:.0%} is little",
                "raise config.schedule.base_lr, or config.run.epochs",
            )
        ]
    return []


def _few_steps(num_steps: int, epochs: int) -> list[Finding]:
    if num_steps >= FEW_STEPS:
        return []
    enough = -(-epochs * FEW_STEPS // num_steps)
    return [
        Finding(
            "The run is too short to learn much.",
            f"{num_steps:,} steps in {epochs:,} epochs; below {FEW_STEPS:,} are hardly any",
            f"raise config.run.epochs to {enough:,} or more",
        )
    ]


def _long_warmup(warmup: float, epochs: int) -> list[Finding]:
    if warmup <= LONG_WARMUP * epochs:
        return []
    return [
        Finding(
            "The learning rate warms up for most of the run.",
            f"{warmup:g} of {epochs:,} epochs",
            "lower config.schedule.warmup_epochs to a tenth of the run, or raise config.run.epochs",
        )
    ]


def _starved(rows: Rows, examples: str) -> list[Finding]:
    shares = _values(rows, "wait_share")
    if not len(shares) or np.median(shares) <= STARVED:
        return []
    return [
        Finding(
            f"Training waits for {examples}.",
            f"it does so for {np.median(shares):.0%} of the time",
            "raise config.data.num_threads up to the cores that are there, read from a local disk, "
            f"or keep the {examples} smaller; with as many steps on fewer chips the run costs less",
        )
    ]
