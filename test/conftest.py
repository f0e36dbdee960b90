"""Tests run on one thread, so that they are as fast beside a training as alone, and repeatable.

Also a tiny world: an LLM directory, a corpus of tones, and configs of an encoder and of phases.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import collections  # noqa: E402
import itertools  # noqa: E402
import math  # noqa: E402
import time  # noqa: E402
import types  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

TEMPLATE = "USER: {speech} ASSISTANT: {text}"
WORDS = "one two three four five six seven eight nine zero".split()
TONES = {word: 300.0 + 150.0 * i for i, word in enumerate(WORDS)}  # Hz


def write_cards(directory, **sections):
    """Write DIRECTORY/systems.yaml with these sections; the directory, as text."""
    import yaml

    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "systems.yaml"), "w") as f:
        yaml.safe_dump(sections, f, sort_keys=False)
    return str(directory)


def link_template(directory):
    """Link the shared configs into DIRECTORY/template, as recipes have them."""
    os.makedirs(directory, exist_ok=True)
    if not os.path.lexists(os.path.join(directory, "template")):
        os.symlink(Path(__file__).resolve().parent.parent / "egs/TEMPLATE/conf", os.path.join(directory, "template"))


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Function: the `Experiment` of cards and options, in a recipe that is the working directory.

    cards: its sections; None: those that are there. encoder: config of one that is trained; None: one is given.
    """
    import yaml

    from espnet_llmvq.experiment.options import Options
    from espnet_llmvq.experiment.plan import make_plan

    monkeypatch.chdir(tmp_path)

    def make(cards=None, encoder=None, **options):
        if cards:
            write_cards("conf", **cards)
        link_template("conf")
        if encoder:
            (tmp_path / "conf/encoder.yaml").write_text(yaml.safe_dump(encoder))
        elif "encoder_file" not in options and "pretrained_encoder" not in options:
            (tmp_path / "given").mkdir(exist_ok=True)
            (tmp_path / "given/config.yaml").write_text(yaml.safe_dump(ENCODER))
            options["encoder_file"] = "given/model.pth"
        return make_plan(Options(**{"test_sets": "test:id", **options}))

    return make


@pytest.fixture(scope="session")
def llm_dir(tmp_path_factory):
    """A Hugging Face directory: a unigram tokenizer with `<blank>` and a random Llama of width 32."""
    import torch
    import transformers

    from espnet_llmvq.llm.tokenizer import train_tokenizer

    room = tmp_path_factory.mktemp("llm")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(200)]
    (room / "text").write_text("\n".join(lines) + "\n")
    train_tokenizer([str(room / "text")], 110, str(room / "llm"))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=110, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        initializer_range=0.3,  # large enough for texts that differ between utterances
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(room / "llm")
    return str(room / "llm")


@pytest.fixture(scope="session")
def tokenizer(llm_dir):
    from espnet_llmvq.llm.directory import load_tokenizer

    return load_tokenizer(llm_dir)


def tones(words, rng):
    """One tone of 0.08 to 0.2 s a word, in noise: (S,) float32 at 16 kHz."""
    parts = []
    for word in words:
        n = int(rng.integers(1280, 3200))
        parts.append(0.3 * np.sin(2 * np.pi * TONES[word] / 16000 * np.arange(n)))
    wave = np.concatenate(parts)
    return (wave + 0.01 * rng.standard_normal(len(wave))).astype(np.float32)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, llm_dir):
    """Files of 12 training and 5 validation utterances: .train .valid (sequences), .train_shape .valid_shape."""
    import soundfile

    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.sequence.asr import asr_sequence
    from espnet_llmvq.sequence.sequence import write_sequences
    from espnet_llmvq.stages.sequences import count_positions

    room = tmp_path_factory.mktemp("corpus")
    rng, files = np.random.default_rng(1), {"dir": str(room)}
    (room / "encoder.yaml").write_text("frontend_conf: {hop_length: 160, center: false}\nframe_stack: 4\n"
                                       "encoder_conf: {input_layer: linear}\n")  # fmt: skip
    for name, count in (("train", 12), ("valid", 5)):
        sequences = []
        for i in range(count):
            words = list(rng.choice(WORDS, rng.integers(1, 5)))
            path, wave = str(room / f"{name}{i:02d}.wav"), tones(words, rng)
            soundfile.write(path, wave, 16000, subtype="PCM_16")
            sequences.append(asr_sequence(f"{name}{i:02d}", path, len(wave), " ".join(words), TEMPLATE))
        files[name] = str(room / f"{name}.jsonl")
        files[f"{name}_shape"] = str(room / f"{name}_shape")
        write_sequences(files[name], sequences)
        count_positions([(files[name], files[f"{name}_shape"])], llm_dir, read_config(room / "encoder.yaml"), 1)
    return types.SimpleNamespace(**files)


