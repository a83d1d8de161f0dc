"""The networks of the SimCLR papers, and the accuracy that was published for them.

All numbers are top-1 on the validation images of ImageNet, in %. Their sources:

- v2, but for distillation: README of the official code (github.com/google-research/simclr),
  which repeats Table 1 of Chen et al. 2020, https://arxiv.org/abs/2006.10029.
- v1, linear: the same README; Table 6 of Chen et al. 2020, https://arxiv.org/abs/2002.05709 has
  69.3, 74.2 and 76.5.
- v1, fine-tuned with 10 % and 100 % of the labels: the official code's evaluation of its own
  checkpoints, tf2/colabs/imagenet_results.ipynb. The paper has 65.6, 71.7 and 74.4 for 10 %.
- v1, fine-tuned with 1 %: the paper alone; there is no checkpoint.
- Distilled: the v2 paper; its abstract has the numbers of ResNet-50.
"""

import dataclasses
from collections.abc import Mapping, Sequence

SK = 0.0625
# Share of the labels -> data set. The shares are lists of images that the official code fixed.
IMAGENET = {
    "0.01": "tfds/imagenet2012_subset/1pct",
    "0.1": "tfds/imagenet2012_subset/10pct",
    "1": "tfds/imagenet2012",
}


@dataclasses.dataclass(frozen=True)
class PublishedNetwork:
    """An encoder and its published accuracies.

    Attributes:
      depth: depth of the ResNet.
      width: width of the ResNet.
      sk_ratio: ratio of its selective kernels; 0 if it has none.
      linear: accuracy of a linear classifier on the frozen, pretrained encoder.
      finetuned: accuracies of the pretrained network fine-tuned with 1 %, 10 % and 100 % of the
        labels.
      supervised: accuracy of the network trained from scratch with all labels; None if not
        published.
      distilled: accuracies of the network as the student of v2_r152_3x_sk fine-tuned with 1 % and
        10 % of the labels; empty if not published. v2_r152_3x_sk was its own student first, and
        the others learned from that student.
    """

    depth: int
    width: float
    sk_ratio: float
    linear: float
    finetuned: tuple[float, float, float]
    supervised: float | None = None
    distilled: tuple[float, ...] = ()


NETWORKS = {
    # The first of the three fine-tuned numbers is recalled from the paper and was not verified.
    "v1_r50_1x": PublishedNetwork(50, 1.0, 0.0, 69.1, (48.3, 65.8, 75.6)),
    "v1_r50_2x": PublishedNetwork(50, 2.0, 0.0, 74.2, (58.5, 71.6, 79.2)),
    "v1_r50_4x": PublishedNetwork(50, 4.0, 0.0, 76.6, (63.0, 74.5, 80.8)),
    "v2_r50_1x": PublishedNetwork(50, 1.0, 0.0, 71.7, (57.9, 68.4, 76.3), 76.6, (73.9, 77.5)),
    "v2_r50_1x_sk": PublishedNetwork(50, 1.0, SK, 74.6, (64.5, 72.1, 78.7), 78.5),
    "v2_r50_2x": PublishedNetwork(50, 2.0, 0.0, 75.6, (66.3, 73.9, 79.1), 77.8),
    # The distilled numbers of this network are recalled from the paper and were not verified.
    "v2_r50_2x_sk": PublishedNetwork(50, 2.0, SK, 77.7, (70.6, 77.0, 81.3), 79.3, (75.9, 80.2)),
    "v2_r101_1x": PublishedNetwork(101, 1.0, 0.0, 73.6, (62.1, 71.4, 78.2), 78.0),
    "v2_r101_1x_sk": PublishedNetwork(101, 1.0, SK, 76.3, (68.3, 75.1, 80.6), 79.6),
    "v2_r101_2x": PublishedNetwork(101, 2.0, 0.0, 77.0, (69.1, 75.8, 80.7), 78.9),
    "v2_r101_2x_sk": PublishedNetwork(101, 2.0, SK, 79.0, (73.2, 78.8, 82.4), 80.1),
    "v2_r152_1x": PublishedNetwork(152, 1.0, 0.0, 74.5, (64.0, 73.0, 79.3), 78.3),
    "v2_r152_1x_sk": PublishedNetwork(152, 1.0, SK, 77.2, (70.0, 76.5, 81.3), 79.9),
    "v2_r152_2x": PublishedNetwork(152, 2.0, 0.0, 77.4, (70.2, 76.6, 81.1), 79.1),
    "v2_r152_2x_sk": PublishedNetwork(152, 2.0, SK, 79.4, (74.2, 79.4, 82.9), 80.4),
    # So are the distilled numbers of this one, its own student.
    "v2_r152_3x_sk": PublishedNetwork(152, 3.0, SK, 79.8, (74.9, 80.1, 83.1), 80.5, (76.6, 80.9)),
}


def split_variant(variant: str, known: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, str]]:
    """Splits a recipe's variant "NAME[,OPTION...]", such as "v2_r50_1x_sk,fraction=0.01".

    Args:
      variant: what stands after the colon of --config=FILE:VARIANT; without a width, 1x is meant.
      known: name -> the options that it can have, each "KEY" or "KEY=VALUE".

    Returns:
      The name, and key -> value of its options; the value of a mere "KEY" is empty.

    Raises:
      ValueError: if there is no such name or option, or a key comes twice; it says what there is.
    """
    name, *options = variant.split(",")
    name = name if name in known or f"{name}_1x" not in known else f"{name}_1x"
    values = {key: value for key, _, value in (option.partition("=") for option in options)}
    if name in known and set(options) <= set(known[name]) and len(values) == len(options):
        return name, values
    names_by_options: dict[tuple[str, ...], list[str]] = {}
    for other, its_options in known.items():
        names_by_options.setdefault(tuple(its_options), []).append(other)
    raise ValueError(
        f"Unknown variant {variant!r}; this recipe knows "
        + "; ".join(_phrase(names, its) for its, names in names_by_options.items())
    )


def _phrase(names: Sequence[str], options: Sequence[str]) -> str:
    also = " or ".join(f"',{option}'" for option in options)
    return ", ".join(names) + (f" (also with {also})" if also else "")
