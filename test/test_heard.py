"""Text as if heard: what is heard of spoken words, sequences that are made of it, and their training."""

import itertools
import json
import os
import random
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import LORA
from test_llm_trim import gemma
from test_spelling import recipe, text, whisper  # noqa: F401  fixtures

from espnet_llmvq.analyse.heard import compare, overlap
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge
from espnet_llmvq.decode.heard import spoken, write_spoken
from espnet_llmvq.model.batch import SequenceArrays, batch_of
from espnet_llmvq.model.positions import Positions
from espnet_llmvq.model.speech_llm import SpeechLLM
from espnet_llmvq.sequence.asr import asr_sequence, heard_sequence
from espnet_llmvq.sequence.heard import Confusions, read_confusions, read_spoken
from espnet_llmvq.sequence.prompt import template_of
from espnet_llmvq.sequence.sequence import Sequence, SequenceReader, Span, read_sequences
from espnet_llmvq.speech.frame_rate import FrameRate

TEMPLATE = "USER: {speech} ASSISTANT: {text}"
A, B, C = {"a": 1.0}, {"b": 0.75, "a": 0.25}, {"c": 0.5}


# --- The span


def test_a_sequence_of_text_as_if_heard_is_read_as_it_was_written():
    seq = heard_sequence("x", "a b", [A, B], TEMPLATE)
    assert [span.is_heard for span in seq.spans] == [False, True, False, False]
    assert '{"heard": [{"a": 1.0}, {"b": 0.75, "a": 0.25}], "said": "a b"}' in seq.to_json()
    assert Sequence.from_json(seq.to_json()) == seq and seq.transcript == "a b"
    assert template_of(seq) == template_of(asr_sequence("x", "x.wav", 9, "a b", TEMPLATE))


@pytest.mark.parametrize(
    "span, message",
    [
        ({"heard": []}, "a list of steps"),
        ({"heard": [{}]}, "a list of steps"),
        ({"heard": [["a", 1.0]]}, "a list of steps"),
        ({"heard": [{"a": 0}]}, "weights above 0"),
        ({"heard": [{"a": True}]}, "weights above 0"),
        ({"heard": [A], "text": "a"}, "either text or audio or heard"),
        ({"heard": [A], "loss": True}, "no loss"),
        ({"heard": [A], "samples": 3}, "no samples"),
    ],
)
def test_spans_that_cannot_be(span, message):
    with pytest.raises(ValueError, match=message):
        Span(**span)


# --- Drawing


def word(*pairs):
    return list(pairs)


def test_a_word_is_heard_as_one_of_the_times_that_it_was_spoken():
    """Every text that can be drawn, counted by hand: a frequent word whole, another by its pieces."""
    cat = [word(("c", [C]), ("at", [])), word(("c", [C, C]), ("at", [A]))]
    hat = [word(("h", [B]), ("at", [A, B]))]
    made = Confusions([*cat * 3, *hat])  # 6 times and once
    draws = [made([("c", "at"), ("h", "at")], random.Random(n)) for n in range(400)]
    whole = [[C], [C, C, A]]
    # h was spoken once only: the steps of a first piece of one letter, c or h, under the name of h
    firsts = [[{"h": 0.5}], [{"h": 0.5}, {"h": 0.5}], [B]]
    lasts = [[], [A], [A, B]]  # at: of cat and hat alike
    possible = [sum(parts, []) for parts in itertools.product(whole, firsts, lasts)]
    assert {json.dumps(d) for d in draws} == {json.dumps(p) for p in possible}
    assert made([("c", "at")], random.Random(5)) == made([("c", "at")], random.Random(5))
    assert {piece for piece, _ in made.pieces([("c", "at"), ("h", "at")], random.Random(5))} == {"c", "at", "h"}


def test_a_piece_that_was_hardly_spoken_is_heard_as_one_of_its_kind():
    made = Confusions([word(("c", [{"c": 0.5, "x": 0.25, "z": 0.25}]))] * 5 + [word(("long", [A]))] * 5)
    assert made([("z",)], random.Random(1)) == [{"z": 0.75, "x": 0.25}]
    # no first piece of five letters: any first piece; no second piece at all: any piece
    assert made([("fifth",)], random.Random(1)) in ([{"fifth": 0.5, "x": 0.25, "z": 0.25}], [A])
    assert len(made([("fifth", "s")], random.Random(1))) == 2
    with pytest.raises(ValueError, match="no word was spoken"):
        Confusions([[]])


