"""Training of the small language model: batches, resuming, and perplexity against closed forms."""

import json
import math
import os
import random

import numpy as np
import pytest
import torch
import transformers

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm import perplexity, pretrain
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.llm.noisy_copy import Noise, NoisyCopy, copy_start
from espnet_llmvq.llm.tokenizer import train_tokenizer

TEMPLATE = "USER: {speech} ASSISTANT: {text}"
MODEL = pretrain.Model(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
CONFIG = pretrain.Config(
    model=MODEL, random_share=0, epochs=2, batch_size=10, warmup_steps=2, save_steps=4, log_steps=2, precision="float32"
)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A directory with train.txt (47 lines), valid.txt (9 lines) and a tokenizer tok."""
    room = tmp_path_factory.mktemp("lm")
    rng = random.Random(1)
    words = ["".join(rng.choices("abdeiklnorst", k=rng.randint(2, 6))) for _ in range(60)]
    lines = [" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(56)]
    (room / "train.txt").write_text("\n".join(lines[:47]) + "\n")
    (room / "valid.txt").write_text("\n".join(lines[47:]) + "\n")
    train_tokenizer([str(room / "train.txt")], 125, str(room / "tok"))
    return room


@pytest.fixture(scope="module")
def copier(room):
    return NoisyCopy(load_tokenizer(str(room / "tok")), TEMPLATE, Noise())


def fit(room, out, config=CONFIG, **kwargs):
    return pretrain.train(config, [str(room / "train.txt")], str(room / "tok"), str(out), TEMPLATE, 1, **kwargs)


@pytest.fixture(scope="module")
def trained(room):
    assert fit(room, room / "lm")
    return room / "lm"


def test_batches_hold_every_line_once_an_epoch(room, copier):
    lines = copier.encode((room / "train.txt").read_text().splitlines())
    batches = pretrain.Batches(lines, copier, CONFIG, 1)
    assert len(batches) == 10
    for epoch in (0, 1):
        seen = []
        for b in range(5):
            data = batches[5 * epoch + b]
            for row in data["labels"]:
                seen.append(tuple(row[row != -100].tolist()))
        assert sorted(seen) == sorted((*ids, copier.eos) for ids in lines)


def test_a_batch_depends_on_its_number_alone(room, copier):
    lines = copier.encode((room / "train.txt").read_text().splitlines())
    in_order = pretrain.Batches(lines, copier, CONFIG, 1)
    in_order = [in_order[b] for b in range(10)]
    fresh = pretrain.Batches(lines, copier, CONFIG, 1)
    for b in (7, 2, 9):
        assert torch.equal(fresh[b]["input_ids"], in_order[b]["input_ids"])
    other = pretrain.Batches(lines, copier, CONFIG, 2)[0]
    assert not torch.equal(other["input_ids"], in_order[0]["input_ids"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_copy_share(room, copier, share):
    lines = copier.encode((room / "train.txt").read_text().splitlines())
    config = pretrain.Config(model=MODEL, copy_share=share, random_share=1)
    first = pretrain.Batches(lines, copier, config, 1)[0]["input_ids"][:, 0]
    assert set(first.tolist()) == ({copier.head[0]} if share else {copier.tokenizer.bos_token_id})


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("width,heads,least", [(192, 2, 0.75), (192, 3, 0.97), (256, 4, 0.97)])
def test_copy_start_copies(width, heads, least, tie):
    torch.manual_seed(1)
    sizes = {"vocab_size": 300, "hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 3}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=heads, tie_word_embeddings=tie)
    llm = transformers.LlamaForCausalLM(config)

    def right(words):
        twice = torch.cat([words, torch.full((len(words), 1), 299), words], 1)
        with torch.no_grad():
            best = llm(twice).logits.argmax(-1)
        return (best[:, 20:-1] == twice[:, 21:]).float().mean().item()

    distinct = torch.stack([torch.randperm(299)[:16] for _ in range(20)])
    spelled = torch.randint(0, 12, (20, 16))  # most tokens occur twice
    assert right(distinct) < 0.1
    copy_start(llm)
    assert right(distinct) > 0.9
    # What follows the last token alone would be right for about half of them; each head looks one further back.
    assert right(spelled) > least


def test_labels_cover_the_last_tokens():
    data = pretrain.pad([([5, 6, 7], 2), ([8, 9, 5, 6, 2], 1)], 2)
    assert data["input_ids"].tolist() == [[5, 6, 7, 2, 2], [8, 9, 5, 6, 2]]
    assert data["labels"].tolist() == [[-100, 6, 7, -100, -100], [-100, -100, -100, -100, 2]]


class Stop(transformers.TrainerCallback):
    """Kills the training after a step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_resuming_gives_the_same_model(room, trained, tmp_path):
    out = tmp_path / "lm"
    with pytest.raises(KeyboardInterrupt):
        fit(room, out, callbacks=[Stop()])
    assert not out.exists()
    work = tmp_path / "lm.work"
    half = work / "checkpoint-6"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert pretrain.last_checkpoint(str(work)) == str(work / "checkpoint-4")
    assert not half.exists()
    with pytest.raises(UserError, match="lm.work was made otherwise .config.*delete .*lm.work to start again"):
        fit(room, out, pretrain.Config(model=MODEL))

    assert fit(room, out)
    assert not work.exists()
    load = transformers.AutoModelForCausalLM.from_pretrained
    straight, resumed = load(trained).state_dict(), load(out).state_dict()
    assert straight.keys() == resumed.keys()
    for name in straight:
        assert torch.equal(straight[name], resumed[name]), name
    steps = [json.loads(row)["step"] for row in (out / "train.log").read_text().splitlines()]
    assert steps[:2] == [2, 4] and steps[-1] == 10


def test_second_run_does_nothing(room, trained):
    before = os.stat(trained / "model.safetensors").st_mtime_ns
    assert fit(room, trained) is False
    assert os.stat(trained / "model.safetensors").st_mtime_ns == before


def test_others_may_read_it(trained):
    for file in trained.iterdir():
        assert file.stat().st_mode & 0o044 == 0o044, file.name


def test_directory_loads_as_any_other(room, trained):
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained, local_files_only=True)
    source = load_tokenizer(str(room / "tok"))
    line = "USER: to ba  kal ASSISTANT: x"
    assert tokenizer.encode(line) == source.encode(line)
    llm = transformers.AutoModelForCausalLM.from_pretrained(trained, local_files_only=True)
    assert llm.config.vocab_size == len(tokenizer)
    assert (trained / "tokenizer.model").exists()


