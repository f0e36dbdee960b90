"""Batched beam search with transformers' generation, left-padded; n-best lists with log probabilities."""

import functools
import itertools
from dataclasses import dataclass

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.drafts import write
from espnet_llmvq.llm.directory import context
from espnet_llmvq.llm.ends import logits_of
from espnet_llmvq.llm.prompt_cache import for_beams, read_prompts
from espnet_llmvq.model.losses import SPEECH, assemble
from espnet_llmvq.model.positions import FREE_TOKENS, LEAST_RATE


@dataclass(frozen=True)
class Hypothesis:
    """A text that a search found.

    tokens: ids without the end token. llm: log probability that the LLM gives them and the end token.
    ctc: log likelihood of the tokens under the encoder's CTC head. None: not computed.
    at_limit: ended by the length limit, or by the LLM's context.
    passes, accepted: of a search with drafts, see `drafts.Text`. None: without.
    """

    tokens: list
    llm: float | None
    ctc: float | None = None
    at_limit: bool = False
    passes: int | None = None
    accepted: int | None = None


def length_limit(seconds, rate=LEAST_RATE):
    """Most tokens that `seconds` of speech are given (an int), `rate` a second and some: a runaway stops here.

    A loop that is stopped late costs more words than it was worth; see `model.positions.tokens_per_second`.
    """
    return int(rate * seconds) + FREE_TOKENS


def within_context(llm, prompts, limits, names=()):
    """The `limits` of tokens behind prompts (of `prompt_inputs`), as far as the context of the LLM holds them.

    names: of the prompts, for the UserError of one that leaves no room.
    """
    most, capped = context(llm.config), []
    for i, (prompt, limit) in enumerate(zip(prompts, limits)):
        room = limit if most is None else min(limit, most - len(prompt))
        if room < 1:
            raise UserError(
                f"{names[i] if names else f'prompt {i + 1}'}: the prompt has {len(prompt)} positions with its speech, "
                f"and the LLM's context of {most} holds no text behind it; decode shorter pieces of speech"
            )
        capped.append(room)
    return capped


class EndAtLimit:
    """Logits processor: a text of `limits` (B,) tokens ends, whatever else is in the batch.

    The end token keeps its own score: what is cut off is ranked by its probability like any other text.
    """

    def __init__(self, limits, num_beams, eos_id):
        self.limits, self.eos_id = limits.repeat_interleave(num_beams), eos_id

    def __call__(self, input_ids, scores):
        over = input_ids.shape[1] >= self.limits
        end = torch.full_like(scores, float("-inf"))
        end[:, self.eos_id] = scores[:, self.eos_id]
        return torch.where(over[:, None], end, scores)


@torch.inference_mode()
def encoded(model, batch):
    """The batch on the model's device, its speech replaced by encoder frames: they are computed once.

    One utterance at a time, here and up to the search: sums over tensors of another shape round otherwise, and what
    is nearly a tie (two rows of a codebook, two texts) would then be decided by the neighbours in the batch.
    """
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    if "speech" in batch:
        pairs = zip(batch["speech"], batch["speech_lengths"])
        done = [model.encode(speech[None, :length], length[None]) for speech, length in pairs]
        frames = torch.nn.utils.rnn.pad_sequence([x[0] for x, _ in done], True)
        batch = {**batch, "speech": frames, "speech_lengths": torch.cat([n for _, n in done])}
    return batch


def prompt_inputs(model, batch):
    """LLM inputs of an `encoded` batch of prompts, with any number of speech spans each: list of B (P, H)."""
    embed, inputs = model.llm.get_input_embeddings(), []
    spans = iter(zip(batch["speech"], batch["speech_lengths"])) if "speech" in batch else iter(())
    for tokens, labels in zip(batch["tokens"], batch["labels"]):
        parts, counts = [], []
        for frames, length in itertools.islice(spans, int((tokens == SPEECH).sum())):
            part, count, _ = model.bridge_speech(frames[None, :length], length[None])
            parts.append(part[0])
            counts.append(count)
        steps = (torch.nn.utils.rnn.pad_sequence(parts, True), torch.cat(counts)) if parts else ()
        inputs += assemble(embed, tokens[None], labels[None], *steps)[0]
    return inputs


