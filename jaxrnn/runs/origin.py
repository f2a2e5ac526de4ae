"""Where the weights that a run begins with are from, as the run's settings record it."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint of another run that a run begins with.

    Attributes:
        folder: folder of the other run, as it was named.
        run: its identity; None of a run of an earlier version.
        checkpoint: "best" or "last".
        step: number of updates that the checkpoint had.
        tokens_added: number of tokens that the vocabulary has beyond that of the other run.
        optimizer_kept: whether the optimizer's state is the other run's, too.
    """

    folder: str
    run: str | None
    checkpoint: str
    step: int
    tokens_added: int
    optimizer_kept: bool

    def __post_init__(self) -> None:
        # The values come from a file: bool is an int in Python, but no count.
        for field in fields(self):
            value = getattr(self, field.name)
            kinds: tuple[type, ...] = {
                "run": (str, type(None)),
                "step": (int,),
                "tokens_added": (int,),
                "optimizer_kept": (bool,),
            }.get(field.name, (str,))
            if type(value) not in kinds or (type(value) is int and value < 0):
                raise ValueError(f"{field.name} of its origin makes no sense: {value!r:.40}")

    @classmethod
    def from_dict(cls, values: Any) -> "Origin":
        """The origin that `to_dict` described.

        Raises:
            ValueError, TypeError: if it describes none.
        """
        if not isinstance(values, dict):
            raise ValueError(f"its origin makes no sense: {values!r:.40}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)

    @property
    def short(self) -> str:
        """The origin in a few words, for a `repr`."""
        return f"from {self.folder} at step {self.step:,}"

    @property
    def sentence(self) -> str:
        """The origin in words."""
        words = (
            f"Begun with the weights of {self.folder}, its {self.checkpoint} checkpoint at step "
            f"{self.step:,}"
        )
        if self.optimizer_kept:
            words += ", and with its optimizer's state"
        if self.tokens_added:
            tokens = "token" if self.tokens_added == 1 else "tokens"
            words += f"; {self.tokens_added:,} {tokens} added to its vocabulary"
        return f"{words}."
