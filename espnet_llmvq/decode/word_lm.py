"""Word scores of a causal LM in a search whose labels spell words in pieces that the LM would not choose.

An LM that reads h-e-l-l-o in letters knows little of "hello": it gets each word in its own tokens, once the word is
whole. The pieces are labels of `decode.ctc_lm.search`; a word ends where a piece begins with a space, or with the text,
and then costs log P_llm(word | words before); the end of the text costs its own probability too.

- Words are tokenised one by one, as " word", the first one as the tokenizer begins a text. An LM whose tokenizer cuts
  the text as a whole otherwise (tokens over several words, runs of spaces) would give that text another score.
- Within a word nothing is paid yet, so of two texts alike the one with the longer last word is ahead in the beam until
  that word ends; a narrow beam may lose the other one. There is no look-ahead.
- Bytes may spell a character; as long as one is incomplete, neither a word nor the text can end.
"""

import functools
import math
import weakref

import torch
from espnet.nets.scorer_interface import BatchScorerInterface

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.packing import takes_positions
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.sequence.sequence import Span

UNREADABLE = "\ufffd"  # what tokenizers write for bytes that are no character


def spelled(tokenizer, ids):
    """The text of token ids as it stands behind other text: with its leading space, which `decode` may drop."""
    before = tokenizer.encode("a", add_special_tokens=False)
    whole, before = (tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ([*before, *ids], before))
    return whole[len(before) :]


class Words:
    """Words that the LM has read: a leaf of a tree, in which texts share how they begin.

    before: `Words` without the last one, None for the start alone. layers: [(keys, values)] of the tokens of the last
    word alone, (heads, n, D) each. length: positions, with all before. score: log P(last word | words before).
    following: (V,) log probabilities of the next token. after: {word: `Words`} as long as a hypothesis has them.
    """

    def __init__(self, before, layers, length, score, following):
        self.before, self.layers, self.length, self.score, self.following = before, layers, length, score, following
        self.after = weakref.WeakValueDictionary()

    def line(self):
        """This and all before it, first to last."""
        found, words = [], self
        while words:
            found.append(words)
            words = words.before
        return found[::-1]


class State:
    """Of a hypothesis: the `Words` that are whole, the pieces (ids) of the last one, and `Words` with it, once read."""

    def __init__(self, words, pieces=()):
        self.words, self.pieces, self.whole = words, pieces, None


