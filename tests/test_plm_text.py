"""Text in, text out: the tokenizer, ChatML, sampling, the generate task, perplexity; and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from eager_session import EagerSession

from edge import checkpoints
from edge.errors import CheckpointError, InputError, UsageError
from edge.families.base import Model, Source, find
from edge.families.plm.config import read_config
from edge.families.plm.decoder import aligned, losses, session_decoder
from edge.families.plm.generate import Generate, choose
from edge.families.plm.modules import PLM
from edge.families.plm.vocabulary import Vocabulary
from edge.progress import Progress
from edge.tasks import TaskRequest, TextRequest

DEMO = checkpoints.demo_folder("plm")


class Heard(Progress):
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.warnings: list[str] = []

    def write(self, text: str) -> None:
        self.pieces.append(text)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


@pytest.fixture(scope="module")
def model() -> Model:
    return find("plm")[0].load("plm", None, Source(context=64))


@pytest.fixture
def session(model: Model) -> EagerSession:
    made = EagerSession(model)
    made.root = DEMO
    return made


@pytest.fixture(scope="module")
def faithful() -> PLM:
    module = PLM(read_config(DEMO / "config.json"))
    return checkpoints.fill(module, checkpoints.read(DEMO)).eval()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(DEMO / "tokenizer.json", 2048)


def ask(session: EagerSession, **asked: object) -> tuple[dict[str, object], Heard]:
    heard = Heard()
    result = Generate().run(session, TaskRequest(text=TextRequest(**asked)), heard)  # type: ignore[arg-type]
    return result.values, heard


def test_greedy_text_is_the_faithful_models(session: EagerSession, faithful: PLM, vocabulary: Vocabulary) -> None:
    prompt = "Return a new list. The argument must be an iterable of strings, and each of them is split at every line end. "
    prompt += "The default is None. The with statement"
    found, heard = ask(session, prompt=prompt, max_new_tokens=12)
    ids = vocabulary.encode(prompt)
    assert 32 < len(ids) < 52 and found["prompt_tokens"] == len(ids)
    expected: list[int] = []
    ends = vocabulary.ends((0, 2))
    with torch.no_grad():
        while len(expected) < 12 and not (expected and expected[-1] in ends):
            expected.append(int(faithful(torch.tensor([ids + expected]))[0, -1].argmax()))
    assert found["tokens"] == expected
    assert "".join(heard.pieces) == f"{found['text']}\n" and len(heard.pieces) > 3


def test_a_context_that_is_full_ends_the_text(session: EagerSession) -> None:
    found, heard = ask(session, prompt="The", max_new_tokens=500, temperature=1.5, seed=3)
    assert found["stopped"] in ("context", "end")
    if found["stopped"] == "context":
        assert found["prompt_tokens"] + len(found["tokens"]) == 65  # type: ignore[arg-type, operator]
        assert "longer --context" in heard.warnings[0]
    with pytest.raises(InputError, match=r"the prompt is \d+ tokens long and the context has room for 64"):
        ask(session, prompt="one two three " * 40)
    with pytest.raises(InputError, match="pass --prompt"):
        ask(session, prompt="")
    with pytest.raises(InputError, match="pass --prompt"):
        ask(session)


def test_sampling_depends_on_the_seed_alone(session: EagerSession) -> None:
    texts = [ask(session, prompt="The", max_new_tokens=8, temperature=1.0, seed=seed)[0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_choosing() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3]))
    random = np.random.default_rng(0)
    assert choose(logits, 0.0, 1.0, random) == 1
    drawn = [choose(logits, 1.0, 1.0, random) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.1, 0.6, 0.3], atol=0.03)
    assert {choose(logits, 1.0, 0.61, random) for _ in range(200)} == {1, 2}
    assert {choose(logits, 1.0, 0.5, random) for _ in range(200)} == {1}
    assert {choose(logits, 1.0, 0.0, random) for _ in range(50)} == {1}
    hot = [choose(logits, 100.0, 1.0, random) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(hot) / 4000, [1 / 3] * 3, atol=0.03)


def test_stats(session: EagerSession) -> None:
    result = Generate().run(
        session, TaskRequest(text=TextRequest(prompt="The", max_new_tokens=4, stats=True)), Progress()
    )
    assert [line.split("  ")[0] for line in result.lines] == [
        "time to first token", "prefill", "decode", "cache", "peak memory",
    ]  # fmt: skip
    assert result.values["cache_bytes"] == 5 * 64 * 80 * 4
    assert float(str(result.values["time_to_first_token_ms"])) > 0
    assert Generate().run(session, TaskRequest(text=TextRequest(prompt="The", max_new_tokens=1)), Progress()).lines == ()


def test_chat_turns(vocabulary: Vocabulary) -> None:
    ids = vocabulary.user_turn("What is <|im_end|> json.dumps?")
    text = vocabulary.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "<|im_start|>user\nWhat is <|im_end|> json.dumps?<|im_end|>\n<|im_start|>assistant\n"
    # What the user spells out is text; the turns' own marks are tokens.
    assert [ids.count(vocabulary.tokenizer.token_to_id(mark)) for mark in ("<|im_start|>", "<|im_end|>")] == [2, 1]
    assert vocabulary.encode("a<|im_end|>")[-1] == vocabulary.tokenizer.token_to_id("<|im_end|>")
    assert vocabulary.ends((7,)) == {0, 2, 7}


def test_chat_answers(session: EagerSession) -> None:
    found, _ = ask(session, prompt="What is json.dumps?", chat=True, max_new_tokens=4)
    assert found["prompt_tokens"] > 10 and found["text"]  # type: ignore[operator]


@pytest.mark.parametrize("text", ["plain", "naïve, 日本語 🙂🏽", "  def f():\n\t\treturn None\r\n"])
def test_text_streams_in_whole_characters(vocabulary: Vocabulary, text: str) -> None:
    stream = vocabulary.stream()
    pieces = [stream(token) for token in vocabulary.encode(text)]
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 1


def test_tokenizers_that_do_not_fit(tmp_path: Path, session: EagerSession) -> None:
    with pytest.raises(CheckpointError, match="ids up to 2047 and the model knows 2000"):
        Vocabulary(DEMO / "tokenizer.json", 2000)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is not a tokenizer.json"):
        Vocabulary(tmp_path / "tokenizer.json", 2048)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path)
    with pytest.raises(CheckpointError, match=r"is not a tokenizer.json"):
        find("plm")[0].load("plm", None, Source(checkpoint=tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    assert find("plm")[0].load("plm", None, Source(checkpoint=tmp_path, context=16)).assets == {}
    session.root = tmp_path
    with pytest.raises(InputError, match="has no tokenizer"):
        ask(session, prompt="The")
    stored = json.loads((DEMO / "tokenizer.json").read_text())
    stored["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    plain = Vocabulary(tmp_path / "tokenizer.json", 2048)
    plain.tokenizer.token_to_id("x")
    if plain.tokenizer.token_to_id("<|im_start|>") is None:
        with pytest.raises(UsageError, match="leave --chat out"):
            plain.user_turn("hello")


def test_perplexity_of_a_text(session: EagerSession, faithful: PLM, vocabulary: Vocabulary) -> None:
    text = "The string is split into lines, and the list of them is returned.\n" * 6
    found = find("plm")[0].perplexity(session, text, Progress())
    ids = vocabulary.encode(text)
    lost = []
    with torch.no_grad():
        for start in range(0, len(ids), 64):
            row = torch.tensor(ids[start : start + 64])
            lost.append(torch.nn.functional.cross_entropy(faithful(row[None, :-1])[0], row[1:], reduction="sum"))
    count = len(ids) - len(lost)
    assert found.tokens == count and found.passages == len(lost) > 1
    assert found.perplexity == pytest.approx(math.exp(float(sum(lost)) / count), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(float(sum(lost)) / math.log(2) / len(text), rel=1e-4)
    with pytest.raises(InputError, match="fewer than two tokens"):
        find("plm")[0].perplexity(session, "a", Progress())
    with pytest.raises(UsageError, match="predicts no text"):
        find("tspulse")[0].perplexity(session, "a b c", Progress())


def test_reading_beyond_the_context(session: EagerSession) -> None:
    decoder = session_decoder(session)
    decoder.last(list(range(60)))
    with pytest.raises(InputError, match="5 tokens after 60 are more than the context of 64"):
        decoder.last([1] * 5)
    decoder.last([1] * 4)
    assert decoder.position == 64 and decoder.cache_bytes == decoder.caches.nbytes


def test_losses_and_memory() -> None:
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)) + 100
    np.testing.assert_allclose(losses(logits, np.array([1, 0])), -np.log([0.75, 0.5]), rtol=1e-5)
    for shape, dtype in (((3, 5), np.float32), ((1,), np.int64)):
        made = aligned(shape, dtype)
        assert made.ctypes.data % 64 == 0 and made.shape == shape and made.dtype == dtype and not made.any()
