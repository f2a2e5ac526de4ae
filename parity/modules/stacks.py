"""Layers that JAX holds in one array with a leading layer axis, as `flax.linen.scan` makes them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxrnn.exchange.layouts import Stacked
from jaxrnn.exchange.operations import Identity, StackLayers
from jaxrnn.exchange.weights import Entry, WeightMapError
from parity.modules.candidates import Shape


@dataclass(frozen=True)
class Tree:
    """The leaves of a tree of parameters, where stacked arrays may be taken apart.

    Attributes:
        shapes: by path; "blocks/3/kernel" is layer 3 of "blocks/kernel".
        names: what a leaf is called by its own framework, where the path does not say so.
        origin: for the path of a layer that of the stacked array, and the number of the layer.
        layers: how many there are.
    """

    shapes: dict[str, Shape]
    names: dict[str, str]
    origin: dict[str, tuple[str, int]] = field(default_factory=dict)
    layers: int = 0

    def stacked(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by the paths of the tree as it is: layers are stacked again."""
        found = {}
        by_layer: dict[str, dict[int, np.ndarray]] = {}
        for path, array in arrays.items():
            if path in self.origin:
                whole, layer = self.origin[path]
                by_layer.setdefault(whole, {})[layer] = array
            else:
                found[path] = array
        for whole, layers in by_layer.items():
            found[whole] = np.stack([layers[k] for k in range(self.layers)])
        return found

    def taken_apart(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The way back."""
        found = {p: array for p, array in arrays.items() if p in self.shapes}
        for path, (whole, layer) in self.origin.items():
            found[path] = np.asarray(arrays[whole])[layer]
        return found


def unstacked_trees(shapes: Mapping[str, Shape], names: Mapping[str, str]) -> Iterator[Tree]:
    """The tree as it is, then with each node taken apart whose leaves have one leading size."""
    yield Tree(dict(shapes), dict(names))
    nodes: dict[str, None] = {"": None}
    for path in shapes:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            nodes["/".join(parts[:depth])] = None
    for node in nodes:
        prefix = f"{node}/" if node else ""
        below = [path for path in shapes if path.startswith(prefix)]
        sizes = {shapes[path][:1] for path in below}
        if len(sizes) != 1 or sizes == {()} or sizes == {(1,)}:
            continue
        ((layers,),) = sizes
        found = {path: shape for path, shape in shapes.items() if path not in below}
        origin = {}
        for layer in range(layers):
            for path in below:
                apart = f"{prefix}{layer}/{path[len(prefix) :]}"
                found[apart] = shapes[path][1:]
                origin[apart] = (path, layer)
        yield Tree(found, dict(names), origin, layers)


def stacked_entries(entries: Sequence[Entry], tree: Tree) -> list[Entry]:
    """Entries with the paths of the tree as it is.

    Raises:
        WeightMapError: if the layers of one array do not become of PyTorch's in one way.
    """
    found = []
    by_paths: dict[tuple[str, ...], dict[int, Entry]] = {}
    for one in entries:
        origins = [tree.origin.get(path) for path in one.paths]
        known = [origin for origin in origins if origin is not None]
        if not known:
            found.append(one)
            continue
        layers = {layer for _, layer in known}
        if len(layers) != 1 or len(known) != len(one.paths):
            raise WeightMapError(f"{', '.join(one.keys)} would be in several layers of a stack.")
        wholes = tuple(whole for whole, _ in known)
        by_paths.setdefault(wholes, {})[layers.pop()] = one
    for wholes, by_layer in by_paths.items():
        operations = {one.operation for one in by_layer.values()}
        if len(by_layer) != tree.layers or len(operations) != 1:
            raise WeightMapError(
                f"The layers of {', '.join(wholes)} do not have one counterpart each in PyTorch."
            )
        ordered = [by_layer[k] for k in range(tree.layers)]
        keys = tuple(key for one in ordered for key in one.keys)
        (operation,) = operations
        if operation == Identity():
            found.append(Entry(keys, wholes, StackLayers()))
        else:
            found.append(Entry(keys, wholes, Stacked(tree.layers, operation)))
    return found
