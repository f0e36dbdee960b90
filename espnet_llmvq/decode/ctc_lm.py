"""CTC prefix beam search with a causal LM as shallow-fusion LM: the baseline with the same encoder and the same LLM.

Search and CTC prefix scores are ESPnet's (Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech
recognition", 2017, section II-C); here is what lets a Hugging Face LM take part. A text h is ranked by

    log P_ctc(h | speech) + lm_weight * log P_llm(h, end) + length_bonus * (tokens of h and the end)

The LM reads plain text after `<s>`, as it was trained on; there is no prompt. Or it is the LLM of a speech LLM, which
reads the prompt with its speech first (`joint`): the same paper's joint decoding, with an LLM for the attention
decoder. A text that is longer than the LM's context is cut off there, and lacks the end in its score.

Where the labels of the CTC head are no tokens of the LM, but pieces that spell them, the LM scores words as they become
whole (`decode.word_lm`), and a cut text lacks its last word too. "tokens" above are those of the head, so its pieces.
"""

import itertools
import logging
import math
from dataclasses import replace

import torch
from espnet.nets.batch_beam_search import BatchBeamSearch
from espnet.nets.ctc_prefix_score import CTCPrefixScoreTH
from espnet.nets.scorer_interface import BatchScorerInterface
from espnet.nets.scorers.ctc import CTCPrefixScorer
from espnet.nets.scorers.length_bonus import LengthBonus

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.ctc import respeller
from espnet_llmvq.decode.generate import Hypothesis, log_probability, prompt_inputs, within_context
from espnet_llmvq.decode.rescore import add_ctc_scores, speller
from espnet_llmvq.decode.word_lm import WordScorer
from espnet_llmvq.llm.directory import context
from espnet_llmvq.sequence.prompt import TRANSCRIPT, separator

# ESPnet gives the blank -1e10 as a label, and gives it back to what follows, as scores are differences of sums.
IMPOSSIBLE = -1e20
PRUNE = 1e-5  # tokens whose CTC posterior is not above this in any frame are not tried
SURE = 0.999  # frames in a row whose blank is above this are one


def join_blanks(log_probs, blank):
    """Log probabilities (T, V) in which runs of frames that are nearly surely blank are one frame.

    After Jung et al., "Blank Collapse: Compressing CTC emission for the faster decoding" (arXiv 2210.17017). One stays,
    as it tells two labels that are alike apart; it has the blank's log probabilities of all of its run, so that texts
    without a label in it keep their scores. The search takes a step a frame for each of its own steps.
    """
    sure = log_probs[:, blank] > math.log(SURE)
    begins = torch.cat([sure.new_ones(1), ~(sure[1:] & sure[:-1])])
    joined, run = log_probs[begins].clone(), begins.cumsum(0) - 1
    joined[:, blank] = torch.zeros_like(joined[:, blank]).index_add(0, run, log_probs[:, blank])
    return joined


class PrefixScorer(CTCPrefixScorer):
    """ESPnet's scorer over given log probabilities (T, V), with any blank."""

    def __init__(self, log_probs, blank, eos):
        self.log_probs, self.blank, self.eos = log_probs, blank, eos

    def batch_init_state(self, x):
        lengths = torch.tensor([len(self.log_probs)])
        self.impl = CTCPrefixScoreTH(self.log_probs[None].clone(), lengths, self.blank, self.eos)

    def batch_score_partial(self, y, ids, state, x):
        scores, state = super().batch_score_partial(y, ids, state, x)
        scores[:, self.blank] = IMPOSSIBLE
        return scores, state


