"""Layers that JAX holds in one array with a leading layer axis, as `flax.linen.scan` makes them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxrnn.exchange.layouts import Stacked
from jaxrnn.exchange.operations import Identity, StackLayers
from jaxrnn.exchange.weights import Entry, WeightMapError
from parity.modules.mapping.candidates import Shape


@dataclass(frozen=True)
class Tree:
    """The leaves of a tree of parameters by names that say what they are.

    Attributes:
        shapes: by name; "blocks/3/kernel" is layer 3 of "blocks/kernel".
        paths: the path of each name that is none itself.
        origin: for the name of a layer that of the stacked array, and the number of the layer.
        layers: how many there are.
    """

    shapes: dict[str, Shape]
    paths: dict[str, str]
    origin: dict[str, tuple[str, int]] = field(default_factory=dict)
    layers: int = 0

    def path(self, name: str) -> str:
        """The path of a leaf in the tree as it is."""
        return self.paths.get(name, name)

    def stacked(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by the paths of the tree as it is: layers are stacked again."""
        found = {}
        by_layer: dict[str, dict[int, np.ndarray]] = {}
        for name, array in arrays.items():
            if name in self.origin:
                whole, layer = self.origin[name]
                by_layer.setdefault(whole, {})[layer] = array
            else:
                found[self.path(name)] = array
        for whole, layers in by_layer.items():
            found[self.path(whole)] = np.stack([layers[k] for k in range(self.layers)])
        return found

    def taken_apart(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The way back."""
        found = {}
        for name in self.shapes:
            whole, layer = self.origin.get(name, (name, None))
            array = np.asarray(arrays[self.path(whole)])
            found[name] = array if layer is None else array[layer]
        return found


def unstacked_trees(shapes: Mapping[str, Shape], paths: Mapping[str, str]) -> Iterator[Tree]:
    """The tree as it is, then with each node taken apart whose leaves have one leading size.

    Args:
        shapes: by name.
        paths: the path of each name that is none itself.
    """
    yield Tree(dict(shapes), dict(paths))
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
        yield Tree(found, dict(paths), origin, layers)


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
            found.append(replace(one, paths=tuple(map(tree.path, one.paths))))
            continue
        layers = {layer for _, layer in known}
        if len(layers) != 1 or len(known) != len(one.paths):
            raise WeightMapError(f"{', '.join(one.keys)} would be in several layers of a stack.")
        wholes = tuple(whole for whole, _ in known)
        by_paths.setdefault(wholes, {})[layers.pop()] = one
    for names, by_layer in by_paths.items():
        wholes = tuple(map(tree.path, names))
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
