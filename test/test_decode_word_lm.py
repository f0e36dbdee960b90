"""CTC prefix beam search over pieces with an LM that reads words: against all label sequences, scored one by one."""

import re
import types

import pytest
import standins
import torch
from conftest import ctc_texts

from espnet_llmvq.base.files import beside
from espnet_llmvq.decode.ctc_lm import search
from espnet_llmvq.decode.system import load_fusion_lm
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.llm.pieces import Pieces
from espnet_llmvq.llm.trim import save_tokenizer

FRAMES = 5
# Of tokens of the LM, its spelling of a space, and two bytes that are é together and nothing alone.
LABELS = {"qwen2": ("Ġt", "o", "Ġ", "Ã", "©"), "llama": ("▁t", "o", "▁", "<0xC3>", "<0xA9>")}


def cut_tokenizer(whole, names, out):
    """The tokenizer of letters, special tokens and `names`, with ids of its own."""
    pieces = Pieces(whole)
    kept = pieces.always(whole).union(*(pieces.way(pieces.ids[name]) for name in names))
    kept = sorted(kept, key=lambda i: (i not in pieces.names, i not in {**pieces.names, **pieces.added}, i))
    made = beside(out, "new")  # as tokenizers are replaced whole
    save_tokenizer(whole, pieces, {i: n for n, i in enumerate(kept)}, str(made))
    made.rename(out)
    return load_tokenizer(out)


@pytest.fixture(scope="module", params=list(LABELS))
def world(request, tmp_path_factory):
    """An LLM, its tokenizer, that of pieces, and what of these is probable."""
    room = tmp_path_factory.mktemp("words")
    path = getattr(standins, request.param)(room / "llm", initializer_range=0.5)
    tokenizer = cut_tokenizer(load_tokenizer(path), LABELS[request.param][:2], str(room / "pieces"))
    llm, whole = load_fusion_lm(path, tokenizer, "cpu")
    labels = tokenizer.convert_tokens_to_ids(list(LABELS[request.param]))
    assert len(tokenizer) < len(whole) and None not in labels
    return types.SimpleNamespace(llm=llm, whole=whole, tokenizer=tokenizer, labels=labels, name=request.param)


def frames(world, count, seed=0, length=FRAMES):
    """(count, length, pieces and blank) logits in which labels and blank alone are probable; a model that has them."""
    blank = len(world.tokenizer)
    x = torch.full((count, length, blank + 1), -30.0)
    generator = torch.Generator().manual_seed(seed)
    x[:, :, [*world.labels, blank]] = 2 * torch.randn(count, length, len(world.labels) + 1, generator=generator)
    head = lambda frames: frames  # noqa: E731
    head.blank = blank
    return x, types.SimpleNamespace(ctc=head)


def text_of(world, ids):
    """Text with its first space; None if bytes of it are no characters."""
    text = b""
    for piece in world.tokenizer.convert_ids_to_tokens(list(ids)):
        letters = {"Ã": b"\xc3", "©": b"\xa9", "<0xC3>": b"\xc3", "<0xA9>": b"\xa9"}
        text += letters.get(piece, piece.replace("Ġ", " ").replace("▁", " ").encode())
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def lm_score(world, text):
    """log P(text, end), the text tokenised word by word."""
    tokens, encode = [], lambda t: world.whole.encode(t, add_special_tokens=False) if t else []
    for word in re.findall("^[^ ]+| [^ ]*", text.lstrip(" ")):
        # Llama's tokenizer puts a space in front of each text.
        tokens += encode(word[1:] if world.name == "llama" and tokens else word)
    start, end = world.whole.bos_token_id, world.whole.eos_token_id
    ids = torch.tensor([[end if start is None else start, *tokens, end]])
    with torch.no_grad():
        log_probs = world.llm(input_ids=ids).logits[0].double().log_softmax(-1)
    return tokens, float(log_probs[range(ids.shape[1] - 1), ids[0, 1:]].sum())


def run(world, model, x, beam, weight, bonus=0.0):
    batch = {"speech": x, "speech_lengths": torch.full((len(x),), x.shape[1])}
    return search(model, world.llm, world.tokenizer, batch, beam, weight, bonus, words_of=world.whole)


@pytest.mark.parametrize("weight, bonus", [(0.0, 0.0), (0.4, 0.0), (1.0, 1.5)])
def test_a_wide_beam_finds_the_best_of_all(world, weight, bonus):
    x, model = frames(world, 2, length=4)
    found = run(world, model, x, 400, weight, bonus)
    for logits, hypotheses in zip(x, found):
        ctc = ctc_texts(logits.double().log_softmax(-1), model.ctc.blank, (*world.labels, model.ctc.blank))
        texts = {ids: text_of(world, ids) for ids in ctc}
        assert None in texts.values() and any("é" in (text or "") for text in texts.values())
        if weight:
            texts = {ids: text for ids, text in texts.items() if text is not None}
        lm = {ids: lm_score(world, text)[1] if weight else 0.0 for ids, text in texts.items()}
        score = {ids: ctc[ids] + weight * lm[ids] + bonus * (len(ids) + 1) for ids in texts}
        ranked = sorted(score, key=score.get, reverse=True)
        assert [tuple(h.tokens) for h in hypotheses[:5]] == ranked[:5]
        for h in hypotheses:
            assert h.ctc == pytest.approx(ctc[tuple(h.tokens)], abs=1e-4)
            assert h.llm == pytest.approx(lm[tuple(h.tokens)], abs=1e-4)
