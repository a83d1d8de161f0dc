"""python tiny_verb.py VERB ...: the program, with a network that compiles at once."""

import os
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import TinyEncoder

from simclr_jax.__main__ import main
from simclr_jax.models.ssl import ENCODERS

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(os.environ.get("NUM_DEVICES", "1")))
    ENCODERS["tiny"] = TinyEncoder
    sys.exit(main())
