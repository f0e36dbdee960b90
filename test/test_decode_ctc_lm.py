"""CTC prefix beam search with an LM: against all texts of a tiny vocabulary, scored one by one."""

import types

import pytest
import torch
from conftest import ctc_texts

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.ctc_lm import join_blanks, search
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.systems import read_systems

FRAMES, LABELS = 4, (20, 40, 41)


@pytest.fixture(scope="module")
def llm(llm_dir):
    from espnet_llmvq.llm.directory import load_llm

    return load_llm(llm_dir).eval()


class Head:
    """A CTC head whose frames are its logits already."""

    def __init__(self, blank):
        self.blank = blank

    def __call__(self, frames):
        return frames


def frames(tokenizer, count, blank, rows, seed=0):
    """Logits (count, FRAMES, rows) in which only LABELS and blank are probable."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((count, FRAMES, rows), -30.0)
    x[:, :, [*LABELS, blank]] = 2 * torch.randn(count, FRAMES, len(LABELS) + 1, generator=generator)
    return x


def test_frames_that_are_surely_blank_are_one():
    """Texts keep their probabilities, summed over all paths; so does one of two labels that are alike."""
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(8, 4, generator=generator)
    x[[0, 1, 4, 5, 7], 3] = 12.0  # the blank, surely
    log_probs = x.double().log_softmax(-1)
    joined = join_blanks(log_probs, 3)
    assert joined.shape == (6, 4) and torch.equal(joined[[1, 2, 4]], log_probs[[2, 3, 6]])
    assert torch.allclose(
        joined[[0, 3, 5], 3], torch.stack([log_probs[:2, 3].sum(), log_probs[4:6, 3].sum(), log_probs[7, 3]])
    )
    before, after = (ctc_texts(rows, 3, range(4)) for rows in (log_probs, joined))
    likely = {text: score for text, score in before.items() if score > -8}
    assert len(likely) > 20 and any(a == b for text in likely for a, b in zip(text, text[1:]))
    assert {text: after[text] for text in likely} == pytest.approx(likely, abs=0.01)
    doubtful = torch.zeros(5, 4).log_softmax(-1)
    assert torch.equal(join_blanks(doubtful, 3), doubtful)


def lm_score(llm, text):
    ids = torch.tensor([[1, *text, 2]])
    with torch.no_grad():
        log_probs = llm(input_ids=ids).logits[0].double().log_softmax(-1)
    return sum(float(log_probs[i, token]) for i, token in enumerate(ids[0, 1:]))


@pytest.mark.parametrize("own_row", [False, True])
@pytest.mark.parametrize("lm_weight, bonus", [(0.0, 0.0), (0.4, 0.0), (0.4, 1.5)])
def test_a_wide_beam_finds_the_best_of_all(llm, tokenizer, own_row, lm_weight, bonus):
    """own_row: the blank is no token of the LLM, as with a downloaded one."""
    blank = len(tokenizer) if own_row else tokenizer.convert_tokens_to_ids("<blank>")
    x = frames(tokenizer, 3, blank, len(tokenizer) + own_row)
    model = types.SimpleNamespace(ctc=Head(blank))
    # Padding of the batch must not matter.
    batch = {"speech": torch.cat([x, torch.randn(3, 2, x.shape[2])], 1), "speech_lengths": torch.full((3,), FRAMES)}
    found = search(model, llm, tokenizer, batch, 150, lm_weight, bonus)
    for logits, hypotheses in zip(x, found):
        ctc = ctc_texts(logits.double().log_softmax(-1), blank, (*LABELS, blank))
        lm = {text: lm_score(llm, text) if lm_weight else 0.0 for text in ctc}
        score = {t: ctc[t] + lm_weight * lm[t] + bonus * (len(t) + 1) for t in ctc}
        ranked = sorted(score, key=score.get, reverse=True)
        assert [tuple(h.tokens) for h in hypotheses[:3]] == ranked[:3]
        for h in hypotheses[:3]:
            assert h.ctc == pytest.approx(ctc[tuple(h.tokens)], abs=1e-4)
            assert h.llm == pytest.approx(lm[tuple(h.tokens)], abs=1e-4)


def test_the_lm_changes_the_text(llm, tokenizer):
    blank = tokenizer.convert_tokens_to_ids("<blank>")
    x = frames(tokenizer, 12, blank, len(tokenizer))
    batch = {"speech": x, "speech_lengths": torch.full((12,), FRAMES)}
    model = types.SimpleNamespace(ctc=Head(blank))
    without, with_lm = ([found[0].tokens for found in search(model, llm, tokenizer, batch, 8, w)] for w in (0.0, 1.0))
    assert without != with_lm
    alone = {"speech": x[5:6], "speech_lengths": torch.tensor([FRAMES])}
    assert search(model, llm, tokenizer, alone, 8, 1.0)[0][0].tokens == with_lm[5]


def test_a_token_that_the_lm_has_no_row_for_is_not_written(llm, tokenizer):
    """As <image_soft_token> of Gemma 3. The head's blank comes after it."""
    rows = len(llm.get_input_embeddings().weight)
    x = frames(tokenizer, 1, rows + 1, rows + 2)
    x[0, :, rows] = 50.0
    batch = {"speech": x, "speech_lengths": torch.tensor([FRAMES])}
    (found,) = search(types.SimpleNamespace(ctc=Head(rows + 1)), llm, tokenizer, batch, 8, 1.0)
    assert found and all(max(h.tokens, default=0) < rows for h in found)


