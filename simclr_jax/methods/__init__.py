"""Training methods by the name that a config uses."""

from simclr_jax.methods.barlow_twins import barlow_twins
from simclr_jax.methods.byol import byol
from simclr_jax.methods.clap import clap
from simclr_jax.methods.clip import clip
from simclr_jax.methods.colorization import colorization
from simclr_jax.methods.cpc import cpc
from simclr_jax.methods.dcl import dcl
from simclr_jax.methods.deepcluster_v2 import deepcluster_v2
from simclr_jax.methods.dino import dino
from simclr_jax.methods.distill import distill
from simclr_jax.methods.hard_negatives import hard_negatives
from simclr_jax.methods.hybrid import hybrid
from simclr_jax.methods.instdisc import instdisc
from simclr_jax.methods.jigsaw import jigsaw
from simclr_jax.methods.mae import mae
from simclr_jax.methods.margin import margin
from simclr_jax.methods.mochi import mochi
from simclr_jax.methods.moco_v2 import moco_v2
from simclr_jax.methods.moco_v3 import moco_v3
from simclr_jax.methods.nnclr import nnclr
from simclr_jax.methods.rotation import rotation
from simclr_jax.methods.siglip import siglip
from simclr_jax.methods.simclr import simclr
from simclr_jax.methods.simcse import simcse
from simclr_jax.methods.simsiam import simsiam
from simclr_jax.methods.supcon import supcon
from simclr_jax.methods.supervised import supervised
from simclr_jax.methods.swav import swav
from simclr_jax.methods.triplet import triplet
from simclr_jax.methods.vicreg import vicreg

METHODS = {
    "simclr": simclr,
    "supcon": supcon,
    "hybrid": hybrid,
    "dcl": dcl,
    "hard_negatives": hard_negatives,
    "instdisc": instdisc,
    "moco_v2": moco_v2,
    "mochi": mochi,
    "moco_v3": moco_v3,
    "nnclr": nnclr,
    "byol": byol,
    "simsiam": simsiam,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "swav": swav,
    "dino": dino,
    "deepcluster_v2": deepcluster_v2,
    "margin": margin,
    "triplet": triplet,
    "rotation": rotation,
    "jigsaw": jigsaw,
    "colorization": colorization,
    "cpc": cpc,
    "mae": mae,
    "clip": clip,
    "siglip": siglip,
    "clap": clap,
    "simcse": simcse,
    "supervised": supervised,
    "distill": distill,
}
