"""`SpeechLLM`: losses against one-by-one forward passes and enumeration, checkpoints, freezing."""

import argparse

import pytest
import torch
from cached import CachedEncoder
from conftest import ctc_texts

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import Bridge, SoftBridge
from espnet_llmvq.espnet.task import SpeechLLMTask
from espnet_llmvq.llm.directory import load_llm
from espnet_llmvq.llm.ends import token_inputs
from espnet_llmvq.model.ctc import CTCHead
from espnet_llmvq.model.losses import IGNORE, PAD, SPEECH, assemble
from espnet_llmvq.model.speech_llm import SpeechLLM

WIDTH, EOS, BLANK = 6, 2, 4
KEYS = {"optim": "adamw", "lr_scale": {}, "exclude_weight_decay": False, "sharded_ddp": False}
T, S = 0, 1  # kinds of spans


def model(llm_dir, bridge=Bridge, ctc=False, lora=None, bridge_conf=(), **kwargs):
    torch.manual_seed(0)
    llm = load_llm(llm_dir, lora=lora)
    table = llm.get_input_embeddings().weight
    head = CTCHead(WIDTH, len(table), BLANK) if ctc else None
    bridge = bridge(WIDTH, table, **{"stack": 2, "hidden_size": 10, **dict(bridge_conf)})
    encoder = CachedEncoder(WIDTH)
    return SpeechLLM(encoder, head, bridge, llm, None, EOS, **kwargs).eval()


def batch(sequences):
    """[[(kind, tokens or frames, loss)]] -> the model's batch, padded with garbage where nothing may look."""
    speech = [x for seq in sequences for kind, x, _ in seq if kind == S]
    tokens = [torch.tensor([t for kind, x, _ in seq for t in (x if kind == T else [SPEECH])]) for seq in sequences]
    labels = [
        torch.tensor([t if loss else IGNORE for kind, x, loss in seq for t in (x if kind == T else [SPEECH])])
        for seq in sequences
    ]
    out = {
        "tokens": torch.nn.utils.rnn.pad_sequence(tokens, True, PAD),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, True, 9),
    }
    if speech:
        out["speech"] = torch.nn.utils.rnn.pad_sequence(speech, True, 77.0)
        out["speech_lengths"] = torch.tensor([len(x) for x in speech])
    return out


def by_hand(model, seq):
    """Loss of one sequence from the LLM's own loss function: (sum, number of tokens)."""
    embed, inputs, labels = model.llm.get_input_embeddings(), [], []
    for kind, x, loss in seq:
        if kind == S:
            r = model.bridge.stack
            x = torch.cat([x, x.new_zeros(-len(x) % r, WIDTH)]).reshape(-1, r * WIDTH)
            part = model.bridge.quantize(model.bridge.projector(x))[0]
            labels += [-100] * len(part)
        else:
            part = embed(torch.tensor(x, dtype=torch.long))
            labels += x if loss else [-100] * len(x)
        inputs.append(part)
    count = sum(t != -100 for t in labels[1:])
    loss = model.llm(inputs_embeds=torch.cat(inputs)[None], labels=torch.tensor([labels])).loss
    return loss * count, count


def sequences():
    torch.manual_seed(1)
    frames = [torch.randn(n, WIDTH) for n in (7, 4, 3, 10, 5)]
    return [
        [(T, [5, 11], 0), (S, frames[0], 0), (T, [6], 0), (T, [20, 21, 22, EOS], 1)],
        [(S, frames[1], 0), (T, [30, 31], 1), (S, frames[2], 0), (T, [32, 33, 34, EOS], 1)],
        [(T, [40, 41, 42, 43, 44, 45, EOS], 1)],
        [(T, [7], 0), (S, frames[3], 0), (T, [8, 9], 0), (S, frames[4], 0), (T, [50], 1), (T, [51, EOS], 0)],
    ]


