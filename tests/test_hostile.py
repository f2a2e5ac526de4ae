"""Hostile and odd input: it works, or gives one clear line and exit code 2. Nothing is executed.

The properties run a few cases each here, and 10,000 in all in the long form (`-m slow`).
"""

import contextlib
import io
import json
import re
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import with_valid_checksum
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import jaxrnn.cli.train
from jaxrnn import CharLM, Vocabulary, cli, load_corpus, make_optimizer
from jaxrnn.data.vocabulary import SPECIAL
from jaxrnn.generation.texts import read_prompt
from jaxrnn.runs.checkpoints import CheckpointError, load, pack
from jaxrnn.runs.checksums import make_run_folder
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare
from jaxrnn.runs.run import Run
from jaxrnn.training.schedules import parse_schedule

V = 5
MODEL = CharLM(V, 3, 4)
ADAM = make_optimizer("adam")

SHORT = 40
LONG = {"texts": 2000, "configurations": 2000, "prompts": 2500, "schedules": 1000}
LONG |= {"command-lines": 500, "checkpoints": 1000, "folders": 1000}
EXAMPLES = [SHORT, pytest.param(0, marks=pytest.mark.slow, id="long")]
"""How many examples: 0 stands for the number in `LONG`."""


def hold(what, examples, property_, **strategies):
    """Try a property on many cases; the same ones in every short run."""
    chosen = settings(
        max_examples=examples or LONG[what],
        deadline=None,
        derandomize=bool(examples),
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    chosen(given(**strategies)(property_))()


@contextlib.contextmanager
def refusing(kind=ValueError):
    """Lets a mistake pass if it is told in one clear line."""
    try:
        yield
    except kind as error:
        message = str(error)
        assert 10 < len(message) < 3000
        assert "\n" not in message
        assert "Traceback" not in message


ODD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("ab\r\n\0\ufeff\u202e\u0301\u05d0😀İΣ", max_size=300),
    st.text("ab c\n", min_size=50, max_size=400),
)
FILES = st.one_of(
    st.binary(max_size=200),
    ODD.map(str.encode),
    ODD.map(lambda text: text.encode("utf-8-sig")),
    ODD.map(lambda text: text.encode("utf-16")),
)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_file_is_read_to_the_character_or_refused(tmp_path, examples):
    path = tmp_path / "text"

    def property_(data, model, lowercase, batch_size, bptt):
        path.write_bytes(data)
        with refusing():
            experiment = prepare(
                Config(
                    model=model, corpus=str(path), lowercase=lowercase, bptt=bptt,
                    batch_size=batch_size, min_frequency=1, hidden_size=2, embedding_size=2,
                )
            )  # fmt: skip
            text, vocabulary = load_corpus(str(path)).documents[0], experiment.vocabulary
            assert text == data.decode().removeprefix("\ufeff")
            known = vocabulary.encode(text, unknown="skip")
            if vocabulary.unknown is None:
                assert vocabulary.decode(known) == text
            assert max(known) < len(vocabulary)
            assert max(experiment.source.tokens) < len(vocabulary)

    models = st.sampled_from(["CharSeqStatefulRnn", "CharRnn", "CharSeqRnn"])
    numbers = st.integers(1, 9)
    hold(
        "texts", examples, property_, data=FILES, model=models, lowercase=st.booleans(),
        batch_size=numbers, bptt=numbers,
    )  # fmt: skip


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NUMBERS = st.integers(-2, 2**70) | st.sampled_from([0, 1, 2, 8, 64, 10**6, 2**31, 2**63])


