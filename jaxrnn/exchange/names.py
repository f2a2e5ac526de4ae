"""Names of tensors: without what wrappers put in front of them, left out, and renamed.

A pattern names a tensor or a whole module: "encoder" is encoder.weight and encoder.bias, and never
encoder2.weight. "*" stands for any text without a dot.
"""

import re
from collections import Counter
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
"""Parts of names that stand for a wrapper around a module."""

WEIGHT = re.compile(r"(weight|bias)(_.*)?|kernel|embedding")
"""Last part of the names of weights, and not of counters and buffers."""


def is_weight(name: str) -> bool:
    """Whether a tensor is called like a weight."""
    return WEIGHT.fullmatch(name.rpartition(".")[2]) is not None


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each name, what is left of it without wrappers and without what all weights begin with.

    Counters that stand outside, as `n_averaged` does, do not count as weights.
    """
    names = list(names)
    parts: dict[str, list[str]] = {}
    for name in names:
        parts[name] = [part for part in name.split(".") if part not in WRAPPERS]
    # Two names may be one without wrappers, as of a model and its average: they stay whole.
    count = Counter(map(tuple, parts.values()))
    for name in names:
        if not parts[name] or count[tuple(parts[name])] > 1:
            parts[name] = name.split(".")

    # What all weights begin with says nothing, layer for layer.
    weights = list(filter(is_weight, names)) or names
    while _share_first([parts[name] for name in weights]):
        first = parts[weights[0]][0]
        for name in names:
            if parts[name][0] == first and len(parts[name]) > 1:
                del parts[name][0]
    return {name: ".".join(parts[name]) for name in names}


def _share_first(parts: Sequence[Sequence[str]]) -> bool:
    """Whether all names begin with the same part, which says nothing then."""
    depths = list(map(len, parts))
    # Where nothing lies deeper, it is the only module, and says what it is.
    if max(depths, default=0) <= 2 or min(depths) == 1:
        return False
    return all(part[0] == parts[0][0] for part in parts)


def pairs(renames: Sequence[str]) -> dict[str, str]:
    """THEIRS=OURS as a dictionary; OURS may be empty, which takes THEIRS off the names.

    Raises:
        ValueError: if one is written otherwise, or leaves open what "*" stands for.
    """
    form = re.compile(r"[^=]+=[^=]*")
    wrong = [rename for rename in renames if not form.fullmatch(rename)]
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
    kept = dict(tensors)
    for pattern in patterns:
        # With everything below it, if it names a module.
        wanted = re.compile(_as_regex(pattern, ".*") + r"(\..*)?")
        named = [n for n in tensors if wanted.fullmatch(n) or wanted.fullmatch(short[n])]
        if not named:
            raise TensorFileError(
                f"There is no tensor {pattern} to drop; the file has {_listed(tensors)}."
            )
        for name in named:
            kept.pop(name, None)  # another pattern may have named it, too
    return kept


def renamed(tensors: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, Stored]:
    """The tensors by their short names, but for those that get a new one.

    Args:
        tensors: by the file's names.
        names: pattern to new name. A pattern is looked for in the short names, then in the
            file's.

    Raises:
        TensorFileError: if a pattern names none, or two tensors would have one name.
    """
    # The user sees both in --list and in messages, and may mean either.
    short = short_names(tensors)
    used: set[str] = set()
    found: dict[str, Stored] = {}
    for name, stored in tensors.items():
        new = short[name]
        # The first pattern that fits decides.
        for pattern, ours in names.items():
            match = _match(pattern, short[name]) or _match(pattern, name)
            if match is not None:
                used.add(pattern)
                new = _replaced(match, ours)
                break
        # One would replace the other in silence.
        if new in found:
            raise TensorFileError(f"Two tensors would be called {new}: give each its own name.")
        found[new] = stored
    # A pattern that names nothing is a mistake, as is a flag that does nothing.
    unused = [pattern for pattern in names if pattern not in used]
    if unused:
        raise TensorFileError(
            f"There is no module {', '.join(unused)} to rename; the file has {_listed(tensors)}."
        )
    return found


def _as_regex(pattern: str, star: str) -> str:
    """A pattern as a regular expression, with `star` in a group for each "*"."""
    return f"({star})".join(re.escape(piece) for piece in pattern.split("*"))


def _match(pattern: str, name: str) -> re.Match[str] | None:
    """A pattern in a name, as a whole module or tensor; the last group is what follows it."""
    return re.fullmatch(_as_regex(pattern, "[^.]*") + r"(?P<rest>\..*)?", name)


def _replaced(match: re.Match[str], ours: str) -> str:
    """The new name: what "*" stood for goes where "*" stands, in order."""
    stars = iter(match.groups(""))
    new = re.sub(r"\*", lambda star: next(stars), ours)
    # Without a new name, what was below the module moves up by one.
    rest = match["rest"] or ""
    if not new:
        return rest.removeprefix(".")
    return new + rest


def _listed(tensors: Mapping[str, Stored]) -> str:
    """Names for a message, not too many."""
    names = list(tensors)
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return ", ".join(names[:30]) + more
