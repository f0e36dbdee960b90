"""Spelling pieces of an LLM, and the encoder and CTC head that are trained on a frozen pretrained encoder with them."""

import dataclasses
import math
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import standins
import torch
from test_llm_trim import ODD, gemma

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import Bridge
from espnet_llmvq.decode.rescore import speller
from espnet_llmvq.llm.directory import load_llm, load_tokenizer
from espnet_llmvq.llm.ends import token_inputs
from espnet_llmvq.llm.pieces import Pieces
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.llm.spelling import read_rows, write_spelling
from espnet_llmvq.model.alignment import AlignedStart
from espnet_llmvq.model.ctc import PieceHead
from espnet_llmvq.sequence.sequence import Span
from espnet_llmvq.speech.encoder import SpeechEncoder
from espnet_llmvq.speech.pretrained import WavLMEncoder, WhisperEncoder

LINES = {"a": "one two three four", "b": "the patient said hello", "c": "one one four hello the", "d": "text"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(f"{utt} {line}\n" for utt, line in LINES.items()))
    return str(path)


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma", "unigram"])
def spelled(request, tmp_path_factory, text):
    """(LLM, function: directory of its pieces by their number, a number of some pieces)."""
    room = tmp_path_factory.mktemp("spelling")
    make = {"qwen2": standins.qwen2, "llama": standins.llama, "gemma": gemma}.get(request.param)
    whole = make(room / "whole") if make else request.getfixturevalue("llm_dir")

    def pieces(size):
        out = str(room / f"pieces{size}")
        write_spelling(whole, text, out, size)
        return out

    return whole, pieces, 1 if request.param == "unigram" else 6


def test_pieces_are_tokens_of_the_llm_and_spell_any_text(spelled):
    whole, pieces, some = spelled
    few, more, all_ = (load_tokenizer(pieces(size)) for size in (0, some, 1000))
    llm = load_tokenizer(whole)
    assert len(few) < len(more) <= len(few) + 2 * some  # with what is on their way
    assert len(more) < len(all_) < len(llm)
    for size, own in ((0, few), (some, more), (1000, all_)):
        rows, ids = read_rows(pieces(size))
        assert torch.equal(rows, token_inputs(load_llm(whole)).detach().float()[ids])
        # row, label and token go by one number
        assert llm.convert_ids_to_tokens(ids.tolist()) == own.convert_ids_to_tokens(range(len(rows)))
        assert own.get_vocab().keys() <= llm.get_vocab().keys() and own.eos_token == llm.eos_token
    for line in [*LINES.values(), "Zoe's hat 9", ODD]:
        if line == ODD and not Pieces(llm).in_bytes:
            continue  # of letters alone: what is none of its letters is unknown before and after
        texts = {t.decode(t.encode(line, add_special_tokens=False)) for t in (llm, few, more, all_)}
        assert len(texts) == 1
    # enough pieces for these texts, and they are cut as the LLM cuts them
    for line in LINES.values():
        whole_ids, own_ids = (t.encode(f" {line}", add_special_tokens=False) for t in (llm, all_))
        assert llm.convert_ids_to_tokens(whole_ids) == all_.convert_ids_to_tokens(own_ids)


def test_the_first_merges_that_texts_need_come_first(spelled):
    """Against the merges as they stand in tokenizer.json: what is left out comes later than all that is there."""
    whole, pieces, size = spelled
    llm, some = Pieces(load_tokenizer(whole)), load_tokenizer(pieces(size)).get_vocab()
    if llm.unigram:
        cost = {piece: -score for piece, score in llm.model["vocab"]}
    else:
        cost = {a + b: rank for (a, b), rank in reversed(llm.ranks.items())}
    spelling = load_tokenizer(pieces(0)).get_vocab().keys()
    chosen = some.keys() - spelling
    others = load_tokenizer(pieces(1000)).get_vocab().keys() - some.keys()
    assert chosen and others
    assert max(cost[p] for p in chosen) <= min(cost[p] for p in others)