def test_assemble_by_hand():
    """Embeddings of token t are (t, t); of speech, steps of the first span are 1.1, 1.2, of the second 2.1."""
    embed = torch.nn.Embedding.from_pretrained(torch.arange(10.0)[:, None].expand(10, 2).contiguous())
    # fmt: off
    tokens = torch.tensor([[5, SPEECH,  6,    7, SPEECH,   8],
                           [3,      4, PAD, PAD,    PAD, PAD],
                           [SPEECH, 9, PAD, PAD,    PAD, PAD]])
    labels = torch.tensor([[-100, -100,    6,    7, -100,    8],
                           [-100,    4, -100, -100, -100, -100],
                           [-100,    9, -100, -100, -100, -100]])
    steps = torch.tensor([[1.1, 1.2], [2.1, 99.], [3.1, 3.2]])[..., None].expand(3, 2, 2)
    inputs, targets = assemble(embed, tokens, labels, steps, torch.tensor([2, 1, 2]))
    expected = [[5,    1.1,  1.2,  6, 7, 2.1,  8],
                [3,    4],
                [3.1,  3.2,  9]]
    wanted   = [[-100, -100, -100, 6, 7, -100, 8],
                [-100, 4],
                [-100, -100, 9]]
    # fmt: on
    assert [x.tolist() for x in targets] == wanted
    for x, row in zip(inputs, expected):
        assert torch.equal(x, torch.tensor(row)[:, None].expand(len(row), 2))


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bridge, conf", [(Bridge, {}), (SoftBridge, {"codebook": "trainable", "top_k": 7})])
def test_loss_and_gradients_one_by_one(llm_dir, bridge, conf):
    ours = model(llm_dir, bridge, bridge_conf=conf)
    total = count = 0
    for seq in sequences():
        alone, n = by_hand(ours, seq)
        (loss, stats, weight) = ours(**batch([seq]))
        assert int(weight) == n
        torch.testing.assert_close(loss * n, alone[None], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(stats["loss_llm"], loss, atol=0, rtol=0)
        total, count = total + alone, count + n
    (total / count).backward()
    expected = gradients(ours)
    ours.zero_grad()
    loss, _, weight = ours(**batch(sequences()))
    assert int(weight) == count == 4 + 6 + 6 + 1
    torch.testing.assert_close(loss * count, total[None], atol=1e-4, rtol=1e-5)
    loss.sum().backward()
    found = gradients(ours)
    assert found.keys() == expected.keys() and any("codebook" in n for n in found) == bool(conf)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_accuracy(llm_dir):
    """Share of labelled tokens that the LLM, given the true ones before, finds most likely."""
    ours = model(llm_dir)
    seq = sequences()[0]
    best = [20, 21, 22, EOS]
    for i in range(3):  # tokens 0 to 2 become right, one after the other; the end token stays as it is
        data = batch([[*seq[:3], (T, best, 1)]])
        steps = ours.bridge_speech(data["speech"], data["speech_lengths"])[:2]
        inputs, _ = assemble(ours.llm.get_input_embeddings(), data["tokens"], data["labels"], *steps)
        logits = ours.llm(inputs_embeds=inputs[0][None]).logits[0, -5:-1]
        right = sum(int(row.argmax()) == t for row, t in zip(logits, best)) / 4
        assert ours(**data)[1]["acc"] == right
        best[i] = int(logits[i].argmax())
    assert ours(**batch([[*seq[:3], (T, best, 1)]]))[1]["acc"] >= 0.75


def test_drop_blank_keeps_the_frames_that_are_not_blank(llm_dir):
    ours = model(llm_dir, ctc=True, drop_blank=0.3, bridge_conf={"stack": 1})
    torch.manual_seed(3)
    with torch.no_grad():
        ours.ctc.ctc_lo.weight[BLANK] *= 20
        ours.ctc.ctc_lo.bias[BLANK] += 8
    frames, lengths = 3 * torch.randn(4, 9, WIDTH), torch.tensor([9, 6, 8, 3])
    frames[3] = 0.0  # bias alone: blank throughout
    posterior = ours.ctc.ctc_lo(frames).softmax(-1)[..., BLANK]
    steps, counts, _ = ours.bridge_speech(frames, lengths)
    dropped = 0
    for i, n in enumerate(lengths.tolist()):
        kept = [t for t in range(n) if posterior[i, t] <= 0.3] or [0]
        dropped += n - len(kept)
        assert counts[i] == len(kept)
        torch.testing.assert_close(steps[i, : len(kept)], ours.bridge.projector(frames[i, kept]))
    assert 0 < dropped < int(lengths.sum()) and counts[3] == 1


def test_ctc_loss_by_enumeration(llm_dir):
    ours = model(llm_dir, ctc=True, ctc_weight=0.7, llm_weight=0.0)
    ours.ctc.ctc_lo = torch.nn.Linear(WIDTH, 6)  # rows 0 to 5, 4 is blank, 2 ends the text
    torch.manual_seed(4)
    frames = [torch.randn(n, WIDTH) for n in (5, 4, 3)]
    texts = [[5, 5, 1], [3], [0, 1]]
    data = [[(T, [1], 0), (S, x, 0), (T, [3, 5], 0), (T, [*t, EOS], 1)] for x, t in zip(frames, texts)]
    loss, stats, weight = ours(**batch(data))
    found = [ctc_texts(ours.ctc.ctc_lo(x).detach().log_softmax(-1), BLANK)[tuple(t)] for x, t in zip(frames, texts)]
    expected = -torch.tensor([sum(found)])
    assert int(weight) == 6
    torch.testing.assert_close(loss, 0.7 * expected / 6)
    torch.testing.assert_close(stats["loss_ctc"], expected / 6)


def test_ctc_needs_one_speech_span_a_sequence(llm_dir):
    ours = model(llm_dir, ctc=True, ctc_weight=1.0)
    for seqs in ([sequences()[1]], [sequences()[2]]):
        with pytest.raises(UserError, match="one speech span in every sequence"):
            ours(**batch(seqs))


def test_freeze(llm_dir):
    ours = model(llm_dir, lora={"r": 2, "lora_dropout": 0.5, "target_modules": ["q_proj"]}, freeze=["bridge"], ctc=True)
    trains = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert trains and all("lora_" in n or n.startswith("ctc.") for n in trains)
    ours.train()
    assert ours.training and ours.llm.training and ours.ctc.training
    assert not ours.bridge.training and not ours.bridge.projector.dropout.training
    assert not ours.llm.model.layers[0].mlp.training and ours.llm.model.layers[0].self_attn.q_proj.training
    dropouts = [m for n, m in ours.named_modules() if "lora_dropout" in n and isinstance(m, torch.nn.Dropout)]
    assert dropouts and all(m.training for m in dropouts)
    assert not any(m.training for m in ours.eval().modules())
    with pytest.raises(UserError, match="'llm.model.layer5' matches no parameter"):
        model(llm_dir, freeze=["llm.model.layer5"])


def test_frozen_dropout_is_off_in_training(llm_dir):
    ours = model(llm_dir, bridge_conf={"dropout_rate": 0.5}, freeze=["bridge"]).train()
    data = batch(sequences())
    assert torch.equal(ours(**data)[0], ours(**data)[0])
    ours = model(llm_dir, bridge_conf={"dropout_rate": 0.5}, freeze=["llm"]).train()
    assert not torch.equal(ours(**data)[0], ours(**data)[0])


def test_losses_need_their_parts(llm_dir):
    with pytest.raises(UserError, match="loss of ctc has weight 0.5 but there is no ctc"):
        model(llm_dir, ctc_weight=0.5)
    with pytest.raises(UserError, match="loss of aligned_start has weight 1.0"):
        model(llm_dir, start_weight=1.0)
    with pytest.raises(UserError, match="drop_blank and merge_runs need an encoder with a CTC head"):
        model(llm_dir, drop_blank=0.9)


def test_checkpoint_holds_what_trains(llm_dir):
    lora = {"r": 2, "target_modules": ["q_proj"]}
    conf = {"codebook": "trainable", "top_k": 3}
    ours = model(llm_dir, SoftBridge, bridge_conf=conf, lora=lora, external=["llm."])
    state = ours.state_dict()
    layers = [f"llm.model.layers.{i}.self_attn.q_proj.lora_{x}.default.weight" for i in (0, 1) for x in "AB"]
    bridge = [f"bridge.projector.{x}.{y}" for x in ("norm", "hidden", "output") for y in ("weight", "bias")]
    assert set(state) == {*layers, *bridge, "bridge.codebook"}
    other = model(llm_dir, SoftBridge, bridge_conf=conf, lora=lora, external=["llm."])
    for name in layers + bridge:
        state[name] = torch.randn_like(state[name])
    other.load_state_dict(state)
    assert all(torch.equal(v, state[n]) for n, v in other.state_dict().items())

    missing = {n: v for n, v in state.items() if n not in (layers[1], "bridge.codebook")}
    with pytest.raises(UserError, match=r"2 tensors missing: .*bridge.codebook"):
        other.load_state_dict(missing)
    with pytest.raises(UserError, match=r"1 tensors unexpected: encoder.extra"):
        other.load_state_dict({**state, "encoder.extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 tensors of other shapes: bridge.codebook"):
        other.load_state_dict({**state, "bridge.codebook": torch.zeros(3, 32)})


def test_checkpoint_of_a_trained_part_is_whole(llm_dir):
    """An LLM that trains is stored although the directory has its first values; a frozen one is not."""
    whole = model(llm_dir, external=["llm."]).state_dict()
    part = model(llm_dir, external=["llm."], freeze=["llm"]).state_dict()
    assert any(n.startswith("llm.") for n in whole) and not any(n.startswith("llm.") for n in part)
    assert {n for n in whole if not n.startswith("llm.")} == set(part)


def test_state_dict_of_a_parent_module_is_whole(llm_dir):
    """Nested in another module (as in DDP), the names carry a prefix; nothing is left out by mistake."""
    ours = model(llm_dir, external=["llm."], freeze=["llm"])
    parent = torch.nn.ModuleDict({"module": ours})
    assert "module.bridge.projector.output.weight" in parent.state_dict()


def test_the_drift_is_measured_again_only_after_a_change(make_model, monkeypatch):
    """The table of a large vocabulary takes longer than a step."""
    from espnet_llmvq.model import speech_llm

    measured, found = speech_llm.drift, []
    monkeypatch.setattr(speech_llm, "drift", lambda *tables: found.append(measured(*tables)) or found[-1])
    model = make_model(bridge="soft", bridge_conf={"stack": 1, "hidden_size": 8, "codebook": "trainable", "top_k": 4})
    assert model.codebook_drift()["codebook_drift"] == model.codebook_drift()["codebook_drift"] == 0 and len(found) == 1
    torch.optim.SGD([model.bridge.codebook], lr=1.0, weight_decay=0.5).step()  # no gradient, no step
    assert model.codebook_drift() and len(found) == 1
    model.bridge.codebook.grad = model.bridge.codebook.detach().clone()
    torch.optim.SGD([model.bridge.codebook], lr=0.5).step()
    assert float(model.codebook_drift()["codebook_drift"]) == pytest.approx(0.5) and len(found) == 2
    model.load_state_dict({**model.state_dict(), "bridge.codebook": 2 * model.bridge.codebook.detach()})
    assert float(model.codebook_drift()["codebook_drift"]) == pytest.approx(0, abs=1e-6) and len(found) == 3
    with torch.no_grad():
        model.llm.get_input_embeddings().weight.mul_(2)
    assert float(model.codebook_drift()["codebook_drift"]) == pytest.approx(0.5) and len(found) == 4


@pytest.mark.parametrize("fused", [False, True])
def test_the_drift_is_that_after_the_last_step(make_model, fused):
    """A fused optimizer does not count up the version of what it moves."""
    model = make_model(bridge="soft", bridge_conf={"stack": 1, "hidden_size": 8, "codebook": "trainable", "top_k": 4})
    conf = {"lr": 0.1, "fused": fused}
    (optimizer,) = SpeechLLMTask.build_optimizers(argparse.Namespace(**KEYS, optim_conf=conf), model)
    for _ in range(2):
        before = float(model.codebook_drift()["codebook_drift"])
        model.bridge.codebook.grad = torch.ones_like(model.bridge.codebook)
        optimizer.step()
        table = token_inputs(model.llm)
        expected = (model.bridge.codebook - table).norm() / table.norm()
        after = float(model.codebook_drift()["codebook_drift"])
        assert after == pytest.approx(float(expected)) and after > before


def test_a_new_codebook_is_the_table_of_the_llm_that_was_trained_before(make_model, tmp_path):

    before = make_model(freeze=[])
    with torch.no_grad():
        before.llm.get_input_embeddings().weight.mul_(2.0)
    torch.save(before.state_dict(), tmp_path / "model.pth")
    conf = {"stack": 1, "hidden_size": 24}
    model = make_model(freeze=[], bridge="hard", bridge_conf=conf, init_from=str(tmp_path / "model.pth"))
    assert (
        torch.equal(model.bridge.codebook, token_inputs(before.llm)) and model.codebook_drift()["codebook_drift"] == 0
    )
