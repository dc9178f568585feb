"""Text to token ids and back, by the checkpoint's own tokenizer.json; ChatML turns; what ends a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.dependencies import require
from edge.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
END_OF_TEXT, TURN_BEGINS, TURN_ENDS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


class Vocabulary:
    """The tokenizer at ``path`` for a model of ``size`` ids; CheckpointError if the two do not fit."""

    def __init__(self, path: Path, size: int) -> None:
        require("plm", "reading and writing text", "tokenizers")
        from tokenizers import Tokenizer

        try:
            self.tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise CheckpointError(f"{path} is not a tokenizer.json ({error}): pass the checkpoint's own.") from error
        highest = max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest < 0 or highest >= size:
            raise CheckpointError(
                f"{path} has token ids up to {highest} and the model knows {size} of them: pass the tokenizer.json that "
                "belongs to the checkpoint."
            )

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; special tokens that it spells out count as such."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def user_turn(self, text: str) -> list[int]:
        """A user's turn in ChatML and the beginning of the answer. What the text spells out stays plain text."""
        if self.tokenizer.token_to_id(TURN_BEGINS) is None or self.tokenizer.token_to_id(TURN_ENDS) is None:
            raise UsageError("this model's tokenizer has no ChatML turns, so it cannot chat: leave --chat out.")
        before = self.encode(f"{TURN_BEGINS}user\n")
        self.tokenizer.encode_special_tokens = True
        try:
            said = self.encode(text)
        finally:
            self.tokenizer.encode_special_tokens = False
        return before + said + self.encode(f"{TURN_ENDS}\n{TURN_BEGINS}assistant\n")

    def ends(self, configured: Sequence[int]) -> frozenset[int]:
        """Ids that end a text: the config's, the end of a text, and of a turn."""
        known = (self.tokenizer.token_to_id(token) for token in (END_OF_TEXT, TURN_ENDS))
        return frozenset([*configured, *(token for token in known if token is not None)])

    def stream(self) -> Callable[[int], str]:
        """Takes one id after the other and gives the text that is whole so far: no half of a UTF-8 sequence.

        An id that the tokenizer lacks (models pad their vocabularies) is shown as ``<id>``.
        """
        from tokenizers.decoders import DecodeStream

        pieces = DecodeStream(skip_special_tokens=False)

        def step(token: int) -> str:
            if self.tokenizer.id_to_token(token) is None:
                return f"<{token}>"
            return pieces.step(self.tokenizer, token) or ""

        return step
