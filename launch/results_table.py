"""Prints the table of published and measured accuracies, or writes it into docs/recipes.md.

  python launch/results_table.py [--write]

Each recipe below says what is published for which of its variants (PUBLISHED) and what was
measured with this code (MEASURED), as top-1 on the validation images in %.
"""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

from launch.pages import DOCS, replace_between
from simclr_jax.models.published import NETWORKS, split_variant

ROOT = Path(__file__).parents[1]
PAGE = DOCS / "recipes.md"
START, END = "<!-- results -->\n", "<!-- /results -->\n"
COLUMNS = {  # (recipe, share of the labels) -> title
    ("linear_probe", "1"): "linear",
    ("finetune", "0.01"): "fine-tuned, 1 %",
    ("finetune", "0.1"): "10 %",
    ("finetune", "1"): "100 %",
    ("supervised", "1"): "supervised",
    ("distill", "0.01"): "distilled, 1 %",
    ("distill", "0.1"): "distilled, 10 %",
}
BEFORE = """\
The networks of both papers are variants of the recipes for ImageNet, all of the same `train`
verb. With the name of a network from the table below:

| recipe | step | starts from |
|---|---|---|
| `simclr_imagenet.py:NETWORK` | pretraining; `NETWORK,memory` with the momentum memory of v2 | |
| `linear_probe.py:NETWORK` | linear classifier on the frozen encoder | pretraining |
| `finetune.py:NETWORK,fraction=F` | fine-tuning with a share F = 0.01, 0.1 or 1 of the labels | \
pretraining |
| `supervised.py:NETWORK` | the baseline, from scratch with all labels | |
| `distill.py:NETWORK,fraction=F` | a student without labels; `NETWORK,self,fraction=F` for one as \
large as its teacher | fine-tuning with F = 0.01 or 0.1 |

A start is named on the command line: `--config.warm_start.checkpoint=WORKDIR`, and for
`distill.py` `--config.method.teacher=WORKDIR`. An imported official checkpoint is a WORKDIR, too.
The table shows top-1 on the validation images of ImageNet in %, published / measured with this
code. "Not run" means that nobody has run that recipe with this code yet.

"""
AFTER = """
Where each published number comes from stands in `simclr_jax/models/published.py`. Those of v1 for
1 %, and the distilled ones but for ResNet-50 1x, are recalled from the papers and were not
verified. The published v2 networks were pretrained with the momentum memory, which the released
code lacks; without it `v2_r50_1x` reaches 71.1 instead of 71.7, says its author.
`python launch/results_table.py --write` makes this part of the page.
"""


def recipe(name: str) -> ModuleType:
    """Imports configs/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section() -> str:
    """Returns what stands between the two marks in docs/recipes.md."""
    published, measured = {}, {}
    for name in dict.fromkeys(name for name, _ in COLUMNS):
        module = recipe(name)
        for numbers, cells in ((module.PUBLISHED, published), (module.MEASURED, measured)):
            for variant, top1 in numbers.items():
                network, options = split_variant(variant, module.VARIANTS)
                cells[network, (name, options.get("fraction", "1"))] = top1
    rows = [["network", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for network in NETWORKS:
        cells = [(network, column) for column in COLUMNS]
        shown = [
            f"{published[cell]} / {measured.get(cell, 'not run')}" if cell in published else "-"
            for cell in cells
        ]
        rows.append([f"`{network}`", *shown])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return BEFORE + table + AFTER


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the table in docs/recipes.md")
    if not parser.parse_args().write:
        print(section(), end="")
        return
    replace_between(PAGE, START, END, section())


if __name__ == "__main__":
    main()
