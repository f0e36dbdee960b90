"""CTC prefix beam search over pieces with an LM that reads words: against all label sequences, scored one by one."""

import itertools
import re
import types
import weakref

import pytest
import standins
import torch
from conftest import ctc_texts
from test_llm_trim import gemma

from espnet_llmvq.base.files import beside
from espnet_llmvq.decode import ctc_lm, word_lm
from espnet_llmvq.decode.ctc_lm import search
from espnet_llmvq.decode.system import load_fusion_lm
from espnet_llmvq.llm.directory import load_tokenizer
from espnet_llmvq.llm.perplexity import negative_log_likelihood
from espnet_llmvq.llm.pieces import Pieces
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.llm.trim import save_tokenizer
from espnet_llmvq.sequence.sequence import Span

FRAMES = 4
# Of tokens of the LM, its spelling of a space, and two bytes that are é together and nothing alone.
LABELS = {
    "qwen2": ("Ġt", "o", "Ġ", "Ã", "©"),
    "llama": ("▁t", "o", "▁", "<0xC3>", "<0xA9>"),
    "gemma": ("▁t", "o", "▁", "<0xC3>", "<0xA9>"),
}


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
    path = {"qwen2": standins.qwen2, "llama": standins.llama, "gemma": gemma}[request.param](room / "llm")
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
    return float(log_probs[range(ids.shape[1] - 1), ids[0, 1:]].sum())


def run(world, model, x, beam, weight, bonus=0.0):
    batch = {"speech": x, "speech_lengths": torch.full((len(x),), x.shape[1])}
    return search(model, world.llm, world.tokenizer, batch, beam, weight, bonus, words_of=world.whole)


@pytest.mark.parametrize("weight, bonus", [(0.4, 0.0), (1.0, 1.5)])
def test_a_wide_beam_finds_the_best_of_all(world, weight, bonus):
    x, model = frames(world, 1)
    (found,) = run(world, model, x, 400, weight, bonus)
    ctc = ctc_texts(x[0].double().log_softmax(-1), model.ctc.blank, (*world.labels, model.ctc.blank))
    texts = {ids: text_of(world, ids) for ids in ctc}
    assert None in texts.values() and any("é" in (text or "") for text in texts.values())
    lm = {ids: lm_score(world, text) for ids, text in texts.items() if text is not None}
    score = {ids: ctc[ids] + weight * lm[ids] + bonus * (len(ids) + 1) for ids in lm}
    ranked = sorted(score, key=score.get, reverse=True)
    assert [tuple(h.tokens) for h in found[:5]] == ranked[:5]
    for h in found:
        assert h.ctc == pytest.approx(ctc[tuple(h.tokens)], abs=1e-4)
        assert h.llm == pytest.approx(lm[tuple(h.tokens)], abs=1e-4)
    assert len(found) > 50


@pytest.mark.parametrize("space", ["", " "])
def test_behind_a_prompt_the_llm_scores_what_it_has_read(world, space):
    """Joint decoding: as above, the LLM behind inputs of its own. A text begins there as the prompt's template says."""
    x, model = frames(world, 2)
    embed = world.llm.get_input_embeddings()
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randn(n, embed.weight.shape[1], generator=generator) for n in (3, 5)]
    batch = {"speech": x, "speech_lengths": torch.full((2,), FRAMES)}
    lists = search(
        model, world.llm, world.tokenizer, batch, 400, 1.5, words_of=world.whole, prompts=prompts, space=space
    )

    def score_behind(prompt, text):
        words = re.findall("^[^ ]+| [^ ]*", text.lstrip(" "))
        # Of an empty text the end alone.
        spans = [Span(text=(space if i == 0 else "") + word, loss=True, eos=True) for i, word in enumerate(words)]
        tokens = [token for span in spans for token in encode_text(world.whole, span, None)[:-1]]
        tokens = torch.tensor([*tokens, world.whole.eos_token_id])
        with torch.no_grad():
            inputs = torch.cat([prompt, embed(tokens[:-1])])[None]
            log_probs = world.llm(inputs_embeds=inputs).logits[0, len(prompt) - 1 :].double().log_softmax(-1)
        return float(log_probs[range(len(tokens)), tokens].sum())

    for one, prompt, found in zip(x, prompts, lists):
        ctc = ctc_texts(one.double().log_softmax(-1), model.ctc.blank, (*world.labels, model.ctc.blank))
        texts = {ids: text for ids in ctc if (text := text_of(world, ids)) is not None}
        lm = {ids: score_behind(prompt, text) for ids, text in texts.items()}
        ranked = sorted(texts, key=lambda ids: ctc[ids] + 1.5 * lm[ids], reverse=True)
        assert [tuple(h.tokens) for h in found[:5]] == ranked[:5] and len(found) > 50
        for h in found:
            assert h.llm == pytest.approx(lm[tuple(h.tokens)], abs=1e-4)
    assert lists[0][0].llm != pytest.approx(run(world, model, x, 400, 1.5)[0][0].llm, abs=1e-2)


