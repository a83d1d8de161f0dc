"""The parts of `python -m launch.tpu_vm`; standard library only."""
