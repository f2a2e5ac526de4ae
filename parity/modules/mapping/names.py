"""How alike two names of a weight are: words, numbers and roles of PyTorch's keys and JAX's paths.

"blocks.3.fc1.weight" and "TransformerBlock_3/Dense_0/kernel" have no part in common as texts. As
words, the number of a block among its siblings, and the role of the last part they are the same.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

SYNONYMS = {
    "dense": ("linear",),
    "fc": ("linear",),
    "proj": ("linear",),
    "projection": ("linear",),
    "mlp": ("ffn",),
    "feedforward": ("ffn",),
    "bn": ("batch", "norm"),
    "batchnorm": ("batch", "norm"),
    "ln": ("norm",),
    "gn": ("group", "norm"),
    "layernorm": ("norm",),
    "normalization": ("norm",),
    "emb": ("embed",),
    "embedding": ("embed",),
    "embeddings": ("embed",),
    "wte": ("embed",),
    "tok": ("embed",),
    "token": ("embed",),
    "wpe": ("position",),
    "pos": ("position",),
    "positional": ("position",),
    "attn": ("attention",),
    "mha": ("attention",),
    "multihead": ("attention",),
    "output": ("out",),
    "head": ("out",),
    "logits": ("out",),
    "classifier": ("out",),
    "o": ("out",),
    "q": ("query",),
    "k": ("key",),
    "v": ("value",),
    "wq": ("query",),
    "wk": ("key",),
    "wv": ("value",),
    "wo": ("out",),
    "bq": ("query",),
    "bk": ("key",),
    "bv": ("value",),
    "bo": ("out",),
    "backward": ("reverse",),
    "bwd": ("reverse",),
    "fwd": ("forward",),
    "simple": ("rnn",),
    "vanilla": ("rnn",),
}
"""Words that different authors use for the same part."""
SAY_NOTHING = {
    *("params", "layer", "layers", "block", "blocks", "net", "network", "model", "module"),
    *("modules", "self", "main", "list", "the", "transformer", "init", "optimized"),
}
"""Words that stand in any name."""
OF_ATTENTION = {"multi", "out", "dot", "product"}
"""Words of the class "MultiHeadDotProductAttention", in which "head" is no output layer."""

ROLES = {
    "weight": "weight",
    "kernel": "weight",
    "w": "weight",
    "matrix": "weight",
    **dict.fromkeys(("wq", "wk", "wv", "wo", "wi", "wh", "wx", "wqkv"), "weight"),
    **dict.fromkeys(("bq", "bk", "bv", "bo", "bi", "bh", "bx", "bqkv"), "bias"),
    "bias": "bias",
    "b": "bias",
    "offset": "bias",
    "beta": "bias",
    "scale": "scale",
    "gamma": "scale",
    "gain": "scale",
    "g": "scale",
    "embedding": "embed",
    "embeddings": "embed",
    "table": "embed",
    "mean": "mean",
    "var": "var",
    "variance": "var",
    "hidden": "other",
    "counter": "other",
}
"""What the last part of a name says of an array."""
ALIKE = {frozenset(("weight", "scale")): 0.3, frozenset(("weight", "embed")): 0.3}
"""Cost of roles that some frameworks call by one word."""
UNKNOWN_ROLE = 0.5
OTHER_ROLE = 2.0

# What a difference costs. A name or number that differs weighs more than any order.
WORDS = 1.0
RANKS = 1.0
ORDER = 0.2


@dataclass(frozen=True)
class Name:
    """A name, taken apart.

    Attributes:
        words: what it says, without numbers and without what says nothing.
        ranks: for every part that has siblings, its possible places among them.
        role: "weight", "bias" and so on; empty if it is not known.
        position: where it stands among all, from 0 to 1.
    """

    words: frozenset[str]
    ranks: tuple[frozenset[int], ...]
    role: str
    position: float


def words_of(text: str) -> list[str]:
    """The words of a name, small, without numbers: "LayerNorm_0" is "layer", "norm"."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return re.findall(r"[a-z]+", text.lower())


def meaning_of(text: str) -> frozenset[str]:
    """The words of a name that say what it is, each by one of its synonyms."""
    found: set[str] = set()
    for word in words_of(text):
        found |= set(SYNONYMS.get(word, (word,)))
    if "attention" in found:
        found -= OF_ATTENTION
    return frozenset(word for word in found - SAY_NOTHING if len(word) > 1)