def test_pieces_of_other_texts_are_refused(spelled, text, tmp_path, capsys):
    whole, pieces, _ = spelled
    out = pieces(6)
    assert write_spelling(whole, text, out, 6) is None
    other = tmp_path / "text"
    other.write_text("a nine zero\n")
    with pytest.raises(UserError, match="delete .*pieces6, and all that was trained with it"):
        write_spelling(whole, str(other), out, 6)
    with pytest.raises(UserError, match="rows.safetensors does not exist; run stage 5"):
        read_rows(str(tmp_path))


@pytest.mark.parametrize("wrote", [" hello the", "hello the", " HELLO", " a </s> <bos>", ""])
def test_what_an_llm_wrote_is_spelled_as_transcripts_are(spelled, wrote, tmp_path):
    """Also a text that begins without a space, and the names of special tokens."""
    whole, pieces, some = spelled
    llm, own = load_tokenizer(whole), load_tokenizer(pieces(some))
    if "<" in wrote and not Pieces(llm).in_bytes:  # it cannot but make special tokens of them: so it spells nothing
        other = load_tokenizer(standins.qwen2(tmp_path / "other"))
        assert speller(other, own)(other.encode(wrote)) == [math.inf]
        return
    found, expected = (encode_text(t, Span(text=wrote, loss=True, eos=True), None)[:-1] for t in (llm, own))
    assert speller(llm, own)(found) == expected


def head(size=5):
    torch.manual_seed(0)
    return PieceHead(size, torch.randn(4, 3), torch.tensor([7, 2, 9, 4]), temperature=0.25, hidden_size=6)


def test_logits_are_cosines_with_rows_of_the_table():
    model, x = head(), torch.randn(2, 3, 5)
    found = model(x)
    assert found.shape == (2, 3, 5) and model.blank == 4
    vectors = [*model.rows.tolist(), model.blank_vector[0].tolist()]
    for row, z in zip(found.flatten(0, 1), model.projector(x).flatten(0, 1).tolist()):
        for value, v in zip(row.tolist(), vectors):
            dot = sum(a * b for a, b in zip(z, v))
            assert value == pytest.approx(dot / math.hypot(*z) / math.hypot(*v) / 0.25, rel=1e-4)
    found.sum().backward()
    assert model.blank_vector.grad is not None and not model.rows.requires_grad
    assert not {"rows", "ids"} & model.state_dict().keys() and "blank_vector" in model.state_dict()


def test_the_aligned_start_follows_the_pieces_in_the_whole_table():
    """What the head says of a piece is asked of its row in the LLM, all other rows are to lose; and it begins there."""
    model, table = head(), torch.randn(12, 3)
    table[model.ids] = model.rows
    start, bridge = AlignedStart(table, 0.25, None, "ctc_head"), Bridge(5, table, stack=1, hidden_size=6)
    start.begin_as(bridge, model)
    x = torch.randn(4, 5)
    with torch.no_grad():
        z = bridge.projector(x)
        assert torch.equal(z, model.projector(x))
        logits, posterior = start.logits(z[None])[0], model(x[None]).softmax(-1)[0]
        assert torch.allclose(logits[:, [7, 2, 9, 4, 12]], model(x[None])[0], atol=1e-5)
        expected = 0.0
        for n in range(4):
            total = sum(math.exp(v) for v in logits[n].tolist())
            for label, row in enumerate([7, 2, 9, 4, 12]):
                expected -= float(posterior[n, label]) * math.log(math.exp(float(logits[n, row])) / total)
        assert float(start.cross_entropy(z, posterior, model)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="hidden_size 6 and stack 1; give bridge_conf the same"):
        start.begin_as(Bridge(5, table, stack=2, hidden_size=6), model)


