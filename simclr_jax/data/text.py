"""Captions as tokens: with a vocabulary that is trained on them, or one from a file.

Tokens are made on the host, by the package tokenizers. The same captions give the same vocabulary,
to the byte, so every host trains its own, and its SHA-256 stands in the config of the run.
"""

import dataclasses
import hashlib
import logging
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int32

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import absolute, write_text
from simclr_jax.core.optional import import_optional
from simclr_jax.core.ranges import Range
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.records import Record, Source, captions_of

log = logging.getLogger(__name__)
FILE = "tokenizer.json"  # in a workdir
# The tokens before and after a caption, as different vocabularies of CLIP spell them.
EDGES = (("<start_of_text>", "<end_of_text>"), ("<|startoftext|>", "<|endoftext|>"))
TELL_EVERY = 100_000  # captions
LOOKED_AT = 8  # records, to see whether there are captions
MIN_VOCABULARY = 258  # 256 bytes and both edges


class Tokens(NamedTuple):
    """One caption as a text tower reads it.

    Attributes:
      ids: its tokens between start and end, and zeros after the end.
      length: how many there are, start and end among them.
      hash: number made of the tokens, to find equal captions by.
    """

    ids: Int32[np.ndarray, " context"]
    length: int
    hash: int


@dataclasses.dataclass(frozen=True)
class Captions:
    """How captions become tokens.

    Attributes:
      context: tokens of a caption, start and end among them; longer captions are cut.
      vocab_size: most tokens of a vocabulary that is trained on the captions.
      tokenizer: a file of the package tokenizers, such as that of CLIP; None trains one on the
        captions of the training images.
      tokenizer_sha256: SHA-256 of its JSON; the run sets it, and refuses another on resume.
    """

    context: Annotated[int, Range(least=3)] = 77
    vocab_size: Annotated[int, Range(least=MIN_VOCABULARY)] = 49408
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None

    def tokenizer_for(self, source: Source) -> "Tokenizer":
        """Returns the tokenizer of a file, or one that is trained on the captions of a source.

        Raises:
          UserError: if the source has no captions, or the file is none, or another than it was.
        """
        if not has_captions(source):
            raise UserError(
                f"config.data.captions is on, and {source.name} has no captions. Name images that "
                "have some, such as --config.data.name=digits, or train on images alone, such as "
                "with the recipe simclr_folder."
            )
        json = _train(source, self.vocab_size) if self.tokenizer is None else _read(self.tokenizer)
        made = Tokenizer(json, self.context, self.tokenizer or f"the captions of {source.name}")
        if self.tokenizer_sha256 not in (None, made.sha256):
            raise UserError(
                f"config.data.captions.tokenizer_sha256={self.tokenizer_sha256!r}, and that of "
                f"{made.name} is {made.sha256!r}: with other tokens, the weights mean nothing. "
                "Bring back the captions or the file, or leave the setting out of a new run."
            )
        return made