def test_the_context_of_the_lm_ends_a_text(llm, tokenizer):
    """Three positions: the start and two tokens, behind which a third can be written, but no end."""
    blank = tokenizer.convert_tokens_to_ids("<blank>")
    x = frames(tokenizer, 1, blank, len(tokenizer))
    x[..., [*LABELS, blank]] = 0.0
    x[0, range(3), [20, 40, 41]] = 20.0
    x[0, 3, blank] = 20.0
    model, batch = types.SimpleNamespace(ctc=Head(blank)), {"speech": x, "speech_lengths": torch.tensor([FRAMES])}
    lengths = []
    hook = llm.register_forward_hook(lambda *args: lengths.append(args[2].past_key_values.get_seq_length()))
    context = llm.config.max_position_embeddings
    try:
        (found,) = search(model, llm, tokenizer, batch, 20, 0.1)
        assert (found[0].tokens, found[0].at_limit, max(lengths)) == ([20, 40, 41], False, 5)
        lengths.clear()
        llm.config.max_position_embeddings = 3
        (found,) = search(model, llm, tokenizer, batch, 20, 0.1)
    finally:
        hook.remove()
        llm.config.max_position_embeddings = context
    assert max(lengths) == 3
    assert found[0].tokens == [20, 40, 41] and all(h.at_limit == (len(h.tokens) == 3) for h in found)


@pytest.mark.parametrize(
    "text, message",
    [
        ("decode: ctc_lm", "lm_weight is None; decode: ctc_lm needs a number of at least 0"),
        ("decode: ctc_lm, lm_weight: -1", "lm_weight is -1; decode"),
        ("decode: ctc_lm, lm_weight: high", "lm_weight is 'high'; decode"),
        ("decode: ctc_lm, lm_weight: 1, length_bonus: true", "length_bonus is True; .* needs a number"),
        ("decode: ctc, lm_weight: 1", "lm_weight is read only with decode: ctc_lm, not ctc"),
        ("decode: ctc_lm, lm_wait: 1", "'lm_wait'.*did you mean 'lm_weight'"),
    ],
)
def test_weights_of_a_system(tmp_path, text, message):
    path = tmp_path / "cards.yaml"
    path.write_text(f"systems:\n  fused: {{decode: ctc_lm, lm_weight: 0.5}}\n  bad: {{{text}}}\n")
    cards = read_cards(path)
    (system,) = read_systems(cards, ["fused"])
    assert dict(system.fusion) == {"lm_weight": 0.5, "length_bonus": 0.0}
    assert str(system.hyp_path("a")) == "exp/encoder/decode_fused_a/hyp.jsonl"
    with pytest.raises(UserError, match=message):
        read_systems(cards, ["bad"])