def test_how_close_it_comes_is_counted_by_hand():
    assert overlap([A, B], [A, A]) == (1 + 0.25) * 2 / 4
    assert overlap([A], [A, C]) == 2 / 3 and overlap([], []) == 1.0 and overlap([], [A]) == 0.0
    assert overlap([{"a": 0.4, "b": 0.4}], [{"a": 0.25, "c": 0.75}]) == 0.25  # as shares
    real = [("a", [A]), ("b", []), ("a", [B, C]), ("c", [B, C])]
    heard = [("a", [A]), ("b", [B]), ("a", []), ("c", [C, C])]
    found = compare(real, heard)
    assert found == {
        "steps_spoken": 5 / 4, "right_spoken": 50.0, "steps_heard": 1.0, "right_heard": 75.0,
        "overlap_heard": (1 + 0 + 0 + 0.5) / 4, "overlap_clear": (1 + 0 + 2 / 3 * 0.25 + 0) / 4,
    }  # fmt: skip


def test_a_damaged_file_of_spoken_words(tmp_path):
    path = tmp_path / "spoken.jsonl"
    path.write_text('{"id": "u", "words": [["a"]]}\n')
    with pytest.raises(UserError, match="spoken.jsonl: cannot be read .* run stage 9"):
        read_confusions(str(path))
    path.write_text('{"id": "u", "words": []}\n')
    with pytest.raises(UserError, match="spoken.jsonl: no word was spoken; remove it and run stage 9"):
        read_confusions(str(path))


# --- Listening


class Listener(torch.nn.Module):
    """An encoder that makes given frames of speech, and a CTC head whose log-probabilities they are."""

    def __init__(self, frames, blank):
        super().__init__()
        self.made, self.blank = frames, blank

    def forward(self, speech, lengths, augment=None):
        return self.made[None].expand(len(speech), -1, -1), torch.full((len(speech),), len(self.made))


class Head(torch.nn.Module):
    def __init__(self, blank):
        super().__init__()
        self.blank, self.bias = blank, torch.nn.Parameter(torch.zeros(()))

    def forward(self, frames):
        return frames.log() + self.bias


@pytest.mark.parametrize("merge", [True, False])
def test_steps_belong_to_the_piece_that_was_spoken(tokenizer, tmp_path, merge):
    """Ten frames of " one two", posteriors by hand: a blank dropped, a run merged, a piece taken for another one."""
    one, two = tokenizer.encode("one", add_special_tokens=False), tokenizer.encode(" two", add_special_tokens=False)
    spelled, names = [*one, *two], tokenizer.convert_ids_to_tokens([*one, *two])
    blank, wrong = len(tokenizer), tokenizer.encode(" nine", add_special_tokens=False)[0]
    assert wrong not in spelled
    rows = []

    def frame(**shares):
        row = torch.full((blank + 1,), 1e-7)
        for label, share in shares.items():
            row[int(label[1:])] = share
        rows.append(row / row.sum())

    frame(**{f"l{blank}": 0.99, f"l{spelled[0]}": 0.01})
    frame(**{f"l{spelled[0]}": 0.8, f"l{wrong}": 0.2})
    frame(**{f"l{spelled[0]}": 0.6, f"l{wrong}": 0.4})
    for label in spelled[1:-1]:
        frame(**{f"l{label}": 1.0})
    # the last piece is taken for another one, and a step more is half blank
    frame(**{f"l{wrong}": 0.7, f"l{spelled[-1]}": 0.3})
    frame(**{f"l{blank}": 0.6, f"l{spelled[-1]}": 0.3, f"l{wrong}": 0.1})
    frame(**{f"l{blank}": 0.97, f"l{wrong}": 0.03})
    soundfile.write(tmp_path / "u.wav", np.zeros(4000), 16000)
    seq = asr_sequence("u", str(tmp_path / "u.wav"), 4000, "one two", "{speech}{text}")
    path = tmp_path / "sequences.jsonl"
    path.write_text(seq.to_json() + "\n")
    model = SpeechLLM(
        Listener(torch.stack(rows), blank), Head(blank), None, None, None, 2, llm_weight=0.0, drop_blank=0.95,
        merge_runs=merge,
    )  # fmt: skip
    ((utt, words),) = spoken(model.eval(), tokenizer, str(path))
    found = [(piece, steps) for spelled_word in words for piece, steps in spelled_word]
    assert utt == "u" and len(words) == 2 and [piece for piece, _ in found] == names
    nine, first, last = tokenizer.convert_ids_to_tokens([wrong, spelled[0], spelled[-1]])
    # of a run the mean of its frames
    expected = [{first: 0.7, nine: 0.3}] if merge else [{first: 0.8, nine: 0.2}, {first: 0.6, nine: 0.4}]
    assert found[0][1] == expected
    for piece, steps in found[1:-1]:
        assert steps == [{piece: 1.0}]
    # 0.3 and 0.1 of what is no blank
    assert found[-1][1] == [{nine: 0.7, last: 0.3}, {last: 0.75, nine: 0.25}]
    # written and read, and drawn from
    out = str(tmp_path / "spoken.jsonl")
    assert write_spoken(out, [(utt, words)] * 5) == 10
    drawn = read_confusions(out)(
        [tuple(piece for piece, _ in spelled_word) for spelled_word in words], random.Random(1)
    )
    assert drawn == [step for _, steps in found for step in steps]


