"""What pyproject.toml cannot say: recipes stand at the top, and a wheel has them in the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["simclr_jax", "simclr_jax.*"]), "simclr_jax.configs"],
    package_dir={"simclr_jax.configs": "configs"},
)
