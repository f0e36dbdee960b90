"""Aligned start: both kinds of targets against sums written out, in float64."""

import itertools
import math

import pytest
import torch
from cached import CachedEncoder

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import Bridge
from espnet_llmvq.model.alignment import AlignedStart
from espnet_llmvq.model.ctc import CTCHead
from espnet_llmvq.model.losses import PAD, SPEECH
from espnet_llmvq.model.speech_llm import SpeechLLM

WIDTH, TEMPERATURE = 5, 0.2


def table(rows=6):
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))


def log_softmax(z, rows):
    """log softmax of cos(z, e_v) / temperature, by loops over vectors: list of lists."""
    out = []
    for vector in z.double():
        scores = [float(vector @ e / vector.norm() / e.norm()) / TEMPERATURE for e in rows.double()]
        total = math.log(sum(map(math.exp, scores)))
        out.append([s - total for s in scores])
    return out


@pytest.mark.parametrize("blank", [3, None])
def test_transcript_is_the_sum_over_all_paths(blank):
    torch.manual_seed(2)
    start = AlignedStart(table(), TEMPERATURE, blank)
    z, target = torch.randn(1, 4, WIDTH), [0, 5]
    rows = start.table if blank == 3 else torch.cat([start.table, start.blank_vector.detach()])
    logs, silent = log_softmax(z[0], rows), 3 if blank == 3 else 6
    total = 0.0
    for path in itertools.product(range(len(rows)), repeat=4):
        merged = [t for t, _ in itertools.groupby(path) if t != silent]
        if merged == target:
            total += math.exp(sum(logs[t][v] for t, v in enumerate(path)))
    loss = start(z, torch.tensor([4]), torch.tensor([target]), torch.tensor([2]))
    assert float(loss.detach()) == pytest.approx(-math.log(total), rel=1e-5)


def test_autocast_rounds_neither_cosines_nor_gradient():
    """At temperature 0.05, what bfloat16 leaves of a cosine is some nats of a logit."""
    torch.manual_seed(4)
    start, z, grads = AlignedStart(table(50), 0.05, 3), torch.randn(2, 6, WIDTH, requires_grad=True), []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = start(z, torch.tensor([6, 5]), torch.tensor([[0, 5, 7], [1, 1, 0]]), torch.tensor([3, 2]))
        grads.append(torch.autograd.grad(loss, z)[0])
    assert grads[0].abs().max() > 0.1
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blank,head_rows,head_blank", [(3, 6, 3), (None, 7, 6), (None, 5, 4), (None, 9, 8), (3, 8, 3)])
def test_cross_entropy_with_a_ctc_head(blank, head_rows, head_blank):
    """Also of a head with a blank after its tokens, and of fewer or more tokens than the table has rows."""
    torch.manual_seed(3)
    start = AlignedStart(table(), TEMPERATURE, blank, "ctc_head")
    z, posterior = torch.randn(4, WIDTH), torch.rand(4, head_rows).softmax(-1)
    rows = start.table if blank == 3 else torch.cat([start.table, start.blank_vector.detach()])
    logs, expected = log_softmax(z, rows), 0.0
    for n in range(4):
        for v in range(head_rows):
            row = (3 if blank == 3 else 6) if v == head_blank else v
            if row == v >= 6 > head_blank or (blank is None and 6 <= v < head_blank):
                continue  # a token without a row
            expected -= float(posterior[n, v]) * logs[n][row]
    head = CTCHead(WIDTH, head_rows, head_blank)
    assert float(start.cross_entropy(z, posterior, head).detach()) == pytest.approx(expected, rel=1e-5)


def speech_llm(freeze=("ctc",), stack=1):
    torch.manual_seed(4)
    return SpeechLLM(
        CachedEncoder(WIDTH), CTCHead(WIDTH, 6, 3),
        Bridge(WIDTH, table(), stack=stack, hidden_size=8), None, AlignedStart(table(), TEMPERATURE, 3, "ctc_head"), 2,
        start_weight=1.0, llm_weight=0.0, drop_blank=0.5, merge_runs=True, freeze=freeze,
    )  # fmt: skip


def test_steps_learn_what_the_head_says_whatever_the_padding():
    model = speech_llm()
    frames = [torch.randn(n, WIDTH) * 3 for n in (9, 4)]
    total, count = 0.0, 0
    for x in frames:
        steps, n = model.shorten(x[None], torch.tensor([len(x)]))
        z, _ = model.bridge.project(steps, n)
        posterior = model.ctc(steps).softmax(-1)[0].double()
        for row, p in zip(log_softmax(z[0].detach(), table()), posterior):
            total -= sum(float(p[v]) * row[v] for v in range(6))
            count += 1
    speech = torch.nn.utils.rnn.pad_sequence(frames, True, 50.0)
    tokens, labels = torch.tensor([[SPEECH, 4, 5], [SPEECH, 4, PAD]]), torch.tensor([[-100, 4, 5], [-100, 4, 0]])
    loss, stats, _ = model(tokens, labels, speech, torch.tensor([9, 4]))
    assert float(loss) == pytest.approx(total / count, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.bridge.parameters())
    assert all(p.grad is None for p in model.ctc.parameters())


@pytest.mark.parametrize("change", [{"freeze": ()}, {"stack": 2}])
def test_needs_a_frozen_head_and_single_steps(change):
    with pytest.raises(UserError, match="targets: ctc_head needs a frozen encoder"):
        speech_llm(**change)
