"""Interleaved sequences in the model: only chosen samples count, pieces are encoded together, packing leaks nothing."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import LORA

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.llm.packing import assign, check_no_leak, pack, packed_length
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.llm.tokenizer import train_tokenizer
from espnet_llmvq.model import batch as batches
from espnet_llmvq.model.batch import SequenceArrays
from espnet_llmvq.model.losses import IGNORE, assemble
from espnet_llmvq.model.positions import Positions
from espnet_llmvq.sequence.sequence import Sequence, Span

STEP = 640  # samples: 4 feature frames of 160, as in the tiny encoder
SOFT = {"bridge": "soft", "bridge_conf": {"stack": 2, "hidden_size": 24, "codebook": "trainable", "top_k": 7}}


def interleaved(key, path):
    """Three pieces: less than a step, 2 steps and a bit, a whole number of steps."""
    pieces = [Span(audio=path, start=at, samples=n) for at, n in ((1000, 70), (4000, 2 * STEP + 1), (8000, 3 * STEP))]
    texts = [Span(text=text, loss=True) for text in (" one", " two three", " four")]
    parts = [span for pair in zip(pieces, texts) for span in pair]
    return Sequence(key, (Span(text="<s>", special=True), *parts, Span(text="", eos=True)))


def sequences(room):
    """Interleaved, ASR, text, interleaved with one piece; each from a sound file of its own."""
    rng, paths = np.random.default_rng(3), []
    for i in range(4):
        paths.append(str(room / f"{i}.wav"))
        soundfile.write(paths[-1], rng.integers(-9999, 9999, 12000).astype(np.int16), 16000)
    return [
        interleaved("a", paths[0]),
        Sequence("b", (Span(text="five"), Span(audio=paths[1], samples=12000), Span(text=" six", loss=True, eos=True))),
        Sequence("c", (Span(text="seven eight nine zero one two", loss=True, eos=True),)),
        Sequence("d", (Span(audio=paths[3], start=300, samples=100), Span(text=" ten", loss=True, eos=True))),
    ]


@pytest.fixture
def batch_of(tokenizer):
    arrays = SequenceArrays(tokenizer, step=STEP)
    return lambda some: batches.batch_of(arrays, some)[1]


def encode(model, batch):
    return model.encode_spans(*(batch[key] for key in ("tokens", "speech", "speech_lengths", "speech_steps")))


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("conf", [{}, SOFT], ids=["none", "soft"])
@pytest.mark.parametrize("encoding", ["concatenated", "separate"])
def test_other_samples_change_nothing(tmp_path, make_model, batch_of, encoding, conf):
    model = make_model(model_conf={"span_encoding": encoding}, **conf)
    seq = sequences(tmp_path)[0]

    def loss_and_gradients():
        loss, _, weight = model(**batch_of([seq]))
        loss.sum().backward()
        return loss, weight, gradients(model)

    before = loss_and_gradients()
    path = seq.spans[1].audio
    samples, _ = soundfile.read(path, dtype="int16")
    chosen = np.zeros(len(samples), bool)
    for span in seq.spans:
        if span.is_speech:
            chosen[span.start : span.start + span.samples] = True
    assert chosen.sum() == 70 + 2 * STEP + 1 + 3 * STEP
    soundfile.write(path, np.where(chosen, samples, 12345).astype(np.int16), 16000)
    after = loss_and_gradients()
    assert torch.equal(before[0], after[0]) and before[1] == after[1]
    assert all(torch.equal(value, after[2][name]) for name, value in before[2].items())
    # A sample of each piece does count. (The first 56 lie before the first window.) The mean of one feature frame,
    # which is all that the first piece has when alone, leaves nothing of it.
    for at in (1000 + 69, 4000 + STEP, 8000 + STEP)[encoding == "separate" :]:
        assert chosen[at]
        louder = samples.copy()
        louder[at] += 9000
        soundfile.write(path, louder, 16000)
        assert not torch.equal(model(**batch_of([seq]))[0], before[0])


def test_pieces_are_encoded_at_once_and_put_back(tmp_path, make_model, batch_of):
    model = make_model()
    some = sequences(tmp_path)
    batch = batch_of(some)
    frames, lengths = encode(model, batch)
    assert lengths.tolist() == [1, 3, 3, int(model.speech_encoder.rate.frames(12000)), 1]

    def alone(wave, count):
        # The frames of zeros behind are what the windows of the last step reach into.
        wave = torch.cat([wave, torch.zeros(STEP)]) if model.speech_encoder.rate.frames(len(wave)) < count else wave
        return model.speech_encoder(wave[None], torch.tensor([len(wave)]))[0][0, :count]

    def cut(span):
        wave = torch.from_numpy(soundfile.read(span.audio, dtype="float32")[0])[span.start or 0 :][: span.samples]
        return torch.nn.functional.pad(wave, (0, -len(wave) % STEP)) if span.is_piece else wave

    pieces = [cut(s) for s in some[0].spans if s.is_speech]
    joined = alone(torch.cat(pieces), 7)
    expected = [joined[:1], joined[1:4], joined[4:]]
    expected += [alone(cut(some[1].spans[1]), lengths[3]), alone(cut(some[3].spans[0]), 1)]
    for row, n, value in zip(frames, lengths, expected):
        torch.testing.assert_close(row[:n], value, atol=1e-6, rtol=1e-5)
        assert not row[n:].any()
    model.concatenate = False
    frames, separate = encode(model, batch)
    assert torch.equal(separate, lengths)
    for row, n, value in zip(frames, lengths, [alone(p, len(p) // STEP) for p in pieces] + expected[3:]):
        torch.testing.assert_close(row[:n], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frontend", [{"hop_length": 128, "center": True}, {"hop_length": 160, "center": False}])
@pytest.mark.parametrize("layer, stack", [("conv2d", 1), ("conv2d2", 2), ("linear", 3)])
def test_every_piece_has_its_steps_with_any_encoder(tmp_path, make_model, tokenizer, frontend, layer, stack):
    frontend = {"n_fft": 512, "n_mels": 20, **frontend}
    conf = {"input_layer": layer, "output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    model = make_model(frontend_conf=frontend, frame_stack=stack, specaug=None, encoder_conf=conf)
    step = model.speech_encoder.rate.step
    some = sequences(tmp_path)
    batch = batches.batch_of(SequenceArrays(tokenizer, step=step), some)[1]
    lengths = encode(model, batch)[1].tolist()
    whole = int(model.speech_encoder.rate.frames(12000))
    assert lengths == [-(-n // step) for n in (70, 2 * STEP + 1, 3 * STEP)] + [whole, 1]
    steps = model.bridge_speech(*encode(model, batch))[:2]
    inputs, _ = assemble(model.llm.get_input_embeddings(), batch["tokens"], batch["labels"], *steps)
    config = {"frontend_conf": frontend, "frame_stack": stack, "encoder_conf": {"input_layer": layer}}
    count = Positions(tokenizer, config)
    assert [len(x) for x in inputs] == [count(s) for s in some]


def test_each_piece_keeps_a_step_when_blanks_go(tmp_path, make_model, batch_of):
    for conf in ({"drop_blank": 0.0}, {"drop_blank": 0.0, "merge_runs": True}):
        model = make_model(model_conf=conf, **SOFT)
        batch = batch_of(sequences(tmp_path))
        frames, lengths = encode(model, batch)
        _, steps, _ = model.bridge_speech(frames, lengths)
        assert len(steps) == 5 and int(steps.min()) >= 1
        assert torch.isfinite(model(**batch)[0])


def test_rows_hold_every_sequence_once():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths, size = rng.integers(1, 60, 40).tolist(), int(rng.integers(20, 100))
        rows = assign(lengths, size)
        assert sorted(i for row in rows for i in row) == list(range(40))
        assert all(sum(lengths[i] for i in row) <= size or len(row) == 1 for row in rows)
        # First fit leaves no two rows that would fit into one.
        loads = sorted(sum(lengths[i] for i in row) for row in rows)
        assert len(loads) < 2 or loads[0] + loads[1] > size
    inputs, labels = zip(*((torch.ones(n, 1) * n, torch.arange(n)) for n in (3, 2, 4)))
    embeds, positions, labels = pack(inputs, labels, 6, -9)
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert embeds[..., 0].tolist() == [[4, 4, 4, 4, 2, 2], [3, 3, 3, 0, 0, 0]]
    assert labels.tolist() == [[-9, 1, 2, 3, -9, 1], [-9, 1, 2, -9, -9, -9]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("conf", [{}, SOFT], ids=["none", "soft"])
@pytest.mark.parametrize("packing", [True, 40])
def test_packed_is_one_by_one(tmp_path, make_model, batch_of, conf, attention, packing):
    some = sequences(tmp_path)
    # Statistics of a batch are of no concern; noise and dropout would be.
    model = make_model(**conf, freeze=["speech_encoder"])
    model.llm.set_attn_implementation(attention)
    total = count = 0
    for seq in some:
        loss, _, weight = model(**batch_of([seq]))
        total, count = total + loss * weight, count + int(weight)
    (total / count).sum().backward()
    expected = gradients(model)
    model.packing = packed_length(packing, model.llm)
    assert model.packing == (512 if packing is True else packing)
    loss, stats, weight = model(**batch_of(some))
    assert int(weight) == count
    torch.testing.assert_close(loss * count, total, atol=1e-5 * count, rtol=1e-5)
    loss.sum().backward()
    found = gradients(model)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_an_llm_that_leaks_is_refused(make_model, monkeypatch):
    model = make_model()
    decoder = model.llm.get_decoder()
    forward = decoder.forward

    def blind(inputs_embeds, position_ids, **kwargs):
        return forward(inputs_embeds=inputs_embeds, **kwargs)

    check_no_leak(model.llm)
    monkeypatch.setattr(decoder, "forward", blind)
    with pytest.raises(UserError, match=r"model_conf.packing: LlamaForCausalLM \(sdpa\) lets packed sequences see"):
        check_no_leak(model.llm)


def test_the_probe_leaves_modules_in_their_modes(make_model):
    """It may run within a step of training; dropout of what is frozen would be on from there."""
    model = make_model(freeze=["llm"]).train()
    model.llm.lm_head.train()
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2 and not model.llm.training
    check_no_leak(model.llm)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_an_llm_without_positions_is_refused():
    from transformers import BloomConfig, BloomForCausalLM

    llm = BloomForCausalLM(BloomConfig(vocab_size=20, n_layer=2, hidden_size=12, n_head=3)).eval()
    with pytest.raises(UserError, match="model_conf.packing: BloomForCausalLM takes no positions"):
        check_no_leak(llm)


def test_text_alone_with_a_frozen_llm_is_refused(make_model, batch_of):
    text = batch_of([Sequence("a", (Span(text="one two", loss=True, eos=True),))])
    model = make_model(freeze=["llm"])
    assert torch.isfinite(model(**text)[0])
    with pytest.raises(UserError, match="a batch of text alone trains nothing where the LLM is frozen"):
        model.train()(**text)
    make_model(llm_conf={"lora": LORA}).train()(**text)[0].sum().backward()


@pytest.mark.parametrize("conf", [{"packing": 0}, {"packing": "yes"}, {"span_encoding": "joined"}])
def test_config_errors(make_model, conf):
    with pytest.raises(UserError, match=next(iter(conf))):
        make_model(model_conf=conf)


def test_a_special_token_must_be_one(tokenizer, tmp_path):
    arrays = SequenceArrays(tokenizer, step=STEP)
    seq = Sequence("a", (Span(text="<N>", special=True), Span(text="one", loss=True)))
    with pytest.raises(UserError, match="'<N>' is not a token .* --reserved"):
        arrays(seq)
    data = arrays(interleaved("a", sequences(tmp_path)[0].spans[1].audio))
    assert data["tokens"][0] == 1 and data["tokens"][-1] == 2
    # The end token alone, which has no loss, and no space in front of it.
    assert data["labels"][0] == data["labels"][-1] == IGNORE


def test_reserved_tokens(tmp_path):
    (tmp_path / "text").write_text("one two three four five six seven eight nine zero\n" * 20)
    train_tokenizer([str(tmp_path / "text")], 107, str(tmp_path / "llm"), reserved=["<N>", "<|asr|>"])
    tokenizer = load_tokenizer(str(tmp_path / "llm"))
    assert tokenizer.convert_ids_to_tokens(range(7)) == ["<unk>", "<s>", "</s>", "<pad>", "<blank>", "<N>", "<|asr|>"]
    assert encode_text(tokenizer, Span(text="<N>", special=True), 2) == [5]
    ids = tokenizer.encode(" one<N> two", add_special_tokens=False)
    assert ids.count(5) == 1 and tokenizer.decode(ids, skip_special_tokens=True).split() == ["one", "two"]


def test_a_phase_trains_on_a_mixture(tmp_path, llm_dir, corpus, settings):
    """The whole way: files of sequences, positions, mixture, ESPnet's sampler and trainer, packing."""
    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.espnet.run import train_phase
    from espnet_llmvq.sequence.mixture import Source
    from espnet_llmvq.sequence.sequence import read_sequences, write_sequences
    from espnet_llmvq.stages.sequences import count_positions, write_mixture

    paths = [next(s.audio for s in seq.spans if s.is_speech) for seq in read_sequences(corpus.train)]
    spans = [(Span(text="one", loss=True), Span(audio=path, start=9, samples=k), Span(text=" two", loss=True),
              Span(audio=path, start=700, samples=9), Span(text=" six", loss=True), Span(text="", eos=True))
             for k, path in enumerate(paths, 600)]  # fmt: skip
    write_sequences(tmp_path / "il", [Sequence(f"u{i}", s) for i, s in enumerate(spans)])
    text = [Sequence(f"t{i}", (Span(text="two " * (i + 1), loss=True, eos=True),)) for i in range(4)]
    write_sequences(tmp_path / "text", text)
    pairs = {name: (str(tmp_path / name), str(tmp_path / f"{name}_shape")) for name in ("il", "text", "mix")}
    encoder = read_config(f"{corpus.dir}/encoder.yaml")
    count_positions([pairs["il"], pairs["text"]], llm_dir, encoder, 1)
    sources = {"asr": (corpus.train, corpus.train_shape), "il": pairs["il"], "text": pairs["text"]}
    mixed, shape = pairs["mix"]
    write_mixture(mixed, shape, [Source(name, 1, *files) for name, files in sources.items()])
    directory = str(tmp_path / "exp")
    phase = settings(
        **SOFT, model_conf={"packing": 100}, max_epoch=1, keep_nbest_models=1, batch_type="numel", batch_bins=150,
        train_data_path_and_name_and_type=[[mixed, "sequence", "sequence"]], train_shape_file=[shape],
    )  # fmt: skip
    train_phase(directory, phase, 1)
    assert "model.pth" in [p.name for p in (tmp_path / "exp").iterdir()]