class Tokenizer:
    """Captions to tokens, from any thread.

    Attributes:
      json: what the package tokenizers reads it from.
      sha256: SHA-256 of this text.
      context: tokens of a caption, start and end among them.
      name: where it comes from, for messages.
      start: number of the token before each caption.
      end: number of the token after it.
    """

    def __init__(self, json: str, context: int, name: str):
        """Reads it.

        Args:
          json: a tokenizer as the package tokenizers writes it.
          context: tokens of a caption, at least 3.
          name: where it comes from, for messages.

        Raises:
          UserError: if the text is no tokenizer, or has no tokens for start and end.
        """
        tokenizers = import_optional("tokenizers", "text")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the package raises nothing more special
            raise UserError(f"{name} is no tokenizer: {error}.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        edges = [[self._tokenizer.token_to_id(edge) for edge in pair] for pair in EDGES]
        known = [pair for pair in edges if None not in pair]
        if not known:
            spelled = " or ".join(" and ".join(pair) for pair in EDGES)
            raise UserError(f"{name} has no tokens for start and end: it needs {spelled}.")
        self.start, self.end = known[0]
        self.json, self.context, self.name = json, context, name
        self.sha256 = hashlib.sha256(json.encode()).hexdigest()
        self._lock, self._num_cut = threading.Lock(), 0

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def num_cut(self) -> int:
        """How many captions were longer than the context so far; each counts as often as read."""
        return self._num_cut

    def __call__(self, caption: str) -> Tokens:
        """Returns the tokens of a caption; one that is too long is cut, and keeps its end token."""
        found = self._tokenizer.encode(caption, add_special_tokens=False).ids
        room = self.context - 2
        if len(found) > room:
            self._tell_cut(caption, len(found))
        ids = np.zeros(self.context, np.int32)
        wanted = [self.start, *found[:room], self.end]
        ids[: len(wanted)] = wanted
        return Tokens(ids, len(wanted), int(np.uint32(zlib.crc32(ids.tobytes())).view(np.int32)))

    def write(self, workdir: epath.PathLike) -> None:
        """Writes it to a workdir."""
        write_text(epath.Path(workdir) / FILE, self.json)

    def _tell_cut(self, caption: str, num_tokens: int) -> None:
        with self._lock:
            self._num_cut += 1
            first = self._num_cut == 1
        if first:
            log.warning(
                "The caption %.60a has %d tokens and is cut to config.data.captions.context=%d, "
                "start and end among them; others may be, too.",
                caption, num_tokens + 2, self.context,
            )  # fmt: skip


class Captioned:
    """A source whose captions are given out as tokens; all else is that of the source."""

    def __init__(self, source: Source, tokenizer: Tokenizer):
        """Takes a source with captions, and what makes tokens of them."""
        self.name, self.class_names = source.name, source.class_names
        self.fingerprint, self.tokenizer = source.fingerprint, tokenizer
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> Record:
        return self._source[index]

    def __getattr__(self, name: str) -> Any:  # what a source may have beside
        return getattr(self._source, name)


def tokenizer_of(source: Source) -> Any:
    """Returns what makes tokens of the captions of a source, None if nothing does.

    It is a `Tokenizer`, or in planning a stand-in that knows only the sizes of one.
    """
    return getattr(source, "tokenizer", None)


def problem_with(captions: Sequence[str]) -> str:
    """Returns why no caption of an image can be drawn, "" if one can."""
    if not captions:
        return "has no caption"
    return "" if all(caption.strip() for caption in captions) else "has an empty caption"


def read_tokenizer(workdir: str, captions: Captions) -> Tokenizer:
    """Reads the tokenizer of a run.

    Raises:
      UserError: if it is not there, or not the one that the run was trained with.
    """
    path = epath.Path(absolute(workdir)) / FILE
    cure = "Bring a copy of it back, or run the command that trained: it is written anew."
    if not path.exists():
        raise UserError(f"{path} is not there. {cure}")
    tokenizer = Tokenizer(path.read_text(), captions.context, str(path))
    if tokenizer.sha256 != captions.tokenizer_sha256:
        raise UserError(f"{path} is not the tokenizer that this run was trained with. {cure}")
    return tokenizer


def has_captions(source: Source) -> bool:
    """Whether any of the first records of a source has a caption."""
    return any(readable_captions(source, i) for i in range(min(len(source), LOOKED_AT)))


def readable_captions(source: Source, i: int) -> tuple[str, ...]:
    """Returns the captions of a record, none if they are no texts: training on them says why."""
    try:
        return captions_of(source, i)
    except UnreadableImageError:
        return ()


def _read(path: str) -> str:
    where = Path(absolute(path))
    try:
        return where.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"config.data.captions.tokenizer={path!r} cannot be read: {error}."
        ) from error


def _train(source: Source, vocab_size: int) -> str:
    """Returns a byte-level BPE of lower-case text, trained on all captions of a source."""
    tokenizers = import_optional("tokenizers", "text")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    normalizers = tokenizers.normalizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*EDGES[0]],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_all_captions(source), trainer)
    return tokenizer.to_str()


def _all_captions(source: Source) -> Iterator[str]:
    count = 0
    for i in range(len(source)):
        for caption in readable_captions(source, i):
            count += 1
            if count % TELL_EVERY == 0:
                log.info("The tokenizer has read %d captions of %s.", count, source.name)
            yield caption