def test_pieces_of_another_llm_are_refused(spelled):
    """Also where a token has another id, and a CTC loss of what the LLM writes."""
    from espnet_llmvq.model.build import check_pieces

    whole, pieces, some = spelled
    directory = pieces(some)
    config = {"llm": whole, "ctc_tokens": directory, "model_conf": {}}
    llm, (_, ids) = load_tokenizer(whole), read_rows(directory)
    check_pieces(config, llm, ids)
    check_pieces({**config, "model_conf": {"ctc_weight": 1.0}}, load_tokenizer(directory), ids)  # its own training
    with pytest.raises(UserError, match="has other tokens than the LLM of which the CTC head has its pieces"):
        check_pieces(config, llm, ids.roll(1))
    with pytest.raises(UserError, match="ctc_weight: the CTC head has spelling pieces"):
        check_pieces({**config, "model_conf": {"ctc_weight": 0.3}}, llm, ids)


def test_texts_that_ctc_cannot_write_in_their_frames_are_told(llm_dir, tmp_path, capsys):
    """Of three tokens, two of them equal and next to each other, four frames are needed."""
    from espnet_llmvq.sequence.asr import asr_sequence
    from espnet_llmvq.sequence.sequence import write_sequences
    from espnet_llmvq.stages.sequences import count_positions

    assert len(load_tokenizer(llm_dir).encode(" one one two", add_special_tokens=False)) == 3
    rows = [asr_sequence(f"u{n}", "x.wav", n, "one one two", "U: {speech} A: {text}") for n in (11999, 12000, 12345)]
    write_sequences(str(tmp_path / "a.jsonl"), rows)
    encoder = {"encoder": "transformer", "encoder_conf": {"input_layer": "linear"}}
    encoder |= {"frontend_conf": {"n_fft": 512, "hop_length": 4000}}  # a frame, and one for each 4000 samples
    for ctc in (False, True):
        count_positions([(str(tmp_path / "a.jsonl"), str(tmp_path / f"shape{ctc}"))], llm_dir, encoder, 1, ctc=ctc)
        said = capsys.readouterr().out
        assert ("1 of 3 have more tokens than frames, which CTC cannot learn (u11999)" in said) is ctc


# --- The encoder on a pretrained one

