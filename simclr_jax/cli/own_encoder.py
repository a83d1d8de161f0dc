"""The flag --encoder: code of one's own that a workdir or a recipe names and that may run."""

from absl import flags

from simclr_jax.models.own import import_encoder

flags.disclaim_key_flags()  # it is listed with the verb that defines it


def define() -> None:
    """Defines the flag, which may come several times."""
    flags.DEFINE_multi_string(
        "encoder",
        [],
        "Encoder of your own that a workdir or the recipe names, MODULE:CLASS: imports it.",
    )


def import_typed() -> None:
    """Imports what the flag names; a verb that does not define it has none.

    Raises:
      UserError: if there is no such encoder.
    """
    if "encoder" in flags.FLAGS:
        for path in flags.FLAGS["encoder"].value or ():
            import_encoder(path)
