"""CLAP: sounds and captions, contrasted with all other pairs of the batch.

Wu et al. 2022, https://arxiv.org/abs/2211.06687 (LAION's CLAP). Top-1 of zero-shot classification
on ESC-50; it was not run here:

  variant  audio encoder  batch  epochs  data                                published
  laion    R50            2,304      45  633 k pairs, partly released         89.1 %, recalled
  midi     R18              128      18  built-in, extra audio: minutes on two cores

The published encoder is HTSAT-tiny, a Swin transformer, or PANN-14; here it is a ResNet-50 on the
same spectrograms, so the number belongs to another network. Spectrograms (48 kHz, 10 s, 64 bands),
rate, Adam without decay, epochs, 3,200 steps of warm-up and 96 pairs on each GPU are those of the
released training script and model file (LAION-AI/CLAP); 24 GPUs are recalled. Text there is a
RoBERTa-base that is trained already; here it begins from nothing. Give your own pairs, a table of
paths and captions, as --config.data.name and --config.data.path.

midi has 24 notes on each of 128 instruments, and 473 pairs of note and instrument to be judged on.

  launch/midi_instruments.sh .venv/bin/python
  python -m simclr_jax train --config=configs/clap.py:midi --workdir=runs/clap
  python -m simclr_jax evaluate --workdir=runs/clap --protocol=retrieval,zero_shot
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("laion", "midi")


def get_config(variant: str = "laion") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=45, checkpoint_every=1000)
    config.data = dict(name="csv", split="all", batch_size=2304, captions=dict())
    config.augment = dict(name="audio", gain_db=0.0, shift=0.0, num_masks=0)
    config.encoder = dict(name="resnet", depth=50, dtype="bfloat16")
    projector = dict(num_layers=1, output_dim=512, last_norm="none", kernel_init="lecun")
    text = dict(width=768, depth=12, num_heads=12, causal=False, pool="mean", dtype="bfloat16")
    config.method = dict(name="clap")
    config.optim = dict(name="adamw", weight_decay=0.0)
    config.schedule = dict(base_lr=1e-4, scaling="none", warmup_epochs=11.6)
    if variant == "midi":
        config.run.update(epochs=18, log_every=10, checkpoint_every=100)
        config.data = dict(
            name="midi_instruments",
            split="train",
            test_split="test",
            batch_size=128,
            captions=dict(context=16, vocab_size=1000),
        )
        # 31 bands to 1 kHz, where the notes are, from bins of 8 Hz.
        log_mel = dict(rate=16_000, num_fft=2048, hop=400, num_mels=96, highest_hz=8000.0)
        config.augment = dict(name="audio", seconds=1.0, mel_mask=0.0, log_mel=log_mel)
        config.encoder = dict(name="resnet", depth=18, width=0.25)
        projector.update(output_dim=128)
        text = dict(width=128, depth=2, num_heads=4)
        config.optim.update(weight_decay=0.05, b2=0.98)
        config.schedule = dict(base_lr=2e-3, scaling="none", warmup_epochs=1.0)
    config.heads = dict(projector=projector, text=text, text_projector=projector)
    return config