def test_what_cannot_be_aligned_is_told(tokenizer, tmp_path):
    soundfile.write(tmp_path / "u.wav", np.zeros(4000), 16000)
    seq = asr_sequence("u", str(tmp_path / "u.wav"), 4000, "one two three", "{speech}{text}")
    path = tmp_path / "sequences.jsonl"
    path.write_text(seq.to_json() + "\n")
    frames, failed = torch.full((2, len(tokenizer) + 1), 0.1), {}
    model = SpeechLLM(Listener(frames, len(tokenizer)), Head(len(tokenizer)), None, None, None, 2, llm_weight=0.0)
    assert list(spoken(model.eval(), tokenizer, str(path), failed=failed)) == []
    assert "audio too short: 2 encoder frames" in failed["u"]


# --- In the model


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_llm_inputs_are_weighted_rows_of_the_codebook(kept):
    """Against sums by hand in float64; a hard bridge takes the heaviest row, one without a codebook the LLM's rows."""
    torch.manual_seed(0)
    table, embed = torch.randn(7, 3), torch.nn.Embedding(7, 3)
    rows, weights = torch.tensor([[3, 1, 5], [2, 0, 0]]), torch.tensor([[0.2, 0.5, 0.25], [0.9, 0.0, 0.0]])
    conf = {"stack": 1, "hidden_size": 4, "output_scale": 2.0}
    soft = SoftBridge(5, table, top_k=kept, **conf)
    order = [(1, 0.5), (5, 0.25), (3, 0.2)][:kept]
    total = sum(weight for _, weight in order)
    first = sum(weight / total * table[row].double() for row, weight in order)
    expected = 2.0 * torch.stack([first, table[2].double()])
    assert torch.allclose(soft.heard(rows, weights, embed).double(), expected, atol=1e-6)
    shares = SoftBridge(5, table, top_k=kept, renormalise=False, **conf).heard(rows, weights, embed).double()
    assert torch.allclose(shares, expected * torch.tensor([[total], [0.9]]), atol=1e-6)
    hard = HardBridge(5, table, **conf)
    assert torch.allclose(hard.heard(rows, weights, embed), 2.0 * table[[1, 2]])
    permuted = HardBridge(5, table, permute_codebook=1, **conf)
    assert torch.allclose(permuted.heard(rows, weights, embed), 2.0 * table[permuted.permutation[[1, 2]]])
    none = Bridge(5, table, match_norm=True, **conf).heard(rows, weights, embed)
    summed = (weights[..., None] * embed(rows)).sum(1)
    length = table.norm(dim=1).mean()
    assert torch.allclose(none, 2.0 * length * summed / summed.norm(dim=1, keepdim=True), atol=1e-5)
    weights.requires_grad_()
    trained = SoftBridge(5, table, top_k=kept, codebook="trainable", **conf)
    trained.heard(rows, weights, embed).sum().backward()
    touched = trained.codebook.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == sorted([2, *(row for row, _ in order)])


