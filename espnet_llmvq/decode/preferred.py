"""Which wrong words an LLM prefers to the right ones, in the text that they stand in."""

import types

import torch

from espnet_llmvq.decode.generate import log_probability
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.sequence.sequence import Span


def put_right(pairs):
    """(the hypothesis, the same with one of its substituted words put right, for each of them) as lists of words.

    pairs: alignment as of `score.wer.UtteranceScore`.
    """
    written = [(op, ref, hyp) for op, ref, hyp in pairs if op != "D"]
    words = [hyp for _, _, hyp in written]
    return words, [[*words[:i], ref, *words[i + 1 :]] for i, (op, ref, _) in enumerate(written) if op == "S"]


def count_preferred(llm, tokenizer, alignments):
    """Yield (substitutions whose word the LLM prefers, substitutions) of each alignment.

    It prefers a word if the whole text with it, its end included, has the higher probability. The LLM reads the text
    alone, from its beginning; no speech, and no prompt.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    with torch.inference_mode():
        prompt = llm.get_input_embeddings()(torch.tensor([start], device=llm.device))
    model = types.SimpleNamespace(llm=llm, eos_id=tokenizer.eos_token_id)
    for pairs in alignments:
        heard, right = put_right(pairs)
        if not right:
            yield 0, 0
            continue
        spans = [Span(text=" ".join(words), loss=True, eos=True) for words in (heard, *right)]
        # log_probability adds the end.
        texts = [encode_text(tokenizer, span, None, True)[:-1] for span in spans]
        written, *others = log_probability(model, [prompt], [texts])[0]
        yield sum(other < written for other in others), len(others)