class CausalLMScorer(BatchScorerInterface):
    """Next-token log probabilities of a causal LM; a state is the keys and values of one hypothesis.

    llm: `PreTrainedModel`. ids: (V,) token id of each label of the search. start: the id that stands for the start.
    prompt: (P, H) inputs of the LM in place of it.
    """

    def __init__(self, llm, ids, start, prompt=None):
        self.llm, self.ids, self.start, self.prompt = llm, ids, start, prompt

    @torch.inference_mode()
    def batch_score(self, ys, states, xs):
        from transformers import DynamicCache

        cache = DynamicCache()
        if states[0] is None and self.prompt is not None:
            inputs = {"inputs_embeds": self.prompt.expand(len(ys), -1, -1)}
        elif states[0] is None:
            inputs = {"input_ids": torch.full((len(ys), 1), self.start, device=self.ids.device)}
        else:
            inputs = {"input_ids": self.ids[ys[:, -1:]]}
            for layer, pairs in enumerate(zip(*states)):
                keys, values = zip(*pairs)
                cache.update(torch.stack(keys), torch.stack(values), layer)
        out = self.llm(**inputs, past_key_values=cache, use_cache=True)
        scores = out.logits[:, -1].float().log_softmax(-1)[:, self.ids]
        layers = out.past_key_values.layers
        return scores, [[(layer.keys[i], layer.values[i]) for layer in layers] for i in range(len(ys))]


class Search(BatchBeamSearch):
    """ESPnet's search, also where a first step has fewer continuations than the beam holds, and with a `WordScorer`."""

    def batch_beam(self, weighted_scores, ids):
        beam, self.beam_size = self.beam_size, min(self.beam_size, weighted_scores.numel())
        lm = self.full_scorers.get("lm")
        try:
            best = super().batch_beam(weighted_scores, ids)
            # What is not read yet only lowers scores: what is behind without it needs no LM.
            while isinstance(lm, WordScorer) and (rows := lm.owing(*best[:2])):
                weighted_scores[rows] += self.weights["lm"] * lm.pay(rows)
                best = super().batch_beam(weighted_scores, ids)
            return best
        finally:
            self.beam_size = beam

    def post_process(self, i, maxlen, minlen, maxlenratio, running_hyps, ended_hyps):
        running = super().post_process(i, maxlen, minlen, maxlenratio, running_hyps, ended_hyps)
        ended_hyps[:] = [hyp._replace(states={}) for hyp in ended_hyps]  # they are large
        return running


@torch.inference_mode()
def search(model, llm, tokenizer, batch, num_beams, lm_weight, length_bonus=0.0, words_of=None, prompts=None, space=""):
    """N-best lists of one batch.

    Args:
        model: `SpeechLLM` with a CTC head, in eval mode. llm: causal LM. tokenizer: that of the head.
        batch: `encoded`.
        lm_weight, length_bonus: see above; 0 leaves the LM out.
        words_of: the tokenizer of the LM, if it is another one; then it scores whole words.
        prompts: B (P, H) inputs of the LM that texts stand behind, where they begin with `space`, " " or none.
    Returns a list of B lists of `Hypothesis`, best first; `llm` is the LM's log probability, 0 without LM.
    """
    # It warns of texts as long as allowed, which here is as long as CTC can spell.
    logging.getLogger("espnet.nets.beam_search").setLevel(logging.ERROR)
    blank, eos = model.ctc.blank, tokenizer.eos_token_id
    start = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    lists = []
    prompts = prompts or itertools.repeat(None)
    for frames, length, prompt in zip(batch["speech"], batch["speech_lengths"].tolist(), prompts):
        log_probs = join_blanks(model.ctc(frames[None, :length])[0].float().log_softmax(-1), model.ctc.blank)
        length = len(log_probs)
        chosen = log_probs.max(0).values.exp() > PRUNE
        if words_of:
            chosen[[i for i, token in tokenizer.added_tokens_decoder.items() if token.special]] = False
        else:
            chosen[llm.get_input_embeddings().weight.shape[0] :] = False  # tokens that the LLM has no row for
        chosen[[blank, eos]] = True
        ids = chosen.nonzero()[:, 0]  # (K,), of the labels of this search
        own_blank, own_eos = (int((ids == i).nonzero()) for i in (blank, eos))
        # The blank of a head with a row of its own is no token of the LLM.
        tokens = torch.where(ids == blank, eos, ids)
        most = context(llm.config) if lm_weight else None
        if words_of:
            lm = WordScorer(llm, words_of, tokenizer, tokens, own_eos, most, prompt, space)
        else:
            lm = CausalLMScorer(llm, tokens, start, prompt)
        beam = Search(
            scorers={
                "ctc": PrefixScorer(log_probs[:, ids], own_blank, own_eos),
                "lm": lm,
                "bonus": LengthBonus(len(ids)),
            },
            weights={"ctc": 1.0, "lm": lm_weight, "bonus": length_bonus},
            beam_size=num_beams,
            vocab_size=len(ids),
            sos=own_eos,
            eos=own_eos,
        )
        found = {}
        # A frame more than there are, so that a text of as many tokens as frames gets its end from all scorers.
        most = most and most - (0 if prompt is None else len(prompt))
        cut = most is not None and most <= length
        for hyp in beam(frames.new_zeros(length + 1, 1), maxlenratio=-most if cut else 0.0):
            text = [i for i in hyp.yseq[1:].tolist() if i != own_eos]
            lm, ctc = (float(hyp.scores.get(key, 0.0)) for key in ("lm", "ctc"))
            # At its last step ESPnet ends what has ended once more.
            if min(lm, ctc) > -1e9:  # some path spells it, in whole characters
                found.setdefault(tuple(ids[text].tolist()), (lm, ctc))
        texts = list(found.items())[:num_beams]
        lists.append([Hypothesis(list(t), lm, ctc, cut and len(t) == most) for t, (lm, ctc) in texts])
    return lists