SOFT = {"bridge": "soft", "bridge_conf": {"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 7}}


def heard_as_spelled(tokenizer, key, given, answer):
    """(text, the same as if every token was heard once and clearly), with the loss on the answer."""
    steps = [{name: 1.0} for name in tokenizer.tokenize(given)]
    last = Span(text=answer, loss=True, eos=True)
    said = Span(text=given)
    return Sequence(key, (said, last)), Sequence(key, (Span(heard=steps, said=given), last))


@pytest.mark.parametrize("conf", [{}, SOFT, {**SOFT, "model_conf": {"packing": 64}}], ids=["none", "soft", "packed"])
def test_what_is_heard_clearly_is_text(make_model, tokenizer, corpus, conf):
    """Tokens of weight 1 are the embeddings of the text; and sequences of all kinds share a batch."""
    model, arrays = make_model(**conf), SequenceArrays(tokenizer)
    plain, heard = heard_as_spelled(tokenizer, "a", "five six", " one two")
    other = heard_as_spelled(tokenizer, "b", "seven", " three")[1]
    assert Positions(tokenizer, {}, 1)(heard) == Positions(tokenizer, {}, 1)(plain)
    assert Positions(None, {}, 1).upper_bound(heard) >= Positions(tokenizer, {}, 1)(heard)
    spoken_ = next(iter(read_sequences(corpus.train)))
    alone = {}
    with torch.no_grad():
        for name, seqs in {"plain": [plain], "heard": [heard], "other": [other], "spoken": [spoken_]}.items():
            alone[name] = model(**batch_of(arrays, seqs)[1])
        assert float(alone["heard"][0]) == pytest.approx(float(alone["plain"][0]), rel=1e-5)
        for names in (("heard", "spoken"), ("spoken", "other", "heard"), ("other", "plain", "spoken", "heard")):
            found = {"heard": heard, "other": other, "spoken": spoken_, "plain": plain}
            loss, stats, weight = model(**batch_of(arrays, [found[name] for name in names])[1])
            counts = [float(alone[name][2]) for name in names]
            wanted = sum(float(alone[name][0]) * n for name, n in zip(names, counts)) / sum(counts)
            assert float(weight) == sum(counts) and float(loss) == pytest.approx(wanted, rel=1e-4)
            # the bridge's statistics are of speech alone
            assert float(stats["bridge_steps"]) == float(alone["spoken"][1]["bridge_steps"])


def test_tokens_and_losses_that_cannot_be(make_model, tokenizer):
    arrays = SequenceArrays(tokenizer)
    seq = Sequence("s", (Span(heard=[{"no such token": 1.0}]), Span(text=" one", loss=True, eos=True)))
    with pytest.raises(UserError, match="s: 'no such token' is no token of the LLM; run again from stage 9"):
        arrays(seq)
    heard = heard_as_spelled(tokenizer, "a", "five", " one")[1]
    model = make_model(model_conf={"ctc_weight": 1.0})
    with pytest.raises(UserError, match="one speech span in every sequence; leave text, also as if heard, out"):
        model(**batch_of(arrays, [heard])[1])
    frozen = make_model(freeze=["llm"], bridge="hard", bridge_conf={"stack": 1, "hidden_size": 24}).train()
    with pytest.raises(UserError, match="a batch of text alone trains nothing where the LLM is frozen"):
        frozen(**batch_of(arrays, [heard])[1])
    lora = make_model(llm_conf={"lora": LORA}, bridge="hard", bridge_conf={"stack": 1, "hidden_size": 24}).train()
    lora(**batch_of(arrays, [heard])[1])[0].backward()
    assert {n.split(".")[0] for n, p in lora.named_parameters() if p.grad is not None} == {"llm"}


# --- In a recipe

CARDS = {
    "systems": {"a": {"phases": ["one"]}, "b": {"phases": ["one", "two"]}},
    "phases": {
        "one": {"max_epoch": 1, "mixture": "m", "bridge_conf": {"stack": 1}},
        "two": {"base": "one", "model_conf": {"merge_runs": True}},
    },
    "mixtures": {"m": {"train/asr": 1, "train/heard": 1, "domain/heard": 2}},
}


def test_what_text_as_if_heard_needs(plan, llm_dir, tmp_path):
    given = {"texts": "domain=d.txt", "llm": llm_dir}
    experiment = plan(CARDS, systems="a", **given)
    assert experiment.mixtures == {"m": {"train/asr": 1, "train/heard": 1, "domain/heard": 2}}
    assert experiment.sequences("domain/heard") == "dump/domain/heard.jsonl" and experiment.whole_files("m")
    with pytest.raises(
        UserError, match="phase one has model_conf .*'merge_runs': False.*phase two has .*made once for"
    ):
        plan(CARDS, systems="b", **given)
    stacked = {**CARDS, "phases": {"one": {"mixture": "m", "bridge_conf": {"stack": 2}}, "two": {"base": "one"}}}
    with pytest.raises(UserError, match="it needs bridge_conf.stack 1, not 2"):
        plan(stacked, systems="a", **given)
    frozen = {**CARDS, "phases": {"one": {**CARDS["phases"]["one"], "freeze": ["llm"]}, "two": {"base": "one"}}}
    with pytest.raises(UserError, match=r"has text as if heard \(train/heard\).*but LLM and codebook are frozen"):
        plan(frozen, systems="a", **given)
    unknown = {**CARDS, "mixtures": {"m": {"domian/heard": 1}}}
    with pytest.raises(UserError, match=r"domian/heard: 'domian' \(did you mean 'domain'\?\)"):
        plan(unknown, systems="a", **given)


def test_an_encoder_of_our_own_is_heard_on_validation_speech(plan, llm_dir, corpus, encoder_dir, tmp_path, capfd):
    from espnet_llmvq.stages import sequences

    (tmp_path / "d.txt").write_text("one two\n")
    for name, path in (("train", corpus.train), ("valid", corpus.valid), ("test", corpus.valid)):
        rows = [(seq.id, next(s for s in seq.spans if s.is_speech), seq.transcript) for seq in read_sequences(path)]
        (tmp_path / "dump" / name).mkdir(parents=True)
        for table, value in {"text": 2, "wav.scp": 1, "utt2num_samples": 1, "utt2spk": 0}.items():
            fields = [(u, (u, s.samples if table.startswith("utt2num") else s.audio, t)[value]) for u, s, t in rows]
            (tmp_path / "dump" / name / table).write_text("".join(f"{u} {v}\n" for u, v in sorted(fields)))
    experiment = plan(
        CARDS, systems="a", texts="domain=d.txt", llm=llm_dir, encoder_file=os.path.join(encoder_dir, "model.pth")
    )
    sequences.make_all(experiment)
    made = json.loads((tmp_path / "exp/heard/spoken.jsonl.made.json").read_text())["options"]
    assert made["set"] == "valid" and not made["masked"]
    # nothing is dropped or merged: each frame of the encoder is a step of one piece
    rate = FrameRate(experiment.encoder)
    samples = {s.id: span.samples for s in read_sequences(corpus.valid) for span in s.spans if span.is_speech}
    heard = dict(read_spoken("exp/heard/spoken.jsonl"))
    assert heard
    for utt, words in heard.items():
        assert sum(len(steps) for spelled in words for _, steps in spelled) == int(rate.frames(samples[utt]))
    (only,) = read_sequences("dump/domain/heard.jsonl")
    assert only.transcript == "one two" and only.spans[1].said == "one two"


def test_from_masked_speech_to_a_system(recipe, plan, tmp_path, capfd):  # noqa: F811
    from espnet_llmvq.analyse.run import Analysis
    from espnet_llmvq.stages import analyse, encoder, language, sequences, train

    (tmp_path / "domain.txt").write_text("hello three\npatient number ten\n\n")
    page = (Path(__file__).resolve().parent.parent / "docs/interleaving.md").read_text(encoding="utf-8")
    block = re.search(r"^    base: template/paper_a.yaml\n(    .*\n)*", page, re.MULTILINE)[0]
    cards = textwrap.dedent(block).replace("asr_heard: {train/asr: 1,", "asr_heard: {train/asr: 1, train/heard: 1,")
    experiment = recipe(
        gemma(tmp_path / "llm"), systems="read_soft_k10 lora_long_heard", ctc_pieces="20", texts="domain=domain.txt",
        cards=cards,
    )  # fmt: skip
    language.tokenizer(experiment)
    encoder.prepare(experiment)
    train.train(experiment, encoder=True)
    sequences.make_all(experiment)
    made = json.loads((tmp_path / "exp/heard/spoken.jsonl.made.json").read_text())["options"]
    assert made["set"] == "train" and made["masked"] and made["drop_blank"] == 0.95
    words = [json.loads(line) for line in (tmp_path / "exp/heard/spoken.jsonl").read_text().splitlines()]
    assert {entry["id"] for entry in words} <= {f"train{i}" for i in range(4)}
    heard = list(read_sequences("dump/domain/heard.jsonl"))
    assert [seq.transcript for seq in heard] == ["hello three", "patient number ten"]
    assert "empty line" in (tmp_path / "dump/domain/heard.jsonl.dropped.tsv").read_text()
    assert len(list(read_sequences("dump/train/heard.jsonl"))) == 4
    encoder.encode(experiment, 1)
    sequences.count_all(experiment)
    sequences.make_mixtures(experiment)
    # steps and tokens are counted as they are
    tokenizer = train_tokenizer(experiment)
    lengths = dict(line.split() for line in open(experiment.positions("domain/heard")))
    for seq in heard:
        arrays = SequenceArrays(tokenizer)(seq)
        assert int(lengths[seq.id]) == len(arrays["tokens"]) - 1 + len(arrays["heard_rows"])
    # the speech of the mixture is read from the cache
    mixed = [key for key in SequenceReader(experiment.mixture("asr_heard")[0]) if key.startswith("train_asr/")]
    assert mixed
    train.train(experiment)
    assert os.path.exists("exp/start-read-hard_short-soft_k10/model.pth")
    assert os.path.exists("exp/start-lora_long_heard/model.pth")
    config = yaml.safe_load(open("exp/start-lora_long_heard/config.yaml"))
    assert config["train_cache"] == "exp/frames/train/frames.scp"
    analyse.analyse(experiment, experiment.systems, Analysis(examples=0, replicates=1))
    rows = json.loads((tmp_path / "exp/analysis/analysis.json").read_text())["rows"]
    for name in ("read_soft_k10", "lora_long_heard"):
        found = {row["metric"]: row["value"] for row in rows if row["system"] == name}
        assert found["steps_spoken"] > 0 and 0 <= found["overlap_heard"] <= 1
        assert all(0 < found[f"loss_{kind}"] < 20 for kind in ("spoken", "retold", "heard", "clear"))
    # Another run with this encoder listens as this one did, and spells with its pieces.
    shutil.copytree("dump", "dump2", ignore=shutil.ignore_patterns("domain", "heard*"))
    other = plan(
        systems="lora_long_heard", llm=str(tmp_path / "llm"), encoder_file="exp/encoder/model.pth",
        texts="domain=domain.txt", dumpdir="dump2", expdir="exp2",
    )  # fmt: skip
    sequences.make_all(other)
    made = json.loads((tmp_path / "exp2/heard/spoken.jsonl.made.json").read_text())["options"]
    assert made["set"] == "train" and made["masked"]
    assert (tmp_path / "dump2/domain/heard.jsonl").read_text() == (tmp_path / "dump/domain/heard.jsonl").read_text()
    capfd.readouterr()
    sequences.make_all(experiment)
    assert "made again" not in capfd.readouterr().out
    (tmp_path / "domain.txt").write_text("hello four\n")
    sequences.make_all(experiment)
    said = capfd.readouterr().out
    assert "dump/domain/heard.jsonl is made again: text" in said and "exp/heard/spoken.jsonl is up to date" in said


def train_tokenizer(experiment):
    from espnet_llmvq.llm.directory import load_tokenizer

    return load_tokenizer(experiment.tokenizer)