MASKS = {"apply_time_warp": False, "apply_freq_mask": False, "apply_time_mask": True, "time_mask_width_range": [3, 9]}
TOP = {"input_layer": "linear", "output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return standins.whisper(tmp_path_factory.mktemp("whisper") / "whisper")


def encoder(path, **conf):
    from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
    from espnet2.asr.specaug.specaug import SpecAug

    torch.manual_seed(0)
    front = WhisperEncoder(path, **conf)
    config = {"frontend": "whisper", "frontend_conf": {"path": path, **conf}, "frame_stack": 4}
    config |= {"encoder": "transformer", "encoder_conf": TOP}
    top = TransformerEncoder(input_size=4 * front.output_size(), **TOP)
    return SpeechEncoder(front, None, SpecAug(**MASKS), top, config)


def waves():
    rng = np.random.default_rng(0)
    found = [torch.from_numpy(0.1 * rng.standard_normal(n).astype(np.float32)) for n in (16000, 9000, 4321)]
    return torch.nn.utils.rnn.pad_sequence(found, True), torch.tensor([len(w) for w in found]), found


@pytest.mark.parametrize("layers", [0, 1])
def test_frames_from_a_cache_are_those_of_the_waveform(whisper, layers):
    model, (batch, lengths, found) = encoder(whisper, train_layers=layers).eval(), waves()
    with torch.no_grad():
        frames, counts = model(batch, lengths)
        cached = model.cacheable(batch, lengths)
        again, same = model.from_cache(*cached)
        assert torch.equal(frames, again) and torch.equal(counts, same)
        assert counts.tolist() == [int(model.rate.frames(n)) for n in lengths.tolist()] == [13, 7, 4]
        assert model.rate.step == 4 * 320
        # without top layers the cache holds what Whisper alone makes, and neither depends on the batch
        if not layers:
            assert torch.equal(cached[0], WhisperEncoder(whisper).eval()(batch, lengths)[0])
        for wave, x, n in zip(found, frames, counts):
            alone, _ = model(wave[None], torch.tensor([len(wave)]))
            assert torch.allclose(alone[0], x[:n], atol=1e-5)
            assert not x[n:].any()


@pytest.fixture(scope="module", params=["whisper", "wavlm", "wavlm_base"])
def pretrained(request, tmp_path_factory):
    """(class, directory) of a pretrained encoder; of WavLM with a LayerNorm behind the last layer, and without."""
    out = tmp_path_factory.mktemp("pretrained") / request.param
    if request.param == "whisper":
        return WhisperEncoder, standins.whisper(out)
    base = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
    return WavLMEncoder, standins.wavlm(out, **(base if request.param == "wavlm_base" else {}))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch", ["alone", "padded"])
def test_upper_layers_apart_are_what_they_are_in_the_whole(pretrained, layers, batch):
    (cls, path), (waves_, lengths, _) = pretrained, waves()
    apart = cls(path, batch=batch, train_layers=layers).as_frontend().eval()
    with torch.no_grad():
        whole, counts = cls(path).eval()(waves_, lengths)
        found, same = apart(waves_, lengths)
        for x, y, n in zip(whole, found, counts.tolist()):
            assert torch.allclose(x[:n], y[:n], atol=1e-5)
    assert torch.equal(counts, same)
    apart(waves_, lengths)[0].sum().backward()
    moved = {name for name, p in apart.pretrained.named_parameters() if p.grad is not None}
    assert moved == set(apart.trained_names())
    last = len(apart.top()[0])
    numbers = {int(name.partition("layers.")[2].split(".")[0]) for name in moved if "layers." in name}
    assert numbers == set(range(last - layers, last))


def test_what_trains_on_a_pretrained_encoder(whisper):
    model, (batch, lengths, _) = encoder(whisper, train_layers=1), waves()
    model(batch, lengths)[0].sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    last = len(model.frontend.pretrained.layers) - 1
    inside = {name.removeprefix("frontend.pretrained.") for name in moved if name.startswith("frontend.")}
    assert inside and {name.partition("layer_norm")[0] for name in inside if name.startswith("layer_norm")} == {""}
    assert {name.split(".")[1] for name in inside if name.startswith("layers.")} == {str(last)}
    frozen = encoder(whisper)
    assert not any(p.requires_grad for p in frozen.frontend.parameters())
    with pytest.raises(UserError, match="train_layers: 9 must be a number from 0 to"):
        encoder(whisper, train_layers=9)


def test_masks_are_laid_over_frames_from_a_cache_when_asked(whisper):
    model, (batch, lengths, _) = encoder(whisper).eval(), waves()
    with torch.no_grad():
        cached = model.cacheable(batch, lengths)
        plain, masked, again = (model.from_cache(*cached, augment)[0] for augment in (False, True, True))
        assert torch.equal(plain, model.from_cache(*cached)[0])
    assert not torch.equal(plain, masked) and not torch.equal(masked, again)


# --- In a recipe


@pytest.fixture
def recipe(tmp_path, plan, whisper, text):
    """Function of an LLM: its `Experiment` after stage 4, with sets of four utterances of noise."""
    rng = np.random.default_rng(1)
    for name in ("train", "valid", "test", "tts"):
        home = tmp_path / "dump" / name
        home.mkdir(parents=True)
        rows = [(f"{name}{i}", line) for i, line in enumerate(LINES.values())]
        for utt, _ in rows:
            soundfile.write(home / f"{utt}.wav", 0.1 * rng.standard_normal(24000), 16000)
        (home / "text").write_text("".join(f"{utt} {line}\n" for utt, line in rows))
        (home / "wav.scp").write_text("".join(f"{utt} {home / utt}.wav\n" for utt, _ in rows))
        (home / "utt2spk").write_text("".join(f"{utt} {utt}\n" for utt, _ in rows))
        (home / "spk2utt").write_text("".join(f"{utt} {utt}\n" for utt, _ in rows))
        (home / "utt2num_samples").write_text("".join(f"{utt} 24000\n" for utt, _ in rows))
    # Of two epochs, whose checkpoints are averaged.
    steps = "max_epoch=2 num_iters_per_epoch=1 batch_bins=200 num_workers=0 use_tensorboard=false keep_nbest_models=2"

    def make(llm, systems="ctc soft_k10", cards="base: template/paper_a.yaml", **options):
        (tmp_path / "conf").mkdir(exist_ok=True)
        (tmp_path / "conf/systems.yaml").write_text(cards)
        return plan(
            systems=systems, llm=llm, pretrained_encoder=whisper, train_overrides=steps, align_sets="test",
            **options,
        )  # fmt: skip

    return make


def test_a_pretrained_encoder_gets_layers_and_a_head_and_all_that_follows(recipe, tmp_path, whisper, capfd):
    from espnet_llmvq.align.ctm import read_ctm
    from espnet_llmvq.decode.nbest import NBEST, read_nbest
    from espnet_llmvq.model.build import build, load_model
    from espnet_llmvq.stages import decode, encoder, language, sequences, train

    llm = gemma(tmp_path / "llm")
    experiment = recipe(llm, ctc_pieces="20", tts_text="dump/tts/text", encoder_tts=True)
    assert experiment.on_pretrained and experiment.pieces == 20 and experiment.caches_frames
    language.tokenizer(experiment)
    encoder.prepare(experiment)
    assert os.path.exists("exp/frames/train/frames.scp")
    assert not os.path.exists("exp/frames/test")
    with open("exp/frames/train+tts/frames.scp", encoding="utf-8") as f:
        assert [line.split()[0] for line in f] == [f"{name}{i}" for name in ("train", "tts") for i in range(4)]
    with open("exp/encoder_stats/train_shape", encoding="utf-8") as f:
        assert len(f.readlines()) == 8
    train.train(experiment, encoder=True)
    state = torch.load("exp/encoder/model.pth", weights_only=True)
    assert not any("pretrained" in name for name in state)
    encoder.align(experiment, 1)
    assert set(read_ctm("exp/align/test.ctm")) <= {f"test{i}" for i in range(4)}
    sequences.make_all(experiment)
    encoder.encode(experiment, 1)
    sequences.count_all(experiment)
    train.train(experiment)
    # the start began as the head's projector, and the phases before the last one passed it on
    model, config = load_model("exp/start-hard-soft_k10")
    assert config["ctc_tokens"] == "exp/pieces" and config["encoder_file"] == "exp/encoder/model.pth"
    assert all(map(torch.equal, (model.ctc.rows, model.ctc.ids), read_rows("exp/pieces")))
    assert not any(p.requires_grad for p in model.ctc.parameters())
    decode.decode(experiment, experiment.systems, ["test"])
    soft, ctc = experiment.system("soft_k10"), experiment.system("ctc")
    found = read_nbest(os.path.join(os.path.dirname(soft.hyp_path("test")), NBEST))
    # CTC scores of what the LLM wrote are those of its spelling: greedy CTC against the head's own
    pieces = load_tokenizer("exp/pieces")
    for utt, entries in found.items():
        for entry in entries:
            longest = len(pieces.encode(entry["text"], add_special_tokens=False)) > 18  # of 19 frames
            assert (entry["ctc"] is not None and math.isfinite(entry["ctc"])) or longest, (utt, entry)
    assert os.path.exists(ctc.hyp_path("test"))
    # elsewhere it has the pieces that are beside it, not those of the run that is there
    shutil.copytree("exp", "elsewhere/moved")
    shutil.rmtree("exp/pieces")
    for build_it in (
        lambda: load_model("elsewhere/moved/encoder"),
        lambda: (build({**config, "encoder_file": "elsewhere/moved/encoder/model.pth"}), 0),
    ):
        found, _ = build_it()
        assert torch.equal(found.ctc.rows, read_rows("elsewhere/moved/pieces")[0])
    shutil.copytree("elsewhere/moved/pieces", "exp/pieces")
    # all is up to date, and another number of pieces is noticed
    capfd.readouterr()
    train.train(experiment, encoder=True)
    assert "exp/encoder" in capfd.readouterr().out
    with pytest.raises(UserError, match="choose pieces again"):
        language.tokenizer(recipe(llm, ctc_pieces="21"))


def test_the_head_is_sized_before_its_pieces_are_chosen(recipe, tmp_path):
    """And Whisper where its frames are not cached."""
    from espnet_llmvq.estimate.cost import Question, estimate_all
    from espnet_llmvq.stages import language

    llm, found = gemma(tmp_path / "llm"), []
    for cached in (False, True):
        experiment = recipe(llm, ctc_pieces="20", cache_encoder=cached)
        experiment = dataclasses.replace(experiment, trainings=experiment.trainings[:2])
        found += estimate_all(experiment, Question(seconds=1.5))
        language.tokenizer(experiment)
    assert [(row["phase"], row["cached"]) for row in found] == [
        ("encoder", False), ("start", False), ("encoder", True), ("start", True),
    ]  # fmt: skip
    head = PieceHead(experiment.encoder["encoder_conf"]["output_size"], *read_rows("exp/pieces"))
    expected = sum(p.numel() for p in head.parameters())
    assert [row["parts"]["CTC head"]["parameters"] for row in found] == [expected] * 4


def test_masks_in_training_follow_the_phases(recipe, tmp_path):
    """A frozen encoder masks nothing of itself; a phase on a pretrained one does, unless mask_frames is false."""
    from espnet_llmvq.model.speech_llm import SpeechLLM

    calls = []

    class Encoder(torch.nn.Module):
        on_pretrained = True

        def output_size(self):
            return 4

        def from_cache(self, frames, lengths, augment=None):
            calls.append(augment)
            return frames, lengths

    for asked, training, expected in ((True, True, True), (True, False, False), (False, True, False)):
        model = SpeechLLM(Encoder(), None, None, None, None, 2, llm_weight=0.0, mask_frames=asked).train(training)
        tokens = torch.tensor([[-1, 3]])
        model.encode_spans(tokens, torch.zeros(1, 5, 4), torch.tensor([5]), torch.tensor([0]))
        assert calls.pop() is expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pretrained_layer": "weighted"}, "--pretrained_layer weighted trains with the phases: it needs --ctc_head"),
        ({"ctc_pieces": "many"}, "--ctc_pieces 'many': expected a number from 1, all or auto"),
        ({"ctc_pieces": "0"}, "--ctc_pieces '0': expected a number from 1"),
    ],
)
def test_options_that_cannot_be(recipe, llm_dir, options, message):
    with pytest.raises(UserError, match=message):
        recipe(llm_dir, **options)


def test_what_a_config_of_the_layers_cannot_say(recipe, llm_dir, tmp_path):
    from espnet_llmvq.model.build import build_ctc

    (tmp_path / "own.yaml").write_text("frontend_conf: {layer: weighted}\nencoder: transformer\n")
    with pytest.raises(UserError, match="own.yaml: frontend_conf.layer weighted trains with the phases"):
        recipe(llm_dir, encoder_config="own.yaml")
    config = {"ctc": True, "ctc_tokens": None, "ctc_conf": {"temperature": 0.1}}
    with pytest.raises(UserError, match="key under ctc_conf 'temperature'"):  # of a head over all tokens
        build_ctc(config, 4, load_tokenizer(llm_dir), None)


def test_small_tables_are_spelled_whole(recipe, llm_dir):
    assert recipe(llm_dir).pieces == 0 and recipe(llm_dir).spelling is None
    assert recipe(llm_dir, ctc_pieces="7").pieces == 7
    assert SimpleNamespace(**vars(recipe(llm_dir, ctc_pieces="all"))).pieces == 0