def configurations():
    """A configuration as JSON holds it, with up to three fields of any value."""
    default = Config().to_dict()
    changed = st.dictionaries(st.sampled_from(sorted(default)), ANYTHING | NUMBERS, max_size=3)
    return changed.map(lambda fields: default | fields)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_configuration_makes_a_model_or_is_refused(examples):
    def property_(values):
        with refusing():
            config = Config.from_dict(values)
            assert config.make_model(7).vocab_size == 7
            assert parse_schedule(config.schedule).epochs >= 1
            json.dumps(config.to_dict())

    hold("configurations", examples, property_, values=configurations())


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_prompt_is_read_or_refused(examples):
    vocabularies = [
        Vocabulary.from_frequency(["aab b\r\n\0é😀 e\u0301" * 3]),
        Vocabulary.from_characters(["ab\ud800"]),
    ]

    def property_(prompt, vocabulary, window, unknown):
        with refusing():
            tokens = read_prompt(MODEL, vocabulary, prompt, window=window, unknown=unknown)
            assert 0 < len(tokens) <= 3 * len(prompt)
            assert max(tokens) < len(vocabulary)
            if unknown == "error":
                lowered = prompt.lower() if vocabulary.lowercase else prompt
                assert vocabulary.decode(tokens) == lowered

    hold(
        "prompts", examples, property_,
        prompt=ODD | st.text() | st.text("ab\ud800\udcff"),
        vocabulary=st.sampled_from(vocabularies), window=st.integers(1, 9),
        unknown=st.sampled_from(["error", "replace", "skip"]),
    )  # fmt: skip


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_schedule_gives_finite_rates_or_is_refused(examples):
    def property_(text):
        with refusing():
            schedule = parse_schedule(text)
            for epoch in {0, schedule.epochs - 1}:
                phase, first = schedule.phase(epoch)
                rates = phase.rates(np.arange(3) + 3 * (epoch - first), 3)
                assert np.isfinite(rates).all()
                assert (rates >= 0).all()

    words = ["1 x 1e-3", "sgdr(", "one-cycle(", "2", ",", ")", "1e-2", " x ", "nan", "-1", "1e309"]
    texts = st.lists(st.sampled_from(words), max_size=8).map("".join)
    hold("schedules", examples, property_, text=texts | st.text(string.printable, max_size=30))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_command_line_starts_a_whole_run_or_gives_one_line(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox\n" * 30)
    monkeypatch.setattr(jaxrnn.cli.train, "watch", lambda run, experiment, **options: 0)
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)  # leave the cache alone

    def property_(pairs):
        before = set(tmp_path.glob("runs/*"))
        errors = io.StringIO()
        arguments = [word for pair in pairs for word in pair]
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(["train", "--corpus", "text.txt", "--batch", "2", *arguments])
        made = set(tmp_path.glob("runs/*")) - before
        if code == 0:
            (folder,) = made
            assert Run(folder).experiment().model is not None
        else:
            assert code == 2
            assert re.fullmatch(r"error: [^\n]{10,3000}\n", errors.getvalue()), errors.getvalue()
            assert not made

    flags = [
        "batch-size",
        "bptt",
        "hidden-size",
        "num-layers",
        "dropout",
        "schedule",
        "name",
        "prompt",
        "model",
    ]
    flags += ["corpus", "seed", "clip", "momentum", "min-frequency", "validation", "color"]
    values = [
        "0",
        "1",
        "-1",
        "1e999",
        "nan",
        "x",
        "",
        "..",
        "a/b",
        "😀",
        "\udcff",
        "\x1b[2J",
        "lstm",
    ]
    values += ["CharLM", "text.txt", "/", "/dev/zero", "99999999999999999999", "1 x 1e-3"]
    pair = st.tuples(st.sampled_from([f"--{flag}" for flag in flags]), st.sampled_from(values))
    hold("command-lines", examples, property_, pairs=st.lists(pair, max_size=3))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_sealed_checkpoint_is_read_or_refused(tmp_path, examples):
    path, like = tmp_path / "state", {"a": jnp.ones((2, 3)), "key": jax.random.key(0)}
    whole = pack(like)

    def property_(header, body, at, bit):
        for data in (with_valid_checksum(header, body), body):
            path.write_bytes(data)
            with refusing(CheckpointError):
                load(path, like)
        damaged = bytearray(whole)
        damaged[at % len(whole)] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path, like)

    kinds = st.sampled_from(["F32", "U32", "I64", "F8_E4M3", "BF16", "BOOL", "?"])
    offsets = st.lists(st.integers(0, 2**64) | st.integers(0, 30), min_size=2, max_size=2)
    shapes = st.lists(st.integers(-1, 2**62) | st.integers(0, 3), max_size=3)
    tensor = st.fixed_dictionaries({"dtype": kinds, "shape": shapes, "data_offsets": offsets})
    headers = st.dictionaries(st.sampled_from(["a", "key", "../b"]), tensor | ANYTHING, max_size=3)
    hold(
        "checkpoints", examples, property_, header=headers, body=st.binary(max_size=40),
        at=st.integers(0, 10**6), bit=st.integers(0, 7),
    )  # fmt: skip


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_run_folder_is_read_or_refused(tmp_path, examples):
    numbers = iter(range(10**9))
    kinds = {"config": Config, "vocabulary": Vocabulary, "prompt": str, "history": list}

    def property_(described, listed, history):
        run = Run(tmp_path / str(next(numbers)))
        make_run_folder(
            run.folder,
            {"config.json": json.dumps(described), "vocabulary.json": json.dumps(listed)},
        )
        (run.folder / "history.jsonl").write_text(history)
        for look, kind in kinds.items():
            with refusing():
                assert isinstance(getattr(run, look), kind)
        with pytest.raises(ValueError) as refused:  # noqa: PT011  (the message is looked at below)
            run.load_params()  # there is no checkpoint, whatever the rest says
        with refusing():
            raise refused.value

    described = ANYTHING | configurations().map(lambda c: {"config": c, "corpus_sha256": ""})
    tokens = st.lists(st.text(max_size=2) | st.sampled_from(SPECIAL) | ANYTHING, max_size=5)
    listed = ANYTHING | st.fixed_dictionaries({"itos": tokens, "lowercase": ANYTHING})
    lines = ANYTHING.map(lambda value: json.dumps(value) + "\n") | st.text(max_size=20)
    hold("folders", examples, property_, described=described, listed=listed, history=lines)
