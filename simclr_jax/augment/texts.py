"""Views of texts: the texts themselves, which the dropout of their tower makes different."""

from typing import Annotated, Any

from simclr_jax.augment.views import Policy
from simclr_jax.core.ranges import Range
from simclr_jax.core.types import Batch, PRNGKey, Sentences


def texts(*, num_texts: Annotated[int, Range(least=1, most=3)] = 1) -> Policy:
    """Returns the texts of an example as they are.

    Args:
      num_texts: 1 for one of the texts of an example; 2 for the first and the second, which means
        the same; 3 for the third as well, which does not. Needs config.data.captions.
    """

    def augment(key: PRNGKey, batch: Batch) -> Any:  # `Texts`, which only text towers take
        del key
        return {"text": batch["text"], "length": batch["text_length"]}

    return Policy(Sentences(num_texts), augment, (0, 0, 0))
