"""Tokenizers of the package `tokenizers`: the same tokens, and a run that needs no file."""

import contextlib
import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxrnn import SubwordTokenizer, Tokenizer, cli, encode, load_run
from jaxrnn.data.tokenizers import make_tokenizer, restore_tokenizer
from jaxrnn.exchange.files import read_contents
from jaxrnn.generation.texts import generate_texts
from jaxrnn.nn.model import CharModel
from jaxrnn.registry import NotDefinedError
from jaxrnn.runs.config import Config
from jaxrnn.runs.experiment import prepare, prompt_for
from jaxrnn.runs.exported import described
from jaxrnn.runs.measuring import Unit, loss_of_each, tokens_of
from jaxrnn.runs.run import Run
from jaxrnn.runs.transfer import save_imported

try:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
except ImportError:
    tokenizers = None

needs_package = pytest.mark.skipif(tokenizers is None, reason="needs the extra 'tokenizers'")

TEXT = "the quick brown fox naïvely jumps over the lazy dog 世界\n"
SPECIAL = ["[UNK]", "[CLS]"]


def trained(kind, text=TEXT):
    """A tokenizer of each kind of model, which knows the characters of a text."""
    if kind == "bytes":
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "wordpiece":
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=70, special_tokens=SPECIAL, show_progress=False
        )
    elif kind == "words":
        tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, unk_token="[UNK]", special_tokens=SPECIAL, show_progress=False
        )
    tokenizer.train_from_iterator([text] * 20, trainer)
    return tokenizer


KINDS = ["bytes", "wordpiece", "words", "unigram"]


@needs_package
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_package(kind):
    theirs = trained(kind)
    ours = SubwordTokenizer(theirs)
    assert isinstance(ours, Tokenizer)
    tokens = ours.encode(TEXT)
    assert tokens.tolist() == theirs.encode(TEXT, add_special_tokens=False).ids
    assert ours.size == len(theirs.get_vocab())
    assert ours.decode(tokens) == theirs.decode(tokens.tolist())
    assert ours.pieces(tokens) == theirs.encode(TEXT, add_special_tokens=False).tokens
    # And it comes back from what a run's folder has.
    values = json.loads(json.dumps(ours.to_dict()))
    assert restore_tokenizer("subwords", values) == ours
    assert hash(restore_tokenizer("subwords", values)) == hash(ours)
    assert ours != SubwordTokenizer(trained(kind, TEXT + "zebra"))


@needs_package
def test_no_template_no_truncation_and_no_padding_change_a_text():
    theirs = trained("wordpiece")
    plain = SubwordTokenizer(theirs).encode(TEXT)
    theirs.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", theirs.token_to_id("[CLS]"))]
    )
    theirs.enable_truncation(3)
    theirs.enable_padding(length=100)
    assert SubwordTokenizer(theirs).encode(TEXT).tolist() == plain.tolist()
    assert len(theirs.encode(TEXT).ids) == 100  # the user's own is left as it is


@needs_package
def test_a_text_is_decoded_as_a_whole():
    pieces = SubwordTokenizer(trained("wordpiece"))
    tokens = pieces.encode("quicker")
    assert len(tokens) > 1
    assert pieces.decode(tokens) == "quicker"
    assert "##" in "".join(pieces.decode(token[None]) for token in tokens)
    # A character in several tokens: none of them is one.
    of_bytes = SubwordTokenizer(trained("bytes", "plain"))
    tokens = of_bytes.encode("世")
    assert len(tokens) == 3
    assert of_bytes.decode(tokens) == "世"
    assert of_bytes.decode(tokens[:1]) == "\ufffd"


@needs_package
def test_what_stands_for_no_text_is_never_sampled():
    theirs = trained("words", "a b c")
    theirs.add_special_tokens(["[SEP]"])
    ours = SubwordTokenizer(theirs)
    named = {theirs.id_to_token(token) for token in ours.unprintable}
    assert named == {"[UNK]", "[CLS]", "[SEP]"}
    assert theirs.id_to_token(ours.unknown) == "[UNK]"
    assert SubwordTokenizer(trained("bytes")).unprintable == ()
    assert SubwordTokenizer(trained("bytes")).unknown is None
    unigram = trained("unigram")
    unknown = SubwordTokenizer(unigram).unknown
    assert unigram.id_to_token(unknown) == "[UNK]"


@needs_package
def test_numbers_without_a_token_are_never_sampled():
    values = json.loads(trained("words", "a b c").to_str())
    vocabulary = values["model"]["vocab"]
    vocabulary["c"] += 2
    ours = SubwordTokenizer(tokenizers.Tokenizer.from_str(json.dumps(values)))
    assert ours.size == max(vocabulary.values()) + 1
    assert {ours.size - 2, ours.size - 3} <= set(ours.unprintable)