def test_perplexity_of_uniform_model_is_the_vocabulary(room, trained, tmp_path):
    llm = transformers.AutoModelForCausalLM.from_pretrained(trained)
    for p in llm.parameters():
        p.data.zero_()
    llm.save_pretrained(tmp_path)
    load_tokenizer(str(trained)).save_pretrained(tmp_path)
    report = perplexity.measure(str(tmp_path), {"v": room / "valid.txt"}, TEMPLATE, Noise(), 1, str(tmp_path))
    assert "125.000" in perplexity.table(report)
    row = json.loads((tmp_path / "perplexity.json").read_text())["files"]["v"]
    lines = (room / "valid.txt").read_text().splitlines()
    assert (row["lines"], row["words"]) == (9, len(" ".join(lines).split()) + 9)
    for task in ("text", "noisy_copy"):
        assert row[task]["per_token"] == pytest.approx(125, rel=1e-5)
        assert row[task]["per_word"] == pytest.approx(125 ** (row["tokens"] / row["words"]), rel=1e-5)


def test_perplexity_of_a_line_beyond_the_context(room, trained, tmp_path):
    (tmp_path / "v.txt").write_text("ab de\n" + "ba " * 600 + "\n")
    message = r"v.txt: the line 'ba ba .*' ... has \d+ tokens \(text\), but the LLM's context has 1024"
    with pytest.raises(UserError, match=message):
        perplexity.measure(str(trained), {"v": tmp_path / "v.txt"}, TEMPLATE, Noise(), 1, str(tmp_path))
    assert not (tmp_path / "perplexity.json").exists()


def test_perplexity_against_one_line_at_a_time(room, trained, copier, tmp_path):
    files = {"v": str(room / "valid.txt")}
    report = perplexity.measure(str(trained), files, TEMPLATE, Noise(), 3, str(tmp_path))
    llm = transformers.AutoModelForCausalLM.from_pretrained(trained).eval()
    nats = {"text": 0.0, "noisy_copy": 0.0}
    tokens = 0
    for i, ids in enumerate(copier.encode((room / "valid.txt").read_text().splitlines())):
        tokens += len(ids) + 1
        rng = np.random.default_rng((3, i))
        for task, (whole, n) in (("text", copier.plain(ids)), ("noisy_copy", copier.example(ids, rng))):
            with torch.no_grad():
                logp = llm(torch.tensor([whole])).logits[0].log_softmax(-1)
            at = range(len(whole) - n, len(whole))
            nats[task] -= sum(logp[t - 1, whole[t]].item() for t in at)
    for task, value in nats.items():
        row = report["files"]["v"][task]
        assert row["nats"] == pytest.approx(value, rel=1e-5)
        assert row["per_token"] == pytest.approx(math.exp(value / tokens), rel=1e-5)


def test_config_errors(tmp_path):
    path = tmp_path / "lm.yaml"
    for content, message in (
        ("learning_rat: 1", "did you mean 'learning_rate'"),
        ("noise: {p_repeet: 0.1}", "noise 'p_repeet' .did you mean 'p_repeat'"),
        ("model: {hidden_size: big}", "model: hidden_size is 'big'; it must be a whole number"),
        ("epochs: true", "epochs"),
        ("epochs: 0", "1 or more"),
        ("model: {num_hidden_layers: 1}", "copy_start needs model.num_hidden_layers and"),
        ("model: {hidden_size: 24, num_attention_heads: 4}", "copy_start needs a model.hidden_size of 4"),
        ("random_share: 1.5", "random_share"),
        ("schedule: cosin", "did you mean 'cosine'"),
        ("model: 3", "model: expected keys and values"),
        ("a: [", "lm.yaml: while parsing"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            pretrain.load_config(str(path))
    path.write_text("learning_rate: 1e-3\nnoise: {p_drop: 0}")
    config = pretrain.load_config(str(path))
    assert (config.learning_rate, config.noise.p_drop, config.epochs) == (1e-3, 0, pretrain.Config().epochs)


def test_other_files_are_not_deleted(room, tmp_path):
    (tmp_path / "notes").write_text("keep")
    with pytest.raises(UserError, match="not known how"):
        fit(room, tmp_path)
