"""The bridges in stock ESPnet: its own commands train and decode, and processes it spawns know the post-encoders."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import WORDS, tones
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import espnet as plugin

CONFIG = {
    "token_type": "hugging_face",
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
    "encoder": "transformer",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1},
    "postencoder": "llmvq_soft",
    "postencoder_conf": {"stack": 2, "hidden_size": 24, "codebook": "trainable", "top_k": 10, "temperature": 0.05},
    "decoder": "hugging_face_transformers",
    "decoder_conf": {"causal_lm": True, "prefix": "USER:", "postfix": " ASSISTANT:"},
    "model_conf": {
        "ctc_weight": 0.0, "sym_sos": "<s>", "sym_eos": "</s>", "report_cer": False, "report_wer": False,
        "extract_feats_in_collect_stats": False,
    },
    "freeze_param": ["decoder"],
    "batch_type": "sorted",
    "batch_size": 3,
    "num_workers": 0,
    "max_epoch": 1,
    "optim": "adam",
    "optim_conf": {"lr": 0.01},
    "best_model_criterion": [["valid", "loss", "min"]],
    "keep_nbest_models": 1,
    "use_tensorboard": False,
    "use_matplotlib": False,
    "num_att_plot": 0,
}  # fmt: skip
BEAM = {"num_beams": 3, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def room(tmp_path_factory, llm_dir):
    """Data directories train (6 utterances) and valid (3), shape files, the token list and a config."""
    import soundfile
    from espnet2.bin.hugging_face_export_vocabulary import export_vocabulary

    room, rng = tmp_path_factory.mktemp("asr1"), np.random.default_rng(3)
    for name, count in (("train", 6), ("valid", 3)):
        files = {"wav.scp": [], "text": [], "speech_shape": []}
        for i in range(count):
            words, key = list(rng.choice(WORDS, rng.integers(3, 6))), f"{name}{i}"
            wave = tones(words, rng)
            soundfile.write(room / f"{key}.wav", wave, 16000, subtype="PCM_16")
            files["wav.scp"].append(f"{key} {room / key}.wav")
            files["text"].append(f"{key} {' '.join(words)}")
            files["speech_shape"].append(f"{key} {len(wave)}")
        (room / name).mkdir()
        for file, lines in files.items():
            (room / name / file).write_text("\n".join(lines) + "\n")
    # As stage 5 of ESPnet's asr.sh does.
    export_vocabulary(str(room / "tokens.txt"), llm_dir, "ERROR", [])
    config = {**CONFIG, "token_list": str(room / "tokens.txt"), "bpemodel": llm_dir}
    config["decoder_conf"] = {**CONFIG["decoder_conf"], "model_name_or_path": llm_dir}
    for name in ("train", "valid"):
        data = [[str(room / name / "wav.scp"), "speech", "sound"], [str(room / name / "text"), "text", "text"]]
        config[f"{name}_data_path_and_name_and_type"] = data
        config[f"{name}_shape_file"] = [str(room / name / "speech_shape")]
    (room / "train.yaml").write_text(yaml.safe_dump(config))
    return room


def python(*arguments):
    return subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(room):
    """The experiment directory after one epoch through ESPnet's own command."""
    done = python(
        "espnet_llmvq", "espnet", "-m", "espnet2.bin.asr_train",
        "--config", room / "train.yaml", "--output_dir", room / "exp", "--ngpu", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return room / "exp"


@pytest.fixture(scope="module")
def decoded(trained, room):
    """The output directory of ESPnet's own decoding, a beam of 3."""
    (room / "decode.yaml").write_text(yaml.safe_dump({"hugging_face_decoder": True, "hugging_face_decoder_conf": BEAM}))
    done = python(
        "espnet_llmvq", "espnet", "-m", "espnet2.bin.asr_inference", "--config", room / "decode.yaml",
        "--asr_train_config", trained / "config.yaml", "--asr_model_file", trained / "1epoch.pth",
        "--data_path_and_name_and_type", f"{room}/valid/wav.scp,speech,sound", "--output_dir", room / "decode",
        "--ngpu", 0, "--num_workers", 0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return room / "decode/1best_recog"


@pytest.fixture(scope="module")
def loaded(trained):
    """The trained model, as ESPnet loads it for decoding."""
    from espnet_llmvq.espnet.postencoder import ASRTask

    model, _ = ASRTask.build_model_from_file(trained / "config.yaml", trained / "1epoch.pth")
    return model.eval()


@pytest.fixture
def arguments(room):
    """Function: parsed arguments of the ASR task for the config of `room`, with options added."""

    def parse(*options):
        from espnet_llmvq.espnet.postencoder import ASRTask

        return ASRTask.get_parser().parse_args(["--config", str(room / "train.yaml"), *map(str, options)])

    return parse


def encode(model, path):
    """(1, S, D) what the LLM gets for a wave file."""
    import soundfile

    wave = torch.tensor(soundfile.read(path, dtype="float32")[0])[None]
    with torch.no_grad():
        return model.encode(wave, torch.tensor([wave.shape[1]]))[0]


@pytest.mark.slow
def test_the_checkpoint_holds_the_bridge_and_loads_whole(trained, loaded, llm_dir):
    state = torch.load(trained / "1epoch.pth", weights_only=True)
    table = AutoModelForCausalLM.from_pretrained(llm_dir).get_input_embeddings().weight
    codebook = state["postencoder.bridge.codebook"]
    assert codebook.shape == table.shape and not torch.equal(codebook, table)  # it has been trained
    assert torch.equal(state["decoder.decoder.embed_tokens.weight"], table)  # and the LLM has not
    own = loaded.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["postencoder_conf"] == {**CONFIG["postencoder_conf"], "model_name_or_path": llm_dir}


@pytest.mark.slow
def test_the_llm_reads_weighted_codebook_rows(loaded, room):
    """Against equation and codebook, in float64: the 10 nearest of 110 rows, weights from cosines over 0.05."""
    seen = []
    hook = loaded.postencoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    got = encode(loaded, room / "valid0.wav")[0].double()
    hook.remove()
    frames, bridge = seen[0][0], loaded.postencoder.bridge
    frames = torch.cat([frames, frames.new_zeros(len(frames) % 2, frames.shape[1])])
    with torch.no_grad():
        z = bridge.projector(frames.reshape(len(frames) // 2, -1)).double()
    rows = bridge.codebook.detach().double()
    # The row of <pad> is zero and has cosine 0 with everything.
    cosines = z @ rows.T / z.norm(dim=1, keepdim=True) / rows.norm(dim=1).clamp_min(1e-12)
    expected = []
    for line in cosines:
        best = line.argsort(descending=True)[:10]
        expected.append((line[best] / 0.05).softmax(0) @ rows[best])
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_decoding_is_what_transformers_generates(decoded, loaded, room, llm_dir, tokenizer):
    """Prefix, bridge outputs, postfix given to `generate` by hand make the tokens in ESPnet's files."""
    llm = AutoModelForCausalLM.from_pretrained(llm_dir).eval()
    lines = dict(line.split(maxsplit=1) for line in (decoded / "token_int").read_text().splitlines())
    texts = dict(line.split(maxsplit=1) for line in (decoded / "text").read_text().splitlines())
    assert list(lines) == ["valid0", "valid1", "valid2"]
    for key, line in lines.items():
        prefix, postfix = (
            llm.get_input_embeddings()(torch.tensor([tokenizer.encode(text)])) for text in ("USER:", " ASSISTANT:")
        )
        prompt = torch.cat([prefix, encode(loaded, room / f"{key}.wav"), postfix], 1)
        mask = torch.ones(prompt.shape[:2], dtype=torch.long)
        ids = llm.generate(inputs_embeds=prompt, attention_mask=mask, do_sample=False, **BEAM)[0].tolist()
        # ESPnet cuts the last token, which it takes for the end token, and drops every 0.
        assert [int(i) for i in line.split()] == [i for i in ids[:-1] if i != 0]
        assert texts[key] == tokenizer.decode(ids[:-1], skip_special_tokens=True).strip()


@pytest.mark.slow
def test_a_spawned_process_knows_the_postencoders(arguments, tmp_path):
    """As ESPnet starts one for each GPU: from nothing, with the task's `main_worker` as the target."""
    import espnet2.bin.asr_train
    from espnet2.train.distributed_utils import resolve_distributed_mode

    args = arguments("--output_dir", tmp_path / "exp", "--dry_run", "true", "--ngpu", 0)
    resolve_distributed_mode(args)
    process = multiprocessing.get_context("spawn").Process(
        target=espnet2.bin.asr_train.ASRTask.main_worker, args=(args,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert yaml.safe_load((tmp_path / "exp/config.yaml").read_text())["postencoder"] == "llmvq_soft"


@pytest.mark.slow
def test_without_the_plugin_espnet_does_not_know_the_name():
    done = python("espnet2.bin.asr_train", "--postencoder", "llmvq_soft")
    assert done.returncode == 2 and "invalid choice: 'llmvq_soft'" in done.stderr


@pytest.mark.slow
def test_random_initialisation_leaves_the_codebook(arguments, llm_dir):
    from espnet_llmvq.espnet.postencoder import ASRTask

    model = ASRTask.build_model(arguments("--init", "xavier_uniform"))
    table = AutoModelForCausalLM.from_pretrained(llm_dir).get_input_embeddings().weight
    assert torch.equal(model.postencoder.bridge.codebook, table)


@pytest.mark.slow
@pytest.mark.parametrize("name, keys", [("llmvq_none", []), ("llmvq_hard", ["codebook"]), ("llmvq_soft", ["codebook"])])
def test_each_bridge_has_a_name(arguments, name, keys):
    from espnet_llmvq.espnet.postencoder import ASRTask

    args = arguments("--postencoder", name)
    args.postencoder_conf = {"stack": 3, "hidden_size": 24}
    model = ASRTask.build_model(args)
    bridge = {n.split(".")[2] for n in model.state_dict() if n.startswith("postencoder.bridge.")}
    assert bridge == {"projector", *keys}
    output, lengths = model.postencoder(torch.randn(2, 7, 16), torch.tensor([7, 4]))
    assert output.shape == (2, 3, 32) and lengths.tolist() == [3, 2] and not output[1, 2].any()


@pytest.mark.slow
def test_impossible_configs(arguments, tmp_path):
    from espnet_llmvq.espnet.postencoder import ASRTask

    config = LlamaConfig(
        vocab_size=110, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "narrow")
    for change, message in [
        ({"postencoder_conf": {"model_name_or_path": str(tmp_path / "narrow")}}, "narrow is 16 wide, but .* are 32"),
        ({"postencoder_conf": {"topk": 3}}, "unknown key under postencoder_conf of llmvq_soft 'topk'.*'top_k'"),
        ({"postencoder_conf": {"top_k": 0}}, "top_k: 0 must be 1 to 110"),
        ({"postencoder_conf": {"model_name_or_path": "./nowhere"}}, "./nowhere does not exist"),
        ({"decoder": "transformer", "decoder_conf": {}}, "set decoder: hugging_face_transformers"),
        ({"decoder_conf": {"model_name_or_path": "./nowhere"}}, "causal_lm: true"),
        ({"decoder_conf": {"causal_lm": True}}, "decoder_conf needs model_name_or_path"),
    ]:
        args = arguments()
        vars(args).update(change)
        with pytest.raises(UserError, match=message):
            ASRTask.build_model(args)


@pytest.mark.slow
def test_modules_run_as_with_python_m(tmp_path, monkeypatch, capsys):
    """Arguments, name, package and the module that spawned processes will take for `__main__`."""
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/module.py").write_text(
        "import sys\nprint(sys.argv, __name__, __package__, __spec__.name, sys.modules['__main__'].__file__)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["plugin"])
    options = ["-m", "x", "--help", "--a-b=1", "--", ""]
    plugin.main(["-m", "shown.module", *options])
    direct = subprocess.run(
        [sys.executable, "-m", "shown.module", *options], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert capsys.readouterr().out == direct.stdout


def test_without_a_module_there_is_usage(capsys):
    with pytest.raises(SystemExit) as exit_:
        plugin.main([])
    assert exit_.value.code == 2
    assert "-m MODULE" in capsys.readouterr().err


def test_helper_commands_of_espnet_are_spared_the_import():
    assert all(map(plugin.uses_asr_task, ("espnet2.bin.asr_train", "espnet2.bin.asr_inference", "mine.train")))
    assert not any(map(plugin.uses_asr_task, ("espnet2.bin.launch", "espnet2.bin.tokenize_text")))
