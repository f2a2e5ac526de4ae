"""Integers of one's own as tokens, here notes: those that occur are numbered from 0 on.

>>> numpy.save("notes.npy", [60, 62, 64, 65, 67, 72, ...])
./scripts/jaxrnn train --corpus notes.npy --tokenizer scripts/examples/integer_tokens.py:Notes
./scripts/jaxrnn sample runs/notes --prompt "60 62 64"
"""

from collections.abc import Sequence

import numpy as np


class Notes:
    """The integers of the training data, and how many there are: `size`."""

    def __init__(self, notes: Sequence[int]) -> None:
        self.notes = np.asarray(notes, int)  # (V,), in order
        self.size = len(self.notes)

    @classmethod
    def from_documents(cls, documents: Sequence[np.ndarray]) -> "Notes":
        return cls(np.unique(np.concatenate(documents)).tolist())

    def encode(self, text: str | np.ndarray) -> np.ndarray:
        """The tokens of an array of integers, or of a prompt, "60 62"."""
        notes = np.array(text.split(), int) if isinstance(text, str) else text
        unknown = np.setdiff1d(notes, self.notes)
        if unknown.size:
            raise ValueError(f"The note {unknown[0]} does not occur in the training data.")
        return np.searchsorted(self.notes, notes)

    def decode(self, tokens: np.ndarray) -> str:
        return " ".join(map(str, self.notes[tokens]))

    def to_dict(self) -> dict:
        return {"notes": self.notes.tolist()}

    @classmethod
    def from_dict(cls, values: dict) -> "Notes":
        return cls(values["notes"])
