"""What the log says of a run at its start: its images, its gradient cache, where it goes on."""

import logging

import jax

from simclr_jax.build.experiment import Experiment
from simclr_jax.data.classes import quote
from simclr_jax.data.look import beside_notes, look
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Source, examples_of, has_sounds, has_texts
from simclr_jax.data.text import tokenizer_of

log = logging.getLogger(__name__)


def announce_images(experiment: Experiment) -> None:
    """Says what is trained and judged on, and warns of images that would teach nothing."""
    source, test = experiment.source, experiment.test_source
    examples = examples_of(source)
    log.info(
        "Trains on %s, %d %s, %s; %s.",
        source.name,
        len(source),
        examples,
        f"classes {quote(source.class_names)}" if source.class_names else "without labels",
        f"judged on {test.name}, {len(test)} {examples}"
        if test is not None
        else "nothing is judged",
    )
    if has_texts(source):
        return
    notes = (
        beside_notes(source, experiment.dataset.kind)
        if has_sounds(source)
        else look(experiment.dataset, source, view_size=experiment.policy.size)
    )
    for note in notes:
        log.warning("%s", note)


def announce_unreadable(experiment: Experiment, quarantine: Quarantine) -> None:
    """Says how many images cannot be read so far; nothing if all can."""
    if quarantine.count:
        log.warning(
            "%d of %d %s cannot be read: others stand in for them, and %s names them.",
            quarantine.count, len(experiment.source), examples_of(experiment.source),
            quarantine.path,
        )  # fmt: skip


def announce_cut_captions(source: Source) -> None:
    """Says how many captions were longer than the context; nothing if none was."""
    tokenizer = tokenizer_of(source)
    if tokenizer is not None and tokenizer.num_cut:
        log.warning(
            "Captions were cut to %d tokens %d times; --config.data.captions.context=N keeps more.",
            tokenizer.context, tokenizer.num_cut,
        )  # fmt: skip


def announce_grad_cache(experiment: Experiment) -> None:
    """Says what goes through the network at a time; nothing without a gradient cache."""
    if experiment.method.grad_cache_chunks == 1:
        return
    normalizes = (
        jax.tree.leaves(experiment.network.shapes["batch_stats"])
        and experiment.method.train_batch_norm
    )
    log.info(
        "Gradient cache: the network sees %d parts of %d %s, the loss all %d. %s",
        experiment.method.grad_cache_chunks,
        experiment.dataset.batch_size // experiment.method.grad_cache_chunks,
        examples_of(experiment.source),
        experiment.dataset.batch_size,
        "BatchNorm normalises each part with its own statistics; everything else is exact."
        if normalizes
        else "The gradient is that of the whole batch.",
    )


def announce_resume(experiment: Experiment, first_step: int) -> None:
    """Says at which step a run goes on, or that it is complete."""
    if first_step == experiment.num_steps:
        log.info(
            "The run is complete: step %d of %d. To train on, raise --config.run.epochs.",
            first_step, experiment.num_steps,
        )  # fmt: skip
    else:
        log.info(
            "The run is resumed: step %d of %d, learning rate %.3g.",
            first_step, experiment.num_steps, experiment.schedule(first_step),
        )  # fmt: skip
