"""WavLM and Whisper as encoders: frames are those that transformers makes of one utterance, whatever the batch."""

import copy
import json

import numpy as np
import pytest
import standins
import torch
import yaml

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.speech import pretrained as pretrained_encoder
from espnet_llmvq.speech.frame_rate import FrameRate, described

LENGTHS = (16000, 31999, 8123, 5440, 400)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: directory} of stand-ins."""
    room = tmp_path_factory.mktemp("models")
    return {name: standins.ALL[name](room / name) for name in ("wavlm", "whisper")}


def build(models, name, **conf):
    return pretrained_encoder.CLASSES[name](models[name], **conf).eval()


def waves(lengths=LENGTHS, seed=0):
    """Waveforms with an offset and a level of their own: (padded batch, lengths, list)."""
    rng = np.random.default_rng(seed)
    found = [
        torch.from_numpy((0.1 * i + 0.05 * (i + 1) * rng.standard_normal(n)).astype(np.float32))
        for i, n in enumerate(lengths)
    ]
    return torch.nn.utils.rnn.pad_sequence(found, True), torch.tensor(lengths), found


def wavlm_directly(path, wave):
    """Hidden states by transformers' own feature extractor and model; the last one is the model's own output."""
    from transformers import AutoFeatureExtractor, AutoModel

    inputs = AutoFeatureExtractor.from_pretrained(path)(wave.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        found = AutoModel.from_pretrained(path).eval()(inputs.input_values, output_hidden_states=True)
    return [*found.hidden_states[:-1], found.last_hidden_state]


def whisper_directly(path, wave):
    """Hidden states by transformers' own encoder, its window set to the utterance; log-mel of the usual 30 s."""
    from transformers import AutoFeatureExtractor, WhisperConfig, WhisperModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    mel = AutoFeatureExtractor.from_pretrained(path)(wave.numpy(), sampling_rate=16000, return_tensors="pt")
    hops = len(wave) // 160
    mel = mel.input_features[:, :, : hops + hops % 2]
    config = WhisperConfig.from_pretrained(path)
    config.max_source_positions = mel.shape[-1] // 2
    short = WhisperEncoder(config).eval()
    state = copy.deepcopy(WhisperModel.from_pretrained(path).get_encoder().state_dict())
    state["embed_positions.weight"] = state["embed_positions.weight"][: config.max_source_positions]
    short.load_state_dict(state)
    with torch.no_grad():
        found = short(mel, output_hidden_states=True)
    return found.hidden_states, found.last_hidden_state


