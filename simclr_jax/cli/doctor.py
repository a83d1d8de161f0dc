"""Says whether a run learns, what that rests on, and what to try; during the run or after it.

python -m simclr_jax doctor --workdir=runs/digits
"""

from collections.abc import Sequence

from simclr_jax.build.network import evaluation_policy
from simclr_jax.build.schema import complete
from simclr_jax.cli import app, own_encoder
from simclr_jax.core.errors import UserError
from simclr_jax.data.records import examples_of
from simclr_jax.train.metrics import read_metrics
from simclr_jax.train.verdict import Finding, judge
from simclr_jax.train.workdir import load_config

WORKDIR = app.define_workdir()
own_encoder.define()


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code, which is 1 if something is wrong."""
    findings: list[Finding] = []
    code = app.run(lambda: findings.extend(_doctor()), argv, required=("workdir",))
    return code or (app.FAILED if findings else app.DONE)


def _doctor() -> list[Finding]:
    config = load_config(WORKDIR.value)
    if "method" not in config:
        raise UserError(f"{WORKDIR.value} holds an import, not a run: it has no metrics.")
    config = complete(config)
    examples = examples_of(evaluation_policy(config["augment"]).cuts)
    verdict = judge(read_metrics(WORKDIR.value), config, examples)
    if verdict is None:
        raise UserError(f"{WORKDIR.value} has no metrics yet: they come with the first step.")
    width = max(map(len, verdict.figures)) + 2
    for name, value in verdict.figures.items():
        print(f"{name:<{width}}{value}")
    print()
    if not verdict.findings:
        print(verdict.headline)
    for finding in verdict.findings:
        print(f"{finding.what} ({finding.figures})\n  Try: {finding.advice}.")
    return verdict.findings