@torch.inference_mode()
def joint(model, tokenizer, batch, num_beams, joint_ctc, template, pieces=None, names=()):
    """N-best lists of the texts that the CTC head and the LLM of a speech LLM find together.

    A text is ranked by joint_ctc log P_ctc + (1 - joint_ctc) log P_llm, the LLM behind its prompt with the speech: in
    the search by P_ctc of one way to spell it, in the list as other searches score it (`log_probability`,
    `add_ctc_scores`), with the end of a text that the context cut off.

    Args:
        model: `SpeechLLM` with a CTC head, in eval mode. tokenizer: that of its LLM. batch: `encoded`, prompts only.
        joint_ctc: weight, above 0 and below 1. template: of the prompts. names: of the utterances, for messages.
        pieces: the tokenizer of the head, if it is another one.
    Returns a list of B lists of `Hypothesis`, best first, in tokens of the LLM. Raises UserError without a head, and
    for a prompt that fills the context of the LLM.
    """
    if model.ctc is None:
        raise UserError("joint_ctc weighs what a CTC head says, and the encoder has none; decode without it")
    prompts = prompt_inputs(model, batch)
    within_context(model.llm, prompts, [1] * len(prompts), names)
    found = search(
        model,
        model.llm,
        pieces or tokenizer,
        batch,
        num_beams,
        lm_weight=(1 - joint_ctc) / joint_ctc,
        words_of=tokenizer if pieces else None,
        prompts=prompts,
        space=separator(template, TRANSCRIPT),
    )
    respell = respeller(tokenizer, pieces, template) if pieces else list
    # One text may be spelled in several ways.
    lists = [list({tuple(t): replace(h, tokens=t) for h in row for t in [respell(h.tokens)]}.values()) for row in found]
    scores = log_probability(model, prompts, [[h.tokens for h in row] for row in lists])
    lists = [[replace(h, llm=llm) for h, llm in zip(*pair)] for pair in zip(lists, scores)]
    lists = add_ctc_scores(model, batch, lists, speller(tokenizer, pieces) if pieces else None)
    return [sorted(row, key=lambda h: -joint_ctc * h.ctc - (1 - joint_ctc) * h.llm) for row in lists]