def role_of(name: str, parent: str = "") -> str:
    """The role of an array by the last part of its name, or else by the part before."""
    for text in (name, parent):
        roles = [ROLES[word] for word in words_of(text) if word in ROLES]
        # "mean_ema/average" holds a mean.
        if roles:
            return roles[-1] if text == name else roles[0]
    return ""


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key to sort by, in which 10 comes behind 9."""
    parts = re.findall(r"\d+|\D+", text)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


Names = Sequence[tuple[str, ...]]
Kind = Callable[[tuple[str, ...]], Hashable]


def taken_apart(
    names: Mapping[str, tuple[str, ...]],
    kind: Kind,
    roles: Mapping[str, str],
    kinds: Mapping[str, str] | None = None,
) -> dict[str, Name]:
    """Every name of one side, taken apart.

    Args:
        names: the parts of each name, in the order of the side.
        kind: the kind of a part (given with all before it); those of one kind are counted apart.
        roles: the role of each, where it is known from elsewhere.
        kinds: the class of the module that each belongs to, whose words count too.
    """
    ranks = _ranks(list(names.values()), kind)
    found = {}
    for position, (name, parts) in enumerate(names.items()):
        places = []
        for depth in range(1, len(parts) + 1):
            place = ranks.get(parts[:depth])
            if place is not None:
                places.append(place)
        text = " ".join(parts[:-1])
        leaf = [word for word in words_of(parts[-1]) if word not in ROLES or word in SYNONYMS]
        words = meaning_of(" ".join([text, *leaf]))
        words |= meaning_of((kinds or {}).get(name, ""))
        parent = parts[-2] if len(parts) > 1 else ""
        role = roles.get(name) or role_of(parts[-1], parent)
        found[name] = Name(words, tuple(places), role, position / max(len(names) - 1, 1))
    return found


def _ranks(names: Names, kind: Kind) -> dict[tuple[str, ...], frozenset[int]]:
    """For each part with numbered siblings its places among them: among all, and among its kind."""
    families: dict[tuple[tuple[str, ...], str], dict[str, None]] = {}
    for parts in names:
        for depth, part in enumerate(parts):
            # "Dense_0" and "Dense_1" are siblings, as "linear" and "linear_1" are.
            base = re.sub(r"_?\d+$", "", part)
            families.setdefault((parts[:depth], base), {})[part] = None
    ranks = {}
    for (parent, _), siblings in families.items():
        if len(siblings) < 2:
            continue
        ordered = sorted(siblings, key=natural)
        for rank, part in enumerate(ordered):
            path = (*parent, part)
            alike = [other for other in ordered if kind((*parent, other)) == kind(path)]
            ranks[path] = frozenset((rank, alike.index(part)))
    return ranks


def difference(torch_name: Name, name: Name) -> float:
    """How unlike two names are: 0 if they say the same."""
    cost = WORDS * (1 - _same_words(torch_name.words, name.words))
    cost += RANKS * (1 - _same_ranks(torch_name.ranks, name.ranks))
    cost += out_of_order(torch_name, name)
    if torch_name.role == name.role:
        return cost
    if not torch_name.role or not name.role:
        return cost + UNKNOWN_ROLE
    return cost + ALIKE.get(frozenset((torch_name.role, name.role)), OTHER_ROLE)


def out_of_order(torch_name: Name, name: Name) -> float:
    """What it costs that two names stand in different places."""
    return ORDER * abs(torch_name.position - name.position)


def _same_words(theirs: frozenset[str], ours: frozenset[str]) -> float:
    # Nothing said is nothing contradicted.
    if not theirs or not ours:
        return 0.5
    common = len(theirs & ours)
    return 0.5 * common / len(theirs) + 0.5 * common / len(ours)


def _same_ranks(theirs: Sequence[frozenset[int]], ours: Sequence[frozenset[int]]) -> float:
    if not theirs and not ours:
        return 1.0
    if not theirs or not ours:
        return 0.5
    # Place by place from the outside in, where each weighs half as much as the one around it.
    total, same = 0.0, 0.0
    for depth in range(max(len(theirs), len(ours))):
        weight = 0.5**depth
        total += weight
        if depth < min(len(theirs), len(ours)) and theirs[depth] & ours[depth]:
            same += weight
    return 0.7 * same / total + 0.3 * _common(theirs, ours) / max(len(theirs), len(ours))


def _common(theirs: Sequence[frozenset[int]], ours: Sequence[frozenset[int]]) -> int:
    """The length of the longest common subsequence."""
    lengths = [[0] * (len(ours) + 1) for _ in range(len(theirs) + 1)]
    for i, a in enumerate(theirs):
        for j, b in enumerate(ours):
            longer = max(lengths[i][j + 1], lengths[i + 1][j])
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if a & b else longer
    return lengths[-1][-1]