class WordScorer(BatchScorerInterface):
    """Scores of whole words, which are computed when a hypothesis with the end of its word enters the beam (`pay`).

    llm: `PreTrainedModel`; its_tokenizer: that of the LM. tokenizer: that of the pieces; ids: (K,) piece of each label
    of the search; end: label of the end. limit: most positions of the LM, or None.
    """

    def __init__(self, llm, its_tokenizer, tokenizer, ids, end, limit=None):
        self.llm, self.its_tokenizer, self.tokenizer, self.end, self.limit = llm, its_tokenizer, tokenizer, end, limit
        self.ids = ids.tolist()
        self.ends_word = torch.tensor([spelled(tokenizer, [i]).startswith(" ") for i in self.ids], device=ids.device)
        self.ends_word[end] = True
        self.tokens = functools.lru_cache(maxsize=None)(self._tokens)

    def _tokens(self, word, first):
        """The LM's tokens of a word with its space; None if it cannot be one."""
        if UNREADABLE in word:
            return None
        try:
            word = word.removeprefix(" ") if first else word
            # An empty text must have an end.
            return encode_text(self.its_tokenizer, Span(text=word, loss=True, eos=True), None, first)[:-1]
        except UserError:  # it spells a special token
            return None

    def batch_init_state(self, x):
        tokenizer = self.its_tokenizer
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return State(self.read([(None, [start])])[0])

    def batch_score(self, ys, states, xs):
        """Zeros (B, K), and states with the last labels of ys. `pay` fills in the scores of words."""
        self.states = list(states)
        for i, label in enumerate(ys[:, -1].tolist() if ys.shape[1] > 1 else ()):
            state = states[i]
            if self.ends_word[label] and state.whole:
                self.states[i] = State(state.whole, (self.ids[label],))
            else:
                # Behind a word that cannot end nothing has a chance: whether it goes on makes no difference.
                self.states[i] = State(state.words, (*state.pieces, self.ids[label]))
        self.scores = torch.zeros(len(ys), len(self.ids), device=ys.device)
        self.paid = [False] * len(ys)
        return self.scores, self.states

    def owing(self, rows, labels):
        """Which rows of the last `batch_score` have not paid for their word, though they end it with one of labels."""
        pairs = zip(rows.tolist(), self.ends_word[labels].tolist())
        return sorted({row for row, ends in pairs if ends and not self.paid[row]})

    def pay(self, rows):
        """(len(rows), K): what the words of rows cost. From here on it stands in the scores too."""
        wanted = {}
        for state in (self.states[row] for row in rows):
            word = spelled(self.tokenizer, state.pieces)
            state.whole = state.words.after.get(word) if state.pieces else state.words
            ids = self.tokens(word, state.words.length == 1)
            fits = ids is not None and (self.limit is None or state.words.length + len(ids) <= self.limit)
            if state.whole is None and fits:
                wanted.setdefault((state.words, word), (ids, []))[1].append(state)
        read = self.read([(words, ids) for (words, _), (ids, _) in wanted.items()]) if wanted else []
        for ((words, word), (_, states)), whole in zip(wanted.items(), read):
            words.after[word] = whole
            for state in states:
                state.whole = whole
        for row in rows:
            state, self.paid[row] = self.states[row], True
            score = (state.whole.score if state.pieces else 0.0) if state.whole else -math.inf
            self.scores[row, self.ends_word] = score
            if state.whole:
                self.scores[row, self.end] += state.whole.following[self.its_tokenizer.eos_token_id]
        return self.scores[rows]

    @torch.inference_mode()
    def read(self, pairs):
        """[(`Words` or None, token ids of the next word)] -> [`Words` with it], in one pass of the LM."""
        from transformers import DynamicCache

        lines = [words.line() if words else [] for words, _ in pairs]
        past = [words.length if words else 0 for words, _ in pairs]
        longest, most = max(past), max(1, *(len(ids) for _, ids in pairs))
        device = self.llm.get_input_embeddings().weight.device
        tokens = torch.zeros(len(pairs), most, dtype=torch.long, device=device)
        mask = torch.zeros(len(pairs), longest + most, dtype=torch.long, device=device)
        for i, (length, (_, ids)) in enumerate(zip(past, pairs)):
            tokens[i, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            mask[i, longest - length : longest + len(ids)] = 1
        cache = DynamicCache()
        for layer in range(len(lines[0][0].layers) if longest else 0):
            both = zip(*([torch.cat(parts, 1) for parts in zip(*(w.layers[layer] for w in line))] for line in lines))
            # What is padded on the left ends beside the words, so that distances are what they are.
            padded = (
                torch.stack([torch.nn.functional.pad(x, (0, 0, longest - x.shape[1], 0)) for x in rows])
                for rows in both
            )
            cache.update(*padded, layer)
        where = {"position_ids": (mask.cumsum(-1) - 1)[:, longest:]} if takes_positions(self.llm.get_decoder()) else {}
        out = self.llm(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **where)
        found = []
        for i, (words, ids) in enumerate(pairs):
            # Of an empty word nothing is read.
            log_probs = out.logits[i, : len(ids)].float().log_softmax(-1)
            known = torch.cat([words.following[None], log_probs]) if words else log_probs
            score = float(known[range(len(ids)), ids].double().sum()) if words else 0.0
            own = slice(longest, longest + len(ids))
            # Copies: a part of a tensor keeps all of it.
            layers = [(x.keys[i, :, own].clone(), x.values[i, :, own].clone()) for x in out.past_key_values.layers]
            found.append(Words(words, layers, past[i] + len(ids), score, known[-1].clone()))
        return found
