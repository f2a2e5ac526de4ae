"""Names of tensors: without what wrappers put in front of them, left out, and renamed.

A pattern names a tensor or a whole module: "encoder" is encoder.weight and encoder.bias, and never
encoder2.weight. "*" stands for any text without a dot.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from jaxrnn.exchange.contents import Stored, TensorFileError

WRAPPERS = {
    "module",  # DataParallel, AveragedModel, WeightDrop
    "_orig_mod",  # torch.compile
    "_module",
    "_forward_module",  # Lightning Fabric
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}
"""Parts of names that say only that a module is wrapped in another one."""

WEIGHT = re.compile(r"(weight|bias)(_.*)?|kernel|embedding")
"""The last part of the names of weights, and not of counters and buffers."""


def is_weight(name: str) -> bool:
    """Whether a tensor is called like a weight."""
    return WEIGHT.fullmatch(name.rpartition(".")[2]) is not None


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each name, what is left of it without wrappers and without what all weights begin with.

    Counters that stand outside, as `n_averaged` does, do not count as weights.
    """
    names = list(names)
    parts = {name: [p for p in name.split(".") if p not in WRAPPERS] for name in names}
    shortened = [".".join(parts[name]) for name in names]
    for name, short in zip(names, shortened, strict=True):
        if not short or shortened.count(short) > 1:
            parts[name] = name.split(".")
    weights = [name for name in names if is_weight(name)] or names
    while _share_first(parts[name] for name in weights):
        first = parts[weights[0]][0]
        for name in names:
            if parts[name][0] == first and len(parts[name]) > 1:
                parts[name] = parts[name][1:]
    return {name: ".".join(parts[name]) for name in names}


def _share_first(parts: Iterable[Sequence[str]]) -> bool:
    """Whether all names begin with the same part, which says nothing then."""
    parts = list(parts)
    first = {part[0] for part in parts}
    # Where nothing lies deeper, it is the only module, and says what it is.
    deep = any(len(part) > 2 for part in parts)
    return deep and len(first) == 1 and all(len(part) > 1 for part in parts)


def pairs(renames: Sequence[str]) -> dict[str, str]:
    """THEIRS=OURS as a dictionary; OURS may be empty, which takes THEIRS off the names.

    Raises:
        ValueError: if one is written otherwise, or leaves open what "*" stands for.
    """
    wrong = [rename for rename in renames if not re.fullmatch(r"[^=]+=[^=]*", rename)]
    if wrong:
        raise ValueError(f"--rename takes THEIRS=OURS, got {', '.join(wrong)}.")
    found = {}
    for rename in renames:
        theirs, _, ours = rename.partition("=")
        if ours.count("*") > theirs.count("*"):
            raise ValueError(f"--rename {rename} has more * behind the = than before it.")
        found[theirs.rstrip(".")] = ours.rstrip(".")
    return found


def without(tensors: Mapping[str, Stored], patterns: Sequence[str]) -> dict[str, Stored]:
    """The tensors that no pattern names; "*" stands for any text here, dots too.

    Raises:
        TensorFileError: if a pattern names none.
    """
    short = short_names(tensors)
    dropped: set[str] = set()
    for pattern in patterns:
        wanted = re.compile(_as_regex(pattern, ".*") + r"(\..*)?")
        found = {n for n in tensors if wanted.fullmatch(n) or wanted.fullmatch(short[n])}
        if not found:
            raise TensorFileError(
                f"There is no tensor {pattern} to drop; the file has {_listed(tensors)}."
            )
        dropped |= found
    return {name: stored for name, stored in tensors.items() if name not in dropped}


def renamed(tensors: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, Stored]:
    """The tensors by their short names, but for those that get a new one.

    Args:
        tensors: by the file's names.
        names: pattern to new name. A pattern is looked for in the short names, then in the
            file's.

    Raises:
        TensorFileError: if a pattern names none, or two tensors would have one name.
    """
    short = short_names(tensors)
    used: set[str] = set()
    found: dict[str, Stored] = {}
    for name, stored in tensors.items():
        new = short[name]
        for pattern, ours in names.items():
            match = _match(pattern, short[name]) or _match(pattern, name)
            if match is not None:
                used.add(pattern)
                new = _replaced(match, ours)
                break
        if new in found:
            raise TensorFileError(f"Two tensors would be called {new}: give each its own name.")
        found[new] = stored
    unused = [pattern for pattern in names if pattern not in used]
    if unused:
        raise TensorFileError(
            f"There is no module {', '.join(unused)} to rename; the file has {_listed(tensors)}."
        )
    return found


def _as_regex(pattern: str, star: str) -> str:
    return f"({star})".join(re.escape(piece) for piece in pattern.split("*"))


def _match(pattern: str, name: str) -> re.Match[str] | None:
    """A pattern in a name, as a whole module or tensor; the last group is what follows it."""
    return re.fullmatch(_as_regex(pattern, "[^.]*") + r"(?P<rest>\..*)?", name)


def _replaced(match: re.Match[str], ours: str) -> str:
    """The new name: what "*" stood for goes where "*" stands, in order."""
    stars = iter(match.groups())
    pieces = ours.split("*")
    new = pieces[0]
    for piece in pieces[1:]:
        new += (next(stars) or "") + piece
    rest = match["rest"] or ""
    return new + rest if new else rest.removeprefix(".")


def _listed(tensors: Mapping[str, Stored]) -> str:
    """Names for a message, not too many."""
    names = list(tensors)
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return ", ".join(names[:30]) + more