@pytest.mark.parametrize("template", ["{speech}{text}", "{speech} {text}"])
def test_joint_lists_are_of_texts_in_tokens_of_the_llm(world, monkeypatch, template):
    """Each text once, however it is spelled, with the scores that it has alone, best first."""
    x, model = frames(world, 1, seed=4)
    model.llm, model.eos_id, space = world.llm, world.whole.eos_token_id, " " * (" " in template)
    prompt = torch.randn(4, world.llm.get_input_embeddings().weight.shape[1], generator=torch.manual_seed(5))
    monkeypatch.setattr(ctc_lm, "prompt_inputs", lambda *_: [prompt])
    batch = {"speech": x, "speech_lengths": torch.tensor([FRAMES])}
    (found,) = ctc_lm.joint(model, world.whole, batch, 60, 0.3, template, world.tokenizer)
    assert len(found) > 10 and len({tuple(h.tokens) for h in found}) == len(found)
    log_probs = x[0].double().log_softmax(-1)
    for h in found:
        text = world.whole.decode(h.tokens).strip()
        tokens = (
            encode_text(world.whole, Span(text=space + text, loss=True, eos=True), model.eos_id)
            if text
            else [model.eos_id]
        )
        assert tokens == [*h.tokens, model.eos_id]
        with torch.no_grad():
            inputs = torch.cat([prompt, world.llm.get_input_embeddings()(torch.tensor(tokens[:-1], dtype=int))])[None]
            logits = world.llm(inputs_embeds=inputs).logits[0, len(prompt) - 1 :].double().log_softmax(-1)
        assert h.llm == pytest.approx(float(logits[range(len(tokens)), tokens].sum()), abs=1e-3)
        spelled = encode_text(world.tokenizer, Span(text=space + text, loss=True, eos=True), 0)[:-1] if text else []
        labels = torch.tensor([spelled], dtype=int)
        loss = torch.nn.functional.ctc_loss(
            log_probs[:, None], labels, [FRAMES], [len(spelled)], blank=model.ctc.blank, reduction="none"
        )
        assert -h.ctc == pytest.approx(float(loss), abs=1e-3) or (h.ctc < -20 and loss > 20)
    ranks = [0.3 * h.ctc + 0.7 * h.llm for h in found]
    assert ranks == sorted(ranks, reverse=True)


def test_without_weight_ctc_alone_decides(world):
    x, model = frames(world, 1, seed=1)
    (found,) = run(world, model, x, 400, 0.0)
    ctc = ctc_texts(x[0].double().log_softmax(-1), model.ctc.blank, (*world.labels, model.ctc.blank))
    assert [tuple(h.tokens) for h in found[:20]] == sorted(ctc, key=ctc.get, reverse=True)[:20]
    assert all(h.llm == 0 and h.ctc == pytest.approx(ctc[tuple(h.tokens)], abs=1e-4) for h in found)


