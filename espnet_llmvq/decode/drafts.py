"""Greedy search with drafts: texts that are mostly right already, of which the LLM reads many tokens in one pass.

Speculative decoding with what the encoder's CTC has written [2507.18181, 2603.11243]. Prompt and draft are read at
once, and at each token the LLM says which one it would have written. Those in front that agree stand, and so does the
one it prefers at the first that does not; the draft goes on behind that, where the edit distance to what is written
is least.

transformers' own assisted generation takes one prompt at a time, of candidates those of its own generators, and knows
no rule but equality. So this is a loop of its own, over a batch in which each text advances at its own pace: behind
each pass the cache is cut back to what stands, of the texts that have not ended.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.directory import context
from espnet_llmvq.llm.ends import logits_of
from espnet_llmvq.llm.packing import takes_positions

LEAST = 4  # tokens of a draft that are tried where the last ones were wrong
CHUNK = 128  # positions whose logits are held at once


class Place:
    """Where a draft (K tokens) goes on: behind its first k, whose edit distance to the written tokens is least."""

    def __init__(self, draft):
        self.draft, self.distances, self.read = np.array(draft, dtype=int), np.arange(len(draft) + 1), 0

    def __call__(self, tokens, expected):
        """k behind all `tokens`; of equals one whose last token is the last of them, then the nearest to `expected`."""
        k = np.arange(len(self.distances))
        for token in tokens[self.read :]:
            changed = np.minimum(self.distances[:-1] + (self.draft != token), self.distances[1:] + 1)
            shifted = np.concatenate([self.distances[:1] + 1, changed]) - k
            self.distances = np.minimum.accumulate(shifted) + k
        self.read = len(tokens)
        differs = np.concatenate([[True], self.draft != tokens[-1]])
        return int(np.lexsort((abs(k - expected), differs, self.distances))[0])


@dataclass
class Text:
    """A text while it is written.

    draft: ids with the end token, of which those from `at` on are to come. ahead: how many of them are tried next.
    cached: positions, of prompt and text, in the cache. passes: of the LLM. accepted: tokens, the end included, that
    the draft had right. score: log probability of tokens and end. of_draft: that of the draft and its end; None where
    the first pass did not read all of it.
    """

    draft: list
    limit: int
    place: Place
    tokens: list = field(default_factory=list)
    at: int = 0
    ahead: int = 0
    cached: int = 0
    score: float = 0.0
    of_draft: float | None = None
    passes: int = 0
    accepted: int = 0
    ended: bool = False

    def tried(self, room):
        """What the draft has for the next positions, one more than are read; room: most tokens to be read."""
        most = min(self.ahead, room, self.limit - len(self.tokens), len(self.draft) - 1 - self.at)
        return self.draft[self.at : self.at + most + 1]

    def take(self, tokens, scores, tried, eos):
        """Add what stands of a pass: the tokens, those `tried` or the LLM's own, up to the first of the latter."""
        stops = (i for i, (token, draft) in enumerate(zip(tokens, tried), 1) if token != draft or token == eos)
        n = next(stops, len(tried))
        agrees, self.ended = tokens[n - 1] == tried[n - 1], tokens[n - 1] == eos
        self.tokens += tokens[: n - self.ended]
        self.score += sum(scores[:n])
        self.passes += 1
        self.accepted += n if agrees else n - 1
        self.cached += n - 1
        if agrees:
            self.at += n
        elif not self.ended:
            self.at = self.place(self.tokens, self.at + n)
        self.ahead = max(LEAST, 2 * n)


def check_cache(llm):
    """Raise UserError for an LLM that keeps another state than keys and values, which cannot be cut back."""
    kinds = {type(layer) for layer in DynamicCache(config=llm.config).layers}
    if kinds - {DynamicLayer, DynamicSlidingWindowLayer}:
        raise UserError(f"draft: what {type(llm).__name__} has read cannot be cut back; decode without drafts")


def cut_back(cache, rows, ends, lengths):
    """Keep of the cache `rows`, and of each the `lengths` positions before `ends` (lists), aligned on the right.

    Returns how many positions it holds then.
    """
    longest = max(lengths)
    whole = len(set(ends)) == 1 and rows == list(range(cache.layers[0].keys.shape[0]))
    device = cache.layers[0].keys.device
    rows = torch.tensor(rows, device=device)[:, None]
    columns = torch.tensor(ends, device=device)[:, None] - longest + torch.arange(longest, device=device)
    columns = columns.clamp(min=0)  # of shorter rows, what the mask hides
    for layer in cache.layers:
        if not layer.is_initialized:  # a layer that shares those of another
            continue
        for name in ("keys", "values"):
            held = getattr(layer, name)
            if whole:
                held = held[:, :, ends[0] - longest : ends[0]]
            else:
                held = held[rows, :, columns].transpose(1, 2)
            setattr(layer, name, held)
    return longest