@needs_package
def test_what_is_unknown_is_counted(caplog):
    ours = SubwordTokenizer(trained("words", "a b c"))
    tokens_of(ours, ["a z b y"], None)
    assert "2 tokens are unknown to the model" in caplog.text


@needs_package
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda t: SubwordTokenizer("gpt2"), "must be a tokenizers.Tokenizer, got a str"),
        (lambda t: SubwordTokenizer(tokenizers.Tokenizer(models.BPE())), "no tokens: train it"),
        (lambda t: SubwordTokenizer(t).encode(np.arange(3)), "those of a text, got ndarray"),
        (lambda t: SubwordTokenizer(t).encode("\ud800"), "The tokenizer refuses the text: "),
        (lambda t: SubwordTokenizer(t).decode(np.array([9999])), r"tokens must be in \[0, 300\)"),
        (lambda t: encode(SubwordTokenizer(t), 3), "those of a text, got int"),
        (lambda t: make_tokenizer("subwords", ["a"]), "already: --tokenizer TOKENIZER.json"),
        (lambda t: make_tokenizer("none.json", ["a"]), "Cannot read none.json: No such file"),
        (lambda t: make_tokenizer("x.json", [np.arange(3)]), "take --tokenizer integers"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_in_one_line(call, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        call(trained("bytes"))
    assert "\n" not in str(caught.value)


@needs_package
def test_one_that_is_not_wrapped_is_told_how(tmp_path):
    trained("bytes").save(str(tmp_path / "t.json"))
    code = f"import tokenizers\nRAW = tokenizers.Tokenizer.from_file({str(tmp_path / 't.json')!r})"
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ValueError, match=r"must be wrapped: jaxrnn.SubwordTokenizer\(tokenizer\)"):
        make_tokenizer(f"{tmp_path / 'mine.py'}:RAW", ["a"])


@needs_package
@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "{}", '{"model": 3}', "\0\xff", "cut"])
def test_a_damaged_file_is_one_line(damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 50)
    trained("bytes").save("t.json")
    whole = (tmp_path / "t.json").read_text()
    (tmp_path / "t.json").write_text(whole[: len(whole) // 2] if damage == "cut" else damage)
    assert cli.main(["train", "--corpus", "text.txt", "--tokenizer", "t.json"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: t.json is no tokenizer, as tokenizers.Tokenizer.save writes it:")
    assert told.count("\n") == 1
    assert not (tmp_path / "runs").exists()


SMALL = ["--model", "CharLM", "--cell", "tanh", "--hidden", "8", "--embedding", "4"]
SMALL += ["--batch", "4", "--bptt", "8", "--no-random-bptt", "--schedule", "2 x 1e-2"]


@needs_package
@pytest.mark.slow
def test_a_run_holds_its_tokenizer(tmp_path, monkeypatch, capsys):
    """Every command works on, where the tokenizer's file is gone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 60)
    theirs = trained("bytes")
    theirs.save("t.json")
    flags = ["--corpus", "text.txt", "--tokenizer", "t.json", *SMALL]
    assert cli.main(["find-rate", *flags, "--steps", "4"]) == 0
    assert cli.main(["train", *flags, "--name", "x"]) == 0
    assert "bits/tok" in capsys.readouterr().out
    (tmp_path / "t.json").unlink()

    run = load_run("runs/x")
    assert run.config.tokenizer == "subwords"
    assert run.vocabulary == SubwordTokenizer(theirs)
    text = run.sample("the quick", 5)
    assert text.startswith("the quick")
    pieces = [piece for piece, _ in run.score("the quick")]
    assert pieces == theirs.encode("the quick").tokens

    assert cli.main(["evaluate", "runs/x", "--corpus", "text.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    share = len(theirs.encode(TEXT * 60).ids) / len(TEXT * 60)
    assert found["bits_per_character"] == pytest.approx(found["bits"] * share)

    assert cli.main(["train", "--resume", "runs/x", "--schedule", "3 x 1e-2"]) == 0
    assert cli.main(["export", "runs/x", "x.safetensors"]) == 0
    again = ["--corpus", "text.txt", "--name", "again"]
    assert cli.main(["import", "x.safetensors", *again]) == 0
    assert load_run("runs/again").vocabulary == run.vocabulary
    capsys.readouterr()
    greedy = ["--prompt", "fox", "--length", "4", "--greedy"]
    texts = []
    for name in ("x", "again"):
        assert cli.main(["sample", f"runs/{name}", *greedy]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


@needs_package
@pytest.mark.parametrize("model", ["CharSeqRnn", "CharLM"])
def test_a_prompt_of_the_text_has_as_many_tokens_as_the_model_reads(model, tmp_path):
    """Cut off anywhere, the text of some subwords may be fewer of them."""
    trained("words").save(str(tmp_path / "t.json"))
    (tmp_path / "text.txt").write_text(TEXT * 20)
    config = Config(
        model=model, corpus=str(tmp_path / "text.txt"), tokenizer=str(tmp_path / "t.json"),
        bptt=5, batch_size=2, hidden_size=4, embedding_size=4,
    )  # fmt: skip
    experiment = prepare(config)
    prompt = prompt_for(experiment, None, "")
    assert len(experiment.vocabulary.encode(prompt)) >= (5 if model == "CharSeqRnn" else 1)


@needs_package
def test_a_generated_text_is_decoded_as_a_whole(monkeypatch):
    ours = SubwordTokenizer(trained("wordpiece"))
    quick = ours.encode("quick")
    er = ours.encode("quicker")[len(quick) :]
    assert "##" in ours.pieces(er)[0]
    made = (None, np.asarray(er)[:, None])
    monkeypatch.setattr("jaxrnn.generation.texts.generate", lambda *given, **options: made)
    (text,) = generate_texts(Windowed(ours.size), {}, ours, "quick", window=1, length=len(er))
    assert text == "quicker"


class Windowed(CharModel):
    """A model by name alone."""

    reads = "overlapping"


@needs_package
def test_a_loss_is_given_by_piece_and_by_character():
    ours = SubwordTokenizer(trained("bytes"))
    tokens = tokens_of(ours, [TEXT, TEXT], None)
    unit = Unit.of(ours, [TEXT, TEXT], tokens)
    assert unit.name == "token"
    assert unit.per_character == len(tokens[0]) / len(TEXT)
    read = SimpleNamespace(losses=np.arange(2.0 * len(tokens[0])))
    pieces = [piece for piece, _ in loss_of_each(ours, tokens, read)]
    assert pieces == 2 * ours.pieces(tokens[0])


@contextlib.contextmanager
def without_package(monkeypatch):
    """As where the extra is not installed."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tokenizers", None)
        yield


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 50)
    (tmp_path / "t.json").write_text("{}")
    with without_package(monkeypatch):
        assert cli.main(["train", "--corpus", "text.txt", "--tokenizer", "t.json"]) == 2
        told = capsys.readouterr().err
        assert 'the extra "tokenizers": ' in told
        assert told.count("\n") == 1
        # A run or an export of such a model says the same, and not that it is damaged.
        with pytest.raises(NotDefinedError, match='the extra "tokenizers"'):
            restore_tokenizer("subwords", {"tokenizer": {}})


@needs_package
def test_a_run_and_an_export_need_the_package_and_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 60)
    theirs = trained("bytes")
    theirs.save("t.json")
    config = Config(
        model="CharLM", cell="tanh", corpus="text.txt", tokenizer="t.json",
        batch_size=4, hidden_size=4, embedding_size=4,
    )  # fmt: skip
    experiment = prepare(config)
    params = jax.eval_shape(experiment.fresh_state).params
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    save_imported("runs/x", experiment, params, prompt="fox")
    (tmp_path / "t.json").unlink()

    run = Run("runs/x")
    assert run.config.tokenizer == "subwords"
    assert run.vocabulary == SubwordTokenizer(theirs)
    assert run.experiment().source.tokens.tolist() == experiment.source.tokens.tolist()
    assert cli.main(["export", "runs/x", "x.safetensors"]) == 0
    found = described(read_contents("x.safetensors"), "x.safetensors")
    assert found.vocabulary == run.vocabulary
    # Without the package nothing is damaged, either.
    capsys.readouterr()
    with without_package(monkeypatch):
        for command in (["sample", "runs/x"], ["import", "x.safetensors", "--name", "y"]):
            assert cli.main(command) == 2
            told = capsys.readouterr().err
            assert 'the extra "tokenizers"' in told
            assert "damaged" not in told


@needs_package
def test_a_file_from_elsewhere_makes_no_tokenizer_file_opened(tmp_path):
    """Its tokenizer is in it; a path in its configuration is a name, and nothing is read."""
    values = SubwordTokenizer(trained("bytes")).to_dict()
    (tmp_path / "other.json").write_text("not read")
    assert restore_tokenizer(str(tmp_path / "other.json"), values).size == 300
    config = Config.from_dict(Config(tokenizer="nowhere.json").to_dict())
    assert config.tokenizer == "nowhere.json"