ENCODER = {
    "frontend": "default",
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20, "center": False},
    "normalize": "utterance_mvn",
    "normalize_conf": {"norm_vars": True},
    "specaug": "specaug",
    "specaug_conf": {"apply_time_warp": False, "freq_mask_width_range": [0, 4], "time_mask_width_range": [0, 3]},
    "frame_stack": 4,
    "encoder": "conformer",
    "encoder_conf": {
        "input_layer": "linear", "output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1,
        "rel_pos_type": "latest", "pos_enc_layer_type": "rel_pos", "selfattention_layer_type": "rel_selfattn",
        "cnn_module_kernel": 7,
    },
}  # fmt: skip
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="session")
def settings(llm_dir, corpus):
    """Function: a full config of a phase of 3 steps an epoch, with keys laid over it."""

    def merged(**overrides):
        return {
            **ENCODER,
            "llm": llm_dir,
            "encoder_file": None,
            "init_from": None,
            "bridge": "none",
            "bridge_conf": {"stack": 1, "hidden_size": 24},
            "train_data_path_and_name_and_type": [[corpus.train, "sequence", "sequence"]],
            "valid_data_path_and_name_and_type": [[corpus.valid, "sequence", "sequence"]],
            "train_shape_file": [corpus.train_shape],
            "valid_shape_file": [corpus.valid_shape],
            "train_cache": None,
            "valid_cache": None,
            "batch_type": "sorted",
            "batch_size": 4,
            "num_workers": 0,
            "max_epoch": 3,
            "optim": "adamw",
            "optim_conf": {"lr": 0.01},
            "scheduler": "onecyclelr",
            "scheduler_conf": {"max_lr": 0.01, "total_steps": 9},
            "grad_clip": 1.0,
            "keep_nbest_models": 2,
            "best_model_criterion": [["valid", "loss", "min"]],
            "use_tensorboard": False,
            "use_matplotlib": False,
            "autocast": "none",
            "seed": 1,
            "ngpu": 0,
            **overrides,
        }

    return merged


@pytest.fixture(scope="session")
def arguments(settings):
    """Function: the task's arguments (Namespace) for `settings`."""

    def build(**overrides):
        from espnet_llmvq.espnet.task import SpeechLLMTask

        return types.SimpleNamespace(**{**SpeechLLMTask.get_default_config(), **settings(**overrides)})

    return build


@pytest.fixture(scope="session")
def make_model(settings):
    """Function: a `SpeechLLM` in eval mode, the same weights for the same settings."""

    def make(**overrides):
        import torch

        from espnet_llmvq.model.build import build

        torch.manual_seed(0)
        return build(settings(**overrides)).eval()

    return make


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory, settings):
    """An experiment directory as stage 7 leaves it: encoder and CTC head after one epoch of CTC."""
    from espnet_llmvq.espnet.run import train_phase

    directory = str(tmp_path_factory.mktemp("exp") / "encoder")
    config = settings(model_conf={"ctc_weight": 1.0, "llm_weight": 0.0}, max_epoch=1, keep_nbest_models=1)
    train_phase(directory, config, 1)
    return directory


