"""What the rest of a PyTorch module would compute if one of its calls had given something else."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from parity.core.bridge import tensor_of
from parity.tracing.torch_trace import Call, Source, readers

Outputs = dict[Source, np.ndarray]


class Graph:
    """The recorded calls of a module, and what they give now.

    Args:
        calls: the calls in the order of execution.
        finals: the outputs of the module by name, as outputs of calls.
        kinds: the classes of the module's parts by their dotted names; its own by "".

    Attributes:
        values: what each call gives; `adopt` changes it.
        readers: the calls that read each output.
    """

    def __init__(
        self, calls: Sequence[Call], finals: Mapping[str, Source], kinds: Mapping[str, str]
    ) -> None:
        self.calls = calls
        self.kinds = dict(kinds)
        self.finals = dict(finals)
        self.readers = readers(calls)
        self.values: Outputs = {}
        for call in calls:
            for number, array in enumerate(call.outputs):
                self.values[Source(call.index, number)] = array
        self._tensors: dict[Source, torch.Tensor] = {}

    def outputs(self, call: Call) -> list[Source]:
        """The outputs of a call."""
        return [Source(call.index, number) for number in range(len(call.outputs))]

    def inputs(self, call: Call) -> dict[int, torch.Tensor]:
        """The tensors that a call reads from other calls, as they are now, by number."""
        given = {}
        for number, source in enumerate(call.sources):
            if source is not None:
                given[number] = self.tensor(source)
        return given

    def tensor(self, source: Source) -> torch.Tensor:
        """An output as a tensor."""
        if source not in self._tensors:
            self._tensors[source] = tensor_of(self.values[source], "float64")
        return self._tensors[source]

    def after(self, changed: Outputs) -> Iterator[tuple[Call, list[np.ndarray]]]:
        """The calls that depend on some outputs, made again with others, in order."""
        known = dict(changed)
        tensors = {source: tensor_of(array, "float64") for source, array in known.items()}
        first = min(source.call for source in known)
        for call in self.calls[first + 1 :]:
            exchanged = {}
            for number, source in enumerate(call.sources):
                if source in tensors:
                    exchanged[number] = tensors[source]
            if not exchanged:
                continue
            given = {**self.inputs(call), **exchanged}
            results = call.again(given)
            for source, array in zip(self.outputs(call), results, strict=True):
                known[source] = array
                tensors[source] = tensor_of(array, "float64")
            yield call, results

    def adopt(self, changed: Outputs) -> None:
        """Let calls have given something else, and all that depends on them."""
        self.values.update(changed)
        for call, results in list(self.after(changed)):
            for source, array in zip(self.outputs(call), results, strict=True):
                self.values[source] = array
        self._tensors.clear()

    def restore(self, values: Outputs) -> None:
        """Let calls give what they gave before."""
        self.values = values
        self._tensors.clear()