def pass_over(decoder, cache, held, cached, inputs):
    """Hidden states (B, N, H) of inputs, B (n, H), behind a cache of `held` positions; the last `cached` of it count.

    The inputs are added to the cache, padded on the right.
    """
    inside = [inputs[0].new_ones(len(row), dtype=torch.long) for row in inputs]
    inputs, inside = (torch.nn.utils.rnn.pad_sequence(rows, True) for rows in (inputs, inside))
    before = torch.tensor(cached, device=inputs.device)[:, None]
    mask = torch.cat([(torch.arange(held, device=inputs.device) >= held - before).long(), inside], 1)
    where = {}
    if takes_positions(decoder):
        # The padding has the position of the last input: tables of positions end.
        where["position_ids"] = before + inside.cumsum(1) - 1
    return decoder(
        inputs_embeds=inputs, attention_mask=mask, past_key_values=cache, use_cache=True, **where
    ).last_hidden_state


def judged(llm, hidden, tried, last, banned, eos, accept):
    """What the LLM writes at N positions, of hidden states (N, H), three lists: tokens, their log probabilities, and
    those of the draft's tokens.

    tried: what the draft has there, which stands where it is the best token, or more than `accept` times as probable
    as that. last: whether the length limit leaves the end only. banned: tokens that are never written.
    """
    tokens, scores, of_draft, least = [], [], [], torch.tensor(accept).log().item()
    device = hidden.device
    parts = (hidden, torch.tensor(tried, device=device), torch.tensor(last, device=device))
    for states, draft, over in zip(*(part.split(CHUNK) for part in parts)):
        logits = logits_of(llm, states).float()
        total = logits.logsumexp(-1)
        logits[:, banned] = float("-inf")
        best, token = logits.max(-1)
        own = logits.gather(1, draft[:, None])[:, 0]
        token = torch.where(own - best > least, draft, token).masked_fill(over, eos)
        tokens += token.tolist()
        scores += (logits.gather(1, token[:, None])[:, 0] - total).tolist()
        of_draft += (own - total).tolist()
    return tokens, scores, of_draft


@torch.inference_mode()
def write(llm, prompts, limits, drafts, accept, eos, banned):
    """Write texts after prompts, from drafts.

    Args:
        prompts: B (P, H), of `prompt_inputs`. limits: most tokens of each. drafts: B lists of ids without the end.
        accept: 1: the texts are those of greedy search, nearly equal logits apart; below: a token of a draft, or its
            end, stands while it is more than so many times as probable as the LLM's best.
        eos, banned: the end token, and tokens that are never written.
    Returns B `Text`. Raises UserError for an LLM whose cache cannot be cut back.
    """
    check_cache(llm)
    embed, device, texts = llm.get_input_embeddings(), prompts[0].device, []
    cache, most = DynamicCache(), context(llm.config)
    for draft, limit in zip(drafts, limits):
        words = [token for token in draft if token not in {eos, *banned}]
        texts.append(Text([*words, eos], limit, Place(words), ahead=limit))
    live, held = texts, 0  # held: positions in the cache
    while live:
        # What each reads besides the draft: its prompt, or the token that the pass before wrote.
        read = [len(prompt) for prompt in prompts] if not held else [1] * len(live)
        tried = [text.tried(text.limit if most is None else most - held - n) for text, n in zip(live, read)]
        ids = [torch.tensor([*text.tokens[-1:], *row[:-1]], dtype=torch.long) for text, row in zip(live, tried)]
        embedded = embed(torch.nn.utils.rnn.pad_sequence(ids, True).to(device)).to(prompts[0].dtype)
        inputs = [row[: len(own)] for row, own in zip(embedded, ids)]
        if not held:
            inputs = [torch.cat(parts) for parts in zip(prompts, inputs)]
        cached = [text.cached for text in live]
        hidden = pass_over(llm.get_decoder(), cache, held, cached, inputs)
        states = torch.cat([row[len(own) - len(new) : len(own)] for row, own, new in zip(hidden, inputs, tried)])
        last = [len(text.tokens) + i == text.limit for text, row in zip(live, tried) for i in range(len(row))]
        *found, of_draft = judged(llm, states, sum(tried, []), last, banned, eos, accept)
        at = 0
        for text, n, row in zip(live, read, tried):
            text.cached += n
            if not held and len(row) == len(text.draft):
                text.of_draft = sum(of_draft[at : at + len(row)])
            text.take(*(part[at : at + len(row)] for part in found), row, eos)
            at += len(row)
        rows = [i for i, text in enumerate(live) if not text.ended]
        ends = [held + live[i].cached - cached[i] for i in rows]
        live = [live[i] for i in rows]
        if live:
            held = cut_back(cache, rows, ends, [text.cached for text in live])
    return texts
