"""The tokenizer that a model was trained with, for engines whose own one splits some texts otherwise or takes long.

`tokenizers` reads it from the artifact: https://huggingface.co/docs/tokenizers
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

FILE = "tokenizer.json"


class ArtifactTokenizer:
    """Text to token ids and back. Raises what `tokenizers` raises if the folder has none."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / FILE))
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        """How many tokens there are: every id is below."""

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids; with those that the tokenizer adds to a bare text if `special`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
