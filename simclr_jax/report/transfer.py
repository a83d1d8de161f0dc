"""What an encoder is worth on each of several data sets, in one table."""

from collections.abc import Sequence

from simclr_jax.evals.results import Row
from simclr_jax.report.results import accuracy_text, column, column_name, in_order
from simclr_jax.report.tables import Table


def transfer_table(groups: Sequence[Sequence[Row]]) -> Table:
    """Returns a row for each data set.

    Args:
      groups: rows of results.json by the images that were fitted and judged on.
    """
    cells = [
        {column(row): row for row in group if row["features"] == "encoder"} for group in groups
    ]
    columns = in_order(key for found in cells for key in found)
    rows = [
        [
            group[0]["train_data"],
            group[0]["test_data"],
            *(accuracy_text(found[key]) if key in found else "-" for key in columns),
        ]
        for group, found in zip(groups, cells, strict=True)
        if found
    ]
    heads = ["fitted on", "judged on", *map(column_name, columns)]
    notes = ["Top-1 in %, mean and standard deviation over draws of the labels."]
    return Table("The encoder on each data set", heads, rows, 2, notes)
