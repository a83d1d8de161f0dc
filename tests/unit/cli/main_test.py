"""The command itself: what ends it before any verb can answer."""

import importlib
import sys

from simclr_jax.__main__ import main


def test_ctrl_c_while_modules_are_imported_ends_in_words(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    monkeypatch.setattr(sys, "argv", ["simclr-jax", "train", "--workdir=runs/x"])
    assert main() == 130
    assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"