@pytest.fixture(scope="session")
def trained_soft(tmp_path_factory, encoder_dir, settings):
    """(encoder, phase) directories of a system with soft bridge and LoRA; the CTC head of the encoder spells something.

    After one epoch it would hear blanks only, and transcription leave out what it takes for silence.
    """
    import shutil

    import torch

    from espnet_llmvq.espnet.run import train_phase
    from espnet_llmvq.llm.directory import BLANK_TOKEN, load_tokenizer

    room = tmp_path_factory.mktemp("soft")
    encoder, phase = str(room / "encoder"), str(room / "exp" / "soft")
    shutil.copytree(encoder_dir, encoder)
    state = torch.load(os.path.join(encoder, "model.pth"), weights_only=True)
    blank = load_tokenizer(settings()["llm"]).convert_tokens_to_ids(BLANK_TOKEN)
    state["ctc.ctc_lo.weight"] *= 20
    state["ctc.ctc_lo.bias"][blank] -= 5
    torch.save(state, os.path.join(encoder, "model.pth"))
    config = settings(
        encoder_file=os.path.join(encoder, "model.pth"), specaug=None, max_epoch=1, llm_conf={"lora": LORA},
        bridge="soft", bridge_conf={"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 5},
        model_conf={"drop_blank": 0.95, "merge_runs": True},
    )  # fmt: skip
    train_phase(phase, config, 1)
    return encoder, phase


@pytest.fixture(scope="session")
def experiment_of(llm_dir):
    """Function: the `Experiment` of systems and sets in a directory, written and put in place as by stages 1 to 11.

    systems: {name: directory of its model, or "ctc", or "ctc_lm"}; sets: {name: file of sequences, of which each gets a
    copy}, test sets but for train and valid. encoder: directory of which the experiment gets a copy; labels: {system:
    label}; more: further options.
    """
    import shutil

    from espnet_llmvq.experiment.experiment import Experiment, TestSet
    from espnet_llmvq.experiment.options import Options
    from espnet_llmvq.experiment.plan import SHAPE
    from espnet_llmvq.experiment.table import System

    def make(room, systems, sets, *, encoder=None, labels=None, trainings=(), **more):
        exp = os.path.join(room, "exp")
        options = Options(**{"expdir": exp, "dumpdir": os.path.join(room, "dump"), "llm": llm_dir, "title": "Tones",
                             **more})  # fmt: skip
        rows = []
        for name, model in systems.items():
            decode = model if model in ("ctc", "ctc_lm") else "llm"
            phases = (os.path.basename(model),) if decode == "llm" else ()
            model = str(model) if phases else os.path.join(exp, "encoder")
            prefix = {"llm": "decode", "ctc": "decode_ctc", "ctc_lm": f"decode_{name}"}[decode]
            hypotheses = os.path.join(model, f"{prefix}_{{set}}", "hyp.jsonl")
            fusion = {"lm_weight": 0.3, "length_bonus": 0.0} if decode == "ctc_lm" else None
            rows.append(System(name, (labels or {}).get(name, name), hypotheses, "", decode, phases, model, fusion))
        tests = tuple(TestSet(name, "id") for name in sets if name not in (options.train_set, options.valid_set))
        shape = {key: ENCODER[key] for key in SHAPE}
        experiment = Experiment(options, tests, tuple(rows), tuple(trainings), {}, {}, shape)
        for name, path in sets.items():
            target = Path(experiment.sequences(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if encoder:
            shutil.copytree(encoder, experiment.encoder_dir, ignore=shutil.ignore_patterns("decode_*", "frames"))
        experiment.write()
        return experiment

    return make


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, then those with many: of processes that share them none ends much later."""
    slow, tests = collections.Counter(), collections.Counter()
    for item in items:
        tests[item.path] += 1
        slow[item.path] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: (not slow[item.path], -tests[item.path], item.path))


def wait_for(condition, seconds=40):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(pid):
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ctc_texts(log_probs, blank, labels=None):
    """{text: log likelihood} by the sum over all paths of `labels`, of all tokens if none are given."""
    sums = collections.defaultdict(float)
    for path in itertools.product(labels or range(log_probs.shape[1]), repeat=len(log_probs)):
        text = tuple(k for k, _ in itertools.groupby(path) if k != blank)
        sums[text] += math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
    return {text: math.log(p) for text, p in sums.items()}


def without_last_line(path):
    """Take the last line from a file, as if its content had changed."""
    with open(path, encoding="utf-8") as f:
        lines = f.readlines()
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(lines[:-1])


@pytest.fixture(scope="session")
def packed_dir(tmp_path_factory, trained_soft):
    """`trained_soft`, packed with a beam of 2."""
    from espnet_llmvq.bundle.model import pack

    out = str(tmp_path_factory.mktemp("packed") / "soft")
    search = {"num_beams": 2, "length_penalty": 0.0, "ctc_weight": 0.0}
    pack(trained_soft[1], out, system="soft", label="Soft-VQ", decode="llm", search=search)
    return out
