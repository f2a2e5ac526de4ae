"""What is measured: the cases of every kind, as data.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, L layers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

VOCABULARY = 85
EMBEDDING = 42
RATE = 1e-3
"""Adam's learning rate."""
CLIP = 5.0
"""Every contestant clips the gradient's global norm at this."""
CHARACTERS = 2000
"""Written in one repetition of a generation case."""

CELLS = ("tanh", "gru", "lstm")

Kind = Literal["training", "forward", "generation"]
Shape = tuple[int, int, int, int]
"""(B, T, H, L)"""

GRID: tuple[Shape, ...] = (
    (64, 8, 256, 1),
    (512, 8, 256, 1),
    (50, 50, 128, 2),
    (32, 70, 512, 1),
    (8, 32, 64, 1),
    (1, 64, 256, 1),
    (64, 128, 256, 2),
    (16, 128, 1024, 1),
)
"""The first two are the course's, the third is char-rnn's."""
COURSE_SHAPES = GRID[:2]

GENERATION_SHAPES: tuple[Shape, ...] = tuple(
    (batch_size, CHARACTERS, hidden_size, 1) for hidden_size in (256, 512) for batch_size in (1, 64)
)

LONG_SHAPES: tuple[Shape, ...] = ((64, 4096, 256, 1),)
"""Where memory is what limits."""

SCALING_BASE: Shape = (64, 64, 256, 1)
SCALING: dict[str, tuple[Shape, ...]] = {
    "T": tuple((64, 2**k, 256, 1) for k in range(3, 11)),
    "H": tuple((64, 64, 2**k, 1) for k in range(6, 12)),
    "B": tuple((2**k, 64, 256, 1) for k in range(11)),
}
"""One letter varies, the others are those of `SCALING_BASE`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        kind: "training" is a whole step (forward, loss, backward, clipping, Adam), "forward" the
            loss alone, "generation" writing from a prompt of one character.
        cell: "tanh", "gru" or "lstm".
        batch_size: B.
        steps: T; for generation, the characters written one after the other.
        hidden_size: H.
        layers: L.
        sampled: generation draws each character; greedy if False.
    """

    kind: Kind
    cell: str
    batch_size: int
    steps: int
    hidden_size: int
    num_layers: int = 1
    sampled: bool = False

    @property
    def characters(self) -> int:
        """The characters that one repetition reads or writes."""
        return self.batch_size * self.steps

    @property
    def label(self) -> str:
        """The case in a few words."""
        shape = (
            f"{self.cell} {self.batch_size}, {self.steps}, {self.hidden_size}, {self.num_layers}"
        )
        return shape + (" sampled" if self.sampled else "")

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)


def grid(kind: Kind, cells: Sequence[str], shapes: Sequence[Shape]) -> list[Case]:
    """Every shape with every cell; generation greedy and sampled."""
    drawn = (False, True) if kind == "generation" else (False,)
    return [
        Case(
            kind=kind,
            cell=cell,
            batch_size=B,
            steps=T,
            hidden_size=H,
            num_layers=L,
            sampled=sampled,
        )
        for B, T, H, L in shapes
        for cell in cells
        for sampled in drawn
    ]


def parse_shape(text: str) -> Shape:
    """Read "64,8,256,1" as (B, T, H, L).

    Raises:
        ValueError: if it is not four whole numbers of at least 1.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdigit() and int(p) >= 1 for p in parts):
        raise ValueError(f"A shape is B,T,H,LAYERS, such as 64,8,256,1; got {text!r}.")
    B, T, H, L = (int(p) for p in parts)
    return B, T, H, L
