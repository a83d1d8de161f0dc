"""The verb `train`, with a network that compiles at once; tests start it in processes."""

import os
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import TinyEncoder

from simclr_jax.cli import train
from simclr_jax.models.ssl import ENCODERS

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(os.environ["NUM_DEVICES"]))
    ENCODERS["tiny"] = TinyEncoder
    sys.exit(train.main(["train", *sys.argv[1:]]))
