"""What is set before JAX is imported, and for which packages a test is skipped."""

import functools
import importlib.util
import os

import pytest

# Most of a test's time is compilation, half of which is for speed that tests do not need. Programs
# that tests start inherit it.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false"
)
installed = functools.cache(lambda package: importlib.util.find_spec(package) is not None)


def pytest_configure(config):
    """Imports the fixtures, but where xdist only hands out tests: there JAX would cost seconds."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_modifyitems(items):
    """Skips tests whose marks `interop` and `plan` name packages that are not installed."""
    for item in items:
        marks = (*item.iter_markers("interop"), *item.iter_markers("plan"))
        absent = [name for mark in marks for name in mark.args if not installed(name)]
        if absent:
            item.add_marker(pytest.mark.skip(reason=f"{absent[0]} is not installed"))