@torch.inference_mode()
def log_probability(model, prompts, texts, end=True):
    """Log probability of texts after their prompts, with `end` also of the end token, by a pass of the LLM over each.

    prompts: B (P, H), of `prompt_inputs`. texts: for each, a list of token id lists. Returns lists of floats alike.
    """
    pad, scores = torch.nn.utils.rnn.pad_sequence, []
    for prompt, candidates in zip(prompts, texts):
        if not candidates:
            scores.append([])
            continue
        ids = [[*tokens, model.eos_id] if end else tokens for tokens in candidates]
        ids = [torch.tensor(row, device=prompt.device) for row in ids]
        # Texts that differ in their last token alone need one pass.
        passes = {}
        which = [passes.setdefault(tuple(row[:-1].tolist()), len(passes)) for row in ids]
        distinct = [ids[which.index(i)] for i in range(len(passes))]
        embedded = [model.llm.get_input_embeddings()(row[:-1]).to(prompt.dtype) for row in distinct]
        inputs = pad([torch.cat([prompt[-1:], row]) for row in embedded], True)
        mask = pad([prompt.new_ones(len(prompt) + len(row), dtype=torch.long) for row in embedded], True)
        cache = read_prompts(model.llm, prompt[None], mask[:1, : len(prompt)])
        if cache is not None:
            cache.batch_repeat_interleave(len(embedded))
        hidden = model.llm.get_decoder()(
            inputs_embeds=inputs, attention_mask=mask, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        found = []
        for row, i in zip(ids, which):
            logits = logits_of(model.llm, hidden[i, : len(row)])
            found.append(float(logits.double().log_softmax(-1).gather(1, row[:, None]).sum()))
        scores.append(found)
    return scores


@torch.inference_mode()
def generate(
    model, tokenizer, batch, num_beams=4, length_penalty=0.0, tokens_per_second=LEAST_RATE, names=(), **drafted
):
    """N-best lists of one batch.

    Args:
        model: `SpeechLLM` in eval mode. batch: `encoded`, prompts only.
        num_beams: of the search, and most hypotheses of a list; with 1 the search is greedy.
        length_penalty: scores are divided by length to this power before they are ranked.
        tokens_per_second: of `length_limit`. names: of the utterances, for messages.
        drafted: `drafts` and `draft_accept` of `search`.
    Returns a list of B lists of `Hypothesis`, best first. Lists may be shorter than the beam.
    """
    # The limit follows the audio, not what blank dropping left of it.
    frame = model.speech_encoder.rate.seconds
    limits = [length_limit(n * frame, tokens_per_second) for n in batch["speech_lengths"].tolist()]
    return search(model, tokenizer, prompt_inputs(model, batch), limits, num_beams, length_penalty, names, **drafted)


def of_text(text):
    """The list of a `drafts.Text`: what the LLM wrote, and the draft behind it, if that is another text it read."""
    written = Hypothesis(text.tokens, text.score, None, len(text.tokens) == text.limit, text.passes, text.accepted)
    draft = text.draft[:-1]
    if text.of_draft is None or draft == text.tokens:
        return [written]
    return [written, Hypothesis(draft, text.of_draft)]


@functools.lru_cache
def never_written(tokenizer, rows):
    """Ids of an LLM of so many rows that no text holds: special tokens but for the end, and rows without a token."""
    added = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return sorted({*tokenizer.all_special_ids, *added, *range(len(tokenizer), rows)} - {tokenizer.eos_token_id})


@torch.inference_mode()
def search(model, tokenizer, prompts, limits, num_beams=4, length_penalty=0.0, names=(), drafts=None, draft_accept=1.0):
    """N-best lists, as `generate` returns them, after prompts (of `prompt_inputs`) of at most `limits` tokens each.

    drafts: a list of token ids for each, from which it is written, greedily, and which stands behind that in the list;
    draft_accept: of `drafts.write`.
    """
    limits, most = within_context(model.llm, prompts, limits, names), context(model.llm.config)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    never = never_written(tokenizer, model.llm.get_input_embeddings().weight.shape[0])
    if drafts is not None:
        texts = write(model.llm, prompts, limits, drafts, draft_accept, eos, never)
        return [of_text(text) for text in texts]
    if most is not None and len(prompts) > 1 and max(map(len, prompts)) + max(limits) > most:
        # In a batch what has ended is filled up for as long as another text goes on, beyond the context at last.
        alone = zip(prompts, limits)
        return [search(model, tokenizer, [p], [n], num_beams, length_penalty)[0] for p, n in alone]
    inside = [prompt.new_ones(len(prompt), dtype=torch.long) for prompt in prompts]
    inputs, mask = (torch.nn.utils.rnn.pad_sequence(rows, True, padding_side="left") for rows in (prompts, inside))
    rows = model.llm.generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        # Of itself it would read each prompt once for each beam, and prompts are longer than what is written.
        past_key_values=for_beams(read_prompts(model.llm, inputs, mask), num_beams, max(limits) + 1),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        **({"length_penalty": length_penalty} if num_beams > 1 else {}),
        do_sample=False,
        max_new_tokens=max(limits) + 1,
        logits_processor=[EndAtLimit(torch.tensor(limits, device=inputs.device), num_beams, eos)],
        suppress_tokens=never or None,
        eos_token_id=eos,
        pad_token_id=eos if pad is None else pad,
    ).tolist()
    # A search that stops with fewer ended texts than beams fills the list with texts that have not ended.
    found = [
        [row[: row.index(eos)] for row in rows[i * num_beams : (i + 1) * num_beams] if eos in row]
        for i in range(len(prompts))
    ]
    # The search keeps no scores without keeping all logits; a pass over what it found is exact and takes little memory.
    lists = []
    for texts, scores, limit in zip(found, log_probability(model, prompts, found), limits):
        lists.append([Hypothesis(t, s, at_limit=len(t) == limit) for t, s in zip(texts, scores)])
        # Stable: of equals, the one that the search preferred.
        lists[-1].sort(key=lambda h: -h.llm / (len(h.tokens) + 1) ** length_penalty)
    return lists