@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_counted_frames_are_those_of_transformers(models, name):
    from transformers import AutoModel

    theirs = AutoModel.from_pretrained(models[name])
    config = {"encoder": name, "encoder_conf": {"path": models[name], "layer": "last"}, "frontend": None}
    lengths = torch.arange(400, 3000)
    rate = FrameRate(config)
    ours = rate.frames(lengths)
    if name == "wavlm":
        expected = theirs._get_feat_extract_output_lengths(lengths)
        assert rate.frames(399) < 1
    else:
        expected = theirs._get_feat_extract_output_lengths(lengths // 160)
        assert rate.frames(159) < 1
        assert rate.frames(30 * 16000) == 1500
    assert torch.equal(ours, expected)
    assert [rate.frames(n) for n in (400, 1234)] == expected[[0, 834]].tolist()
    assert rate.step == 320
    assert rate.piece(321) == 2
    encoder = build(models, name)
    assert encoder.rate.seconds == 0.02 and encoder.output_size() == 32
    assert int(encoder.rate.frames(16000)) == (49 if name == "wavlm" else 50)


def test_wavlm_is_that_of_transformers(models):
    encoder, (_, _, found) = build(models, "wavlm"), waves()
    for wave in found:
        with torch.no_grad():
            ours, n = encoder(wave[None], torch.tensor([len(wave)]))
        states = wavlm_directly(models["wavlm"], wave)
        assert n.tolist() == [states[-1].shape[1]]
        torch.testing.assert_close(ours, states[-1], atol=2e-5, rtol=1e-4)
    # without the normalisation the result is another: the check above sees it
    raw = encoder.pretrained(found[0][None]).last_hidden_state
    assert (raw - wavlm_directly(models["wavlm"], found[0])[-1]).abs().max() > 1e-2


def test_the_last_layer_of_wavlm_is_its_output_and_checkpoints_say_so(models, tmp_path):
    """After the final LayerNorm: mean 0 and variance 1 at each frame, as its weights are 1 and 0 here."""
    from transformers import WavLMModel

    _, _, (wave, *_) = waves()
    lengths, normed = torch.tensor([len(wave)]), (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)
    with torch.no_grad():
        expected = WavLMModel.from_pretrained(models["wavlm"]).eval()(normed[None])[0]
    base = standins.wavlm(tmp_path / "base", feat_extract_norm="group", do_stable_layer_norm=False)
    for layer in ("last", 3):
        encoder = build(models, "wavlm", layer=layer)
        with torch.no_grad():
            ours, _ = encoder(wave[None], lengths)
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
        assert ours.mean(-1).abs().max() < 1e-5 and (ours.var(-1, correction=0) - 1).abs().max() < 1e-3
        assert "after_layer_norm" in encoder.state_dict()
    for other in (build(models, "wavlm", layer=2), build(models, "whisper"), pretrained_encoder.WavLMEncoder(base)):
        assert "after_layer_norm" not in other.state_dict()  # these were always so


def test_what_was_made_with_another_last_layer_is_not_taken(models, plan, corpus, llm_dir, tmp_path, capsys):
    """Caches, the encoder of stage 7, and checkpoints of phases."""
    from espnet_llmvq.model.build import build as build_model
    from espnet_llmvq.stages.encoder import frames_made, prepare

    experiment = plan(cards({}, {}), systems="x", llm=llm_dir, pretrained_encoder=models["wavlm"], ctc_head=False)
    prepare(experiment)
    made = frames_made(experiment, "train")
    made.note(at=tmp_path)
    for path in ("made.json", "exp/encoder/made.json"):
        noted = json.loads((tmp_path / path).read_text())
        del noted["options"]["last_state"]
        (tmp_path / path).write_text(json.dumps(noted))
    noted = json.loads((tmp_path / "made.json").read_text())
    assert made.changed(noted) == "last_state: not there then, 'after the final LayerNorm' now"
    with pytest.raises(UserError, match=r"exp/encoder was made otherwise \(last_state: not there then"):
        prepare(experiment)
    config = {**PRETRAINED_KEYS, "encoder": "wavlm", "encoder_conf": {"path": models["wavlm"]}, "llm": llm_dir}
    config["bridge_conf"] = {"stack": 4, "hidden_size": 8}
    state = build_model(config).state_dict()
    del state["speech_encoder.after_layer_norm"]
    with pytest.raises(UserError, match="1 tensors missing: speech_encoder.after_layer_norm"):
        build_model(config).load_state_dict(state)
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(UserError, match="old.pth: the phase before was trained on the last layer .*train both again"):
        build_model({**config, "init_from": str(tmp_path / "old.pth")})


def test_wavlm_layers(models):
    _, _, found = waves()
    states = wavlm_directly(models["wavlm"], found[0])
    lengths = torch.tensor([len(found[0])])
    for layer in (0, 2):
        ours, _ = build(models, "wavlm", layer=layer)(found[0][None], lengths)
        torch.testing.assert_close(ours, states[layer], atol=2e-5, rtol=1e-4)
    encoder = build(models, "wavlm", layer="weighted")
    torch.testing.assert_close(encoder(found[0][None], lengths)[0], torch.stack(states).mean(0), atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        encoder.layer_weights.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    weights = np.exp([1.0, -2.0, 0.5, 0.0]) / np.exp([1.0, -2.0, 0.5, 0.0]).sum()
    expected = sum(w * s for w, s in zip(weights.tolist(), states))
    torch.testing.assert_close(encoder(found[0][None], lengths)[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [31999, 30400, 5440, 500])
def test_whisper_is_that_of_transformers_with_a_window_of_the_utterance(models, samples):
    _, _, (wave,) = waves((samples,))
    states, last = whisper_directly(models["whisper"], wave)
    for layer, expected in (("last", last), (1, states[1])):
        with torch.no_grad():
            ours, n = build(models, "whisper", layer=layer)(wave[None], torch.tensor([samples]))
        assert n.tolist() == [(samples // 160 + 1) // 2] == [expected.shape[1]]
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_whisper_hears_the_beginning_of_its_own_30_seconds(models):
    encoder, (_, _, (wave,)) = build(models, "whisper"), waves((24357,))
    mel = encoder.extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    assert mel.shape == (1, 80, 3000)
    torch.testing.assert_close(encoder.log_mel(wave), mel[:, :, :152], atol=1e-6, rtol=0)
    alone = encoder.log_mel(wave)
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        assert torch.equal(encoder.log_mel(wave), alone)


@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_alone_the_batch_changes_nothing_to_the_last_bit(models, name):
    encoder, (batch, lengths, found) = build(models, name, batch="alone"), waves()
    with torch.no_grad():
        together, n = encoder(batch, lengths)
        for i, wave in enumerate(found):
            alone, count = encoder(wave[None], lengths[i : i + 1])
            assert count == n[i] and torch.equal(alone[0], together[i, : n[i]])
            assert not together[i, n[i] :].any()


@pytest.mark.parametrize("changes", [{}, {"layer": "weighted"}, {"layer": 1}])
@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_padding_is_not_heard(models, name, changes):
    """Against each utterance alone; the gradient too, where the encoder trains."""
    encoder, (batch, lengths, found) = build(models, name, batch="padded", **changes), waves()
    together, n = encoder(batch, lengths)
    for i, wave in enumerate(found):
        alone, _ = encoder(wave[None], lengths[i : i + 1])
        torch.testing.assert_close(together[i, : n[i]], alone[0], atol=1e-5, rtol=1e-4)
        assert not together[i, n[i] :].any()
    weights = [p for p in encoder.pretrained.parameters() if p.requires_grad]
    grads = []
    for one in (encoder, build(models, name, batch="alone", **changes)):
        one.load_state_dict(encoder.state_dict())
        (one(batch, lengths)[0] ** 2).sum().backward()
        grads.append({k: p.grad for k, p in one.named_parameters() if p.grad is not None})
    assert weights and grads[0].keys() == grads[1].keys() and grads[0]
    for key, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][key], atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_what_a_head_says_of_three_hundred_utterances_is_the_same(models, name):
    """The best token of each frame, of a random head."""
    torch.manual_seed(3)
    alone, padded = build(models, name, batch="alone"), build(models, name, batch="padded")
    padded.load_state_dict(alone.state_dict())
    head = torch.nn.Linear(padded.output_size(), 30)
    lengths = torch.randint(1600, 12000, (300,))
    with torch.no_grad():
        for part in lengths.split(30):
            batch = torch.nn.utils.rnn.pad_sequence([torch.randn(int(n)) for n in part], True)
            (a, n), (b, _) = alone(batch, part), padded(batch, part)
            assert (a - b).abs().max() < 1e-4
            assert all(torch.equal(head(x[:c]).argmax(-1), head(y[:c]).argmax(-1)) for x, y, c in zip(a, b, n))


def test_a_wavlm_with_group_norm_does_not_see_its_neighbours(tmp_path):
    path = standins.wavlm(tmp_path / "base", feat_extract_norm="group", do_stable_layer_norm=False)
    encoder, (batch, lengths, found) = pretrained_encoder.WavLMEncoder(path).eval(), waves()
    with torch.no_grad():
        together, n = encoder(batch, lengths)
    torch.testing.assert_close(together[2, : n[2]], wavlm_directly(path, found[2])[-1][0], atol=2e-5, rtol=1e-4)


def flops(encoder, seconds):
    from torch.utils.flop_counter import FlopCounterMode

    wave = torch.randn(1, int(16000 * seconds))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(wave, torch.tensor([wave.shape[1]]))
    return counter.get_total_flops()


def test_two_seconds_of_whisper_cost_a_tenth_of_thirty(models):
    encoder = build(models, "whisper")
    assert 10 * flops(encoder, 2) <= flops(encoder, 30)


def test_whisper_beyond_its_window(models):
    lengths = torch.tensor([35 * 16000])
    wave = torch.randn(1, 35 * 16000)
    with pytest.raises(UserError, match=r"35.00 s: .* accepts 30 s at most; .*--max_duration.*longer: windows"):
        build(models, "whisper")(wave, lengths)
    encoder = build(models, "whisper", longer="windows", batch="alone")
    with torch.no_grad():
        frames, n = encoder(wave, lengths)
        parts = [encoder(piece, torch.tensor([piece.shape[1]]))[0] for piece in wave.split(30 * 16000, 1)]
    assert n.tolist() == [1750] and torch.equal(frames, torch.cat(parts, 1))
    # the rest is shorter than a frame
    over = 30 * 16000 + 100
    assert encoder(wave[:, :over], torch.tensor([over]))[0].shape[1] == 1500


def test_what_trains_and_what_does_not(models):
    encoder, (batch, lengths, _) = build(models, "wavlm", layer="weighted"), waves()
    for p in encoder.pretrained.parameters():
        p.requires_grad = False
    encoder(batch, lengths)[0].square().sum().backward()
    assert encoder.layer_weights.grad.abs().min() > 0
    # trained whole, neither its masks nor its layer drop act
    encoder = build(models, "wavlm").train()
    encoder.pretrained.requires_grad_(True)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    once, again = encoder(batch, lengths)[0], encoder(batch, lengths)[0]
    assert torch.equal(once, again)
    once.sum().backward()
    assert encoder.pretrained.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0


def test_errors_tell_what_to_do(models, tmp_path):
    wavlm, whisper = models["wavlm"], models["whisper"]
    with pytest.raises(UserError, match="holds whisper, not wavlm: write encoder: whisper"):
        pretrained_encoder.WavLMEncoder(whisper)
    with pytest.raises(UserError, match="layer: 4 must be last, weighted or a number from 0 to 3"):
        pretrained_encoder.WavLMEncoder(wavlm, layer=4)
    with pytest.raises(UserError, match="'windowed'.*did you mean 'windows'"):
        pretrained_encoder.WhisperEncoder(whisper, longer="windowed")
    with pytest.raises(UserError, match=r"path of a pretrained encoder: .*--pretrained_encoder"):
        FrameRate({"encoder": "wavlm"})
    with pytest.raises(UserError, match="encoder directory ./absent does not exist; give --pretrained_encoder PATH"):
        described("./absent")
    with pytest.raises(UserError, match="speech 1 of the batch has 399 samples.*--min_duration"):
        build(models, "wavlm")(torch.randn(2, 800), torch.tensor([800, 399]))
    broken = standins.wavlm(tmp_path / "broken")
    from safetensors.torch import load_file, save_file

    state = load_file(f"{broken}/model.safetensors")
    del state["feature_projection.projection.weight"]
    save_file(state, f"{broken}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors of WavLMModel: feature_projection.projection.weight"):
        pretrained_encoder.WavLMEncoder(broken)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "wavlm"}')
    with pytest.raises(UserError, match="has no preprocessor_config.json"):
        described(str(tmp_path / "bare"))
    damaged = standins.wavlm(tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text('{"model_type": ')
    with pytest.raises(UserError, match="damaged: cannot be read .*; if damaged, download it again"):
        described(str(damaged))


PRETRAINED_KEYS = {"frontend": None, "normalize": None, "specaug": None, "frame_stack": 1, "ctc": False}


def test_phases_get_the_encoder(models):
    from espnet_llmvq.experiment.phases import with_pretrained

    path = models["wavlm"]
    got = with_pretrained({"encoder_conf": {"layer": "weighted"}, "max_epoch": 3}, path, None, "a.yaml")
    assert got == {
        "max_epoch": 3, "encoder": "wavlm", "encoder_conf": {"path": path, "layer": "weighted"}, **PRETRAINED_KEYS
    }  # fmt: skip
    assert with_pretrained({}, path, "2", "a.yaml")["encoder_conf"] == {"path": path, "layer": 2}
    for config, message in (
        ({"encoder": "whisper"}, "a.yaml: encoder is 'whisper', but with the pretrained encoder .* it is 'wavlm'"),
        ({"ctc": True}, "ctc is True"),
        ({"encoder_conf": {"layer": "weighted"}}, "layer is 'weighted', .* it is 2"),
        ({"model_conf": {"drop_blank": 0.9}}, "a.yaml: drop_blank needs a CTC head"),
        ({"aligned_start_conf": {"targets": "ctc_head"}}, "aligned_start_conf.targets needs a CTC head"),
    ):
        with pytest.raises(UserError, match=message):
            with_pretrained(config, path, "2", "a.yaml")


def cards(a, b):
    """Cards of the system x with the phases `a` and `b`."""
    return {"phases": {"a": a, "b": b}, "systems": {"x": {"phases": ["a", "b"]}, "ctc": {"decode": "ctc"}}}


def test_the_encoder_of_an_experiment(models, plan, capsys):
    from espnet_llmvq.stages.encoder import prepare

    first = {"encoder_conf": {"layer": 1}}
    experiment = plan(
        cards(first, first), systems="x ctc", llm="a/b", pretrained_encoder=models["wavlm"], ctc_head=False
    )
    assert [system.name for system in experiment.systems] == ["x"]
    assert "ctc is left out: with --ctc_head false the pretrained encoder has no CTC head" in capsys.readouterr().out
    prepare(experiment)
    with open("exp/encoder/config.yaml", encoding="utf-8") as f:
        config = yaml.safe_load(f)
    assert config["encoder"] == "wavlm" and config["encoder_conf"] == {"path": models["wavlm"], "layer": 1}
    assert experiment.encoder == {key: config[key] for key in experiment.encoder}
    assert FrameRate(config).frames(16000) == FrameRate(experiment.encoder).frames(16000) == 49
    prepare(experiment)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"made otherwise \(config.encoder: 'wavlm' then, 'whisper' now\)"):
        prepare(plan(systems="x", llm="a/b", pretrained_encoder=models["whisper"], ctc_head=False))
    with pytest.raises(UserError, match=r"phase a and .*phase b have other encoder_conf"):
        plan(cards(first, {}), systems="x", llm="a/b", pretrained_encoder=models["wavlm"], ctc_head=False)
    with pytest.raises(
        UserError, match="no system is left: with --ctc_head false the pretrained encoder has no CTC head"
    ):
        plan(systems="ctc", llm="a/b", pretrained_encoder=models["wavlm"], ctc_head=False)
    # Nor is the LLM trained of a system that is left out.
    more = cards(first, first)
    more["phases"]["lm"], more["systems"]["fused"] = first, {"decode": "ctc_lm", "lm_weight": 1, "phases": ["lm"]}
    experiment = plan(more, systems="x fused", llm="a/b", pretrained_encoder=models["wavlm"], ctc_head=False)
    assert [training.tag for training in experiment.trainings] == ["a", "a-b"]


def test_another_model_in_the_same_directory_is_noticed(models, plan, tmp_path):
    import shutil

    from espnet_llmvq.stages.encoder import frames_made, prepare

    shutil.copytree(models["wavlm"], tmp_path / "model")
    experiment = plan(cards({}, {}), systems="x", llm="a/b", pretrained_encoder="./model", ctc_head=False)
    prepare(experiment)
    made = frames_made(experiment, "train")
    made.note(at=tmp_path)
    with open("model/config.json", "a") as f:
        f.write(" ")
    assert "pretrained encoder (./model) has changed" in made.changed(json.loads((tmp_path / "made.json").read_text()))
    with pytest.raises(UserError, match=r"exp/encoder was made otherwise \(pretrained encoder \(./model\) has changed"):
        prepare(experiment)


def test_cached_frames_are_those_of_the_encoder(models, plan, corpus, llm_dir, tmp_path):
    """Encoding takes batches of similar length, decoding one utterance at a time; alone, to the last bit."""
    import kaldiio

    from espnet_llmvq.data.audio import read_audio
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.sequence.sequence import read_sequences
    from espnet_llmvq.stages.encoder import encode, frames_of, prepare

    for name in ("train", "valid", "test"):
        (tmp_path / "dump" / name).mkdir(parents=True)
        (tmp_path / "dump" / name / "sequences.jsonl").symlink_to(corpus.train if name == "train" else corpus.valid)
    for name, batch in (("wavlm", "alone"), ("whisper", "alone"), ("wavlm", "padded"), ("whisper", "padded")):
        expdir = f"{name}_{batch}"
        options = {
            "systems": "x",
            "llm": llm_dir,
            "pretrained_encoder": models[name],
            "ctc_head": False,
            "expdir": expdir,
        }
        changes = {"encoder_conf": {"batch": batch}}
        experiment = plan(cards(changes, changes), **options)
        prepare(experiment)
        encode(experiment, threads=1)
        frames, model = kaldiio.load_scp(frames_of(experiment, "train")), load_model(f"{expdir}/encoder")[0]
        assert frames_of(experiment, "test")
        sequences = list(read_sequences(corpus.train))
        assert len(sequences) == len(frames) == 12
        for seq in sequences:
            wave = torch.from_numpy(read_audio(seq.spans[1].audio))
            with torch.no_grad():
                uncached = model.encode(wave[None], torch.tensor([len(wave)]))[0][0]
                directly = build(models, name)(wave[None], torch.tensor([len(wave)]))[0][0]
            assert batch == "padded" or np.array_equal(frames[seq.id], uncached.numpy()), (name, seq.id)
            for other in (directly, uncached):
                np.testing.assert_allclose(frames[seq.id], other.numpy(), atol=1e-5)


def test_the_names_known_without_torch_are_those_of_the_classes():
    from espnet_llmvq.speech.frame_rate import PRETRAINED

    assert list(pretrained_encoder.CLASSES) == list(PRETRAINED)
