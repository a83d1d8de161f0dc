"""SimCSE: sentences contrasted with all others of the batch, by a text tower alone.

Gao et al. 2021, https://arxiv.org/abs/2104.08821. Spearman correlation, averaged over seven tasks
of semantic textual similarity (STS); none was run here:

  variant       text tower  batch  epochs  data                               published
  unsupervised  BERT-base      64       1  1 M sentences of Wikipedia         76.25, recalled
  supervised    BERT-base     512       3  276 k triples of SNLI and MNLI     81.57, recalled
  openmoji      width 128     128      20  names of emoji, of the extra text  -

Batch, epochs, rates, dropout, temperature and 32 tokens are recalled from the released scripts
(princeton-nlp/SimCSE). There the tower is a BERT that is trained already, the rate falls on a line,
and a layer with tanh is on top; here it begins from nothing, or from a run of clip, the rate falls
by half a cosine, and the layer is linear: the numbers belong to another network.

Give your own sentences: a text file with one a line, or the column of a table. supervised takes
the columns of the released nli_for_simcse.csv: a sentence, one that follows, one that contradicts.

  python -m simclr_jax train --config=configs/simcse.py --config.data.path=wiki.txt --workdir=runs/s
  python -m simclr_jax train --config=configs/simcse.py:openmoji --workdir=runs/simcse
  python -m simclr_jax embed --workdir=runs/simcse --texts=texts.txt --output=texts.npz
"""

from ml_collections import ConfigDict

from simclr_jax.build import shared

VARIANTS = ("unsupervised", "supervised", "openmoji")


def get_config(variant: str = "unsupervised") -> ConfigDict:
    """Returns the recipe of a variant; see above."""
    shared.check_variant(variant, VARIANTS)
    config = ConfigDict()
    config.run = dict(epochs=1, checkpoint_every=1000)
    captions = dict(context=32, vocab_size=30522)
    config.data = dict(name="texts", split="all", batch_size=64, captions=captions)
    config.augment = dict(name="texts")
    config.encoder = dict(name="none")
    projector = dict(num_layers=1, output_dim=768, last_norm="none", kernel_init="lecun")
    text = dict(width=768, depth=12, num_heads=12, causal=False, dropout=0.1, dtype="bfloat16")
    config.method = dict(name="simcse")
    config.optim = dict(name="adamw", weight_decay=0.0)
    config.schedule = dict(base_lr=3e-5, scaling="none", warmup_epochs=0.0)
    if variant == "supervised":
        config.run.update(epochs=3)
        config.data.update(batch_size=512, caption_column="sent0,sent1,hard_neg")
        config.augment = dict(name="texts", num_texts=3)
        config.method = dict(name="simcse", hard_negatives=True)
        config.schedule.update(base_lr=5e-5)
    if variant == "openmoji":
        config.run.update(epochs=20, log_every=10, checkpoint_every=200)
        captions = dict(context=20, vocab_size=2000)
        config.data = dict(name="openmoji", split="train", batch_size=128, captions=captions)
        projector.update(output_dim=128)
        text = dict(width=128, depth=2, num_heads=4, causal=False, dropout=0.1)
        config.schedule = dict(base_lr=1e-3, scaling="none", warmup_epochs=1.0)
    config.heads = dict(text=text, text_projector=projector)
    return config