def test_a_narrow_beam(world, monkeypatch):
    """Scores of long texts are those of the LM alone, whatever is beside them, and whether or not all words are read at
    once. Most hypotheses need no word at each of their steps, and little is kept.
    """
    x, model = frames(world, 2, length=24)
    x[:, :, world.labels[2]] = -30.0  # spaces alone, which are cut otherwise in a text
    kept, most, reads = weakref.WeakSet(), [], []

    class Text(word_lm.Text):
        def __init__(self, *args):
            super().__init__(*args)
            kept.add(self)

    def read(self, pairs):
        assert len(pairs) <= 3 and len(set(pairs)) == len(pairs)
        reads.append(len(pairs))
        most.append(len(kept))
        return really(self, pairs)

    really = word_lm.WordScorer.read
    monkeypatch.setattr(word_lm, "Text", Text)
    monkeypatch.setattr(word_lm.WordScorer, "read", read)
    found = run(world, model, x, 3, 0.5, 1.0)
    lengths = [max(len(h.tokens) for h in hypotheses) for hypotheses in found]
    assert min(lengths) > 8 and sum(reads) < 2.5 * 25 * len(x) and max(most) < 40 and not kept
    assert [run(world, model, one[None], 3, 0.5, 1.0)[0] for one in x] == found
    assert [h[0].tokens for h in found] != [h[0].tokens for h in run(world, model, x, 3, 0.0, 1.0)]

    start, end = world.whole.bos_token_id, world.whole.eos_token_id
    for h in itertools.chain(*found):
        text = text_of(world, h.tokens).removeprefix(" ")
        example = [end if start is None else start, *world.whole.encode(text, add_special_tokens=False), end]
        assert -h.llm == pytest.approx(negative_log_likelihood(world.llm, [(example, len(example) - 1)]), rel=1e-4)

    def at_once(self, ys, states, xs):
        scores, states = lazily(self, ys, states, xs)
        self.pay([row for row, state in enumerate(states) if state.is_word])
        return scores, states

    lazily = word_lm.WordScorer.batch_score
    monkeypatch.setattr(word_lm.WordScorer, "batch_score", at_once)
    for mine, theirs in zip(found, run(world, model, x, 3, 0.5, 1.0)):
        assert [h.tokens for h in mine] == [h.tokens for h in theirs]
        assert [h.llm for h in mine] == pytest.approx([h.llm for h in theirs], abs=1e-3)


def test_a_word_pays_in_advance_for_how_it_begins(world):
    """By the sum over all tokens of the LM that begin so."""
    end = world.whole.eos_token_id
    ids = torch.tensor([*world.labels, len(world.tokenizer) - 1])
    scorer = word_lm.WordScorer(world.llm, world.whole, world.tokenizer, ids, len(ids) - 1)
    scores, states = scorer.batch_score(torch.tensor([[0]]), [scorer.batch_init_state(None)], None)
    start = torch.tensor([[end if world.whole.bos_token_id is None else world.whole.bos_token_id]])
    with torch.no_grad():
        following = world.llm(input_ids=start).logits[0, 0].double().softmax(-1)
    assert (scores[0, :4] == 0).all() and float(scores[0, -1]) == pytest.approx(float(following[end].log()), abs=1e-4)
    scores, states = scorer.batch_score(torch.tensor([[0, 0]]), states, None)  # "t"
    first = "▁t" if world.name == "llama" else "t"
    rows = len(following)
    begin = [i for name, i in world.whole.get_vocab().items() if name.startswith(first) and i < rows]
    assert len(begin) > 1
    total = float(following[begin].sum().log())
    assert scores[0, 1] == pytest.approx(total, abs=1e-4)
    whole = float(following[world.whole.convert_tokens_to_ids(first)].log())
    assert scores[0, 0] == scores[0, 2] == pytest.approx(whole, abs=1e-4)
    scores, states = scorer.batch_score(torch.tensor([[0, 0, 2]]), states, None)  # "t "
    assert states[0].paid < whole + 1e-4


def test_the_context_of_the_lm(world, monkeypatch):
    """Of five positions: the start and four tokens; it has a text of as many pieces as that end without more words."""
    x, model = frames(world, 1, length=6)
    monkeypatch.setattr(world.llm.config, "max_position_embeddings", 5)
    lengths = []
    hook = world.llm.register_forward_hook(lambda *args: lengths.append(args[2].past_key_values.get_seq_length()))
    try:
        (found,) = run(world, model, x, 50, 0.1)
    finally:
        hook.remove()
    assert found and max(lengths) == 5
    assert all(len(h.tokens) <= 5 and h.at_limit == (len(h.tokens) == 5) for h in found)


def test_equal_tokens_are_scored_one_by_one(llm_dir, tokenizer):
    assert load_fusion_lm(llm_dir, tokenizer, "cpu")[1] is None
