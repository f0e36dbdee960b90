"""Word scores of a causal LM in a search whose labels spell words in pieces that the LM would not choose.

An LM that reads h-e-l-l-o in letters knows little of "hello": it gets words in its own tokens. The pieces are labels of
`decode.ctc_lm.search`; a word is whole where a piece begins with a space, or the text ends, and then has cost
log P_llm(word | words before); the end of the text costs its own probability too.

- Words are tokenised one by one, as " word", the first one as the tokenizer begins a text, without any space in front.
  An LM whose tokenizer cuts the text as a whole otherwise (tokens over several words, runs of spaces) would give that
  text another score.
- A word that is not whole yet pays in advance for how it begins: the probability of all tokens of the LM that begin
  so, behind the tokens of the word that no single token holds. Else a narrow beam would fill with texts that put off
  the end of a word for ever. When the word is whole, this is given back; no score of a text depends on it.
- Bytes may spell a character; as long as one is incomplete, neither a word nor the text can end.
"""

import bisect
import functools
import json
import math
import weakref

import torch
from espnet.nets.scorer_interface import BatchScorerInterface

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.ends import logits_of
from espnet_llmvq.llm.packing import takes_positions
from espnet_llmvq.llm.pieces import bytes_of
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.sequence.sequence import Span

UNREADABLE = "\ufffd"  # what tokenizers write for bytes that are no character


def piece_bytes(tokenizer, ids):
    """The bytes (UTF-8) of each of token ids behind other text: with its leading space, which `decode` may drop."""
    before = tokenizer.encode("a", add_special_tokens=False)
    known = {piece: byte for byte, piece in bytes_of(json.loads(tokenizer.backend_tokenizer.to_str())).items()}
    rows = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in (before, *([*before, i] for i in ids))]
    found = []
    for text, name in zip(rows[1:], tokenizer.convert_ids_to_tokens(ids)):
        text = text[len(rows[0]) :]
        parts = [name] if name in known else name
        in_part = UNREADABLE in text and known.keys() >= set(parts)
        found.append(bytes(known[part] for part in parts) if in_part else text.encode())
    return found


def incomplete(spelling):
    """The bytes at the end of a spelling that lack others to be a character. None if no character begins so."""
    try:
        spelling.decode()
    except UnicodeDecodeError as err:
        return spelling[err.start :] if err.reason == "unexpected end of data" else None
    return b""


@functools.lru_cache(maxsize=1)
def sorted_tokens(tokenizer, rows):
    """(names, ids (V,)) of the tokens below `rows`, by name: those that begin alike stand together."""
    pairs = sorted((name, i) for name, i in tokenizer.get_vocab().items() if i < rows)
    return [name for name, _ in pairs], torch.tensor([i for _, i in pairs])


class Past:
    """Keys and values of one token: a leaf of a tree, in which texts share how they begin. Its root may be a prompt.

    before: `Past` of the token before, or None. layers: [(keys, values)], (heads, n, D) each of n positions. length:
    with all before.
    """

    def __init__(self, before, layers):
        self.before, self.layers = before, layers
        self.length = layers[0][0].shape[1] + (before.length if before else 0)

    def line(self):
        """This and all before it, first to last."""
        found, past = [], self
        while past:
            found.append(past)
            past = past.before
        return found[::-1]


class Text:
    """Tokens that the LM has read.

    past: that of the last one. score: their log probability, following: (V,) those of what may come next. after:
    {token: `Text`} as long as a hypothesis has them.
    """

    def __init__(self, past, score, following):
        self.past, self.score, self.following = past, score, following
        self.after = weakref.WeakValueDictionary()


class State:
    """Of a hypothesis.

    texts: [`Text`], the first one of whole words, each other one with a further token. tokens: those behind the first
    text; `old` of them belong to whole words, the others are the last word as it is. spelling: bytes of that word;
    is_word: whether it can end. paid: log probability that is in the hypothesis' score.
    """

    def __init__(self, texts, tokens=(), old=0, spelling=b"", is_word=True, paid=0.0):
        self.texts, self.tokens, self.old = list(texts), list(tokens), old
        self.spelling, self.is_word, self.paid = spelling, is_word, paid

    @property
    def unread(self):
        return self.tokens[len(self.texts) - 1 :]

    def whole(self):
        """Log probability of the text with its last word; as long as several tokens are unread, more than that."""
        if not self.is_word:
            return -math.inf
        text, rest = self.texts[-1], self.unread
        return text.score + (float(text.following[rest[0]]) if rest else 0.0)


class WordScorer(BatchScorerInterface):
    """Log probabilities of texts, the last word as far as it is spelled; scores are what a label changes of them.

    llm: `PreTrainedModel`; its_tokenizer: that of the LM. tokenizer: that of the pieces; ids: (K,) piece of each label
    of the search; end: label of the end. limit: most positions of the LM, or None. prompt: (P, H) inputs of the LM that
    texts stand behind, which begin there with `space`, " " or none; None: texts stand alone, behind the begin token.
    """

    def __init__(self, llm, its_tokenizer, tokenizer, ids, end, limit=None, prompt=None, space=""):
        self.llm, self.its_tokenizer, self.end, self.prompt, self.space = llm, its_tokenizer, end, prompt, space
        self.spellings, self.limit = piece_bytes(tokenizer, ids.tolist()), limit or math.inf
        self.ends_word = torch.tensor([spelling.startswith(b" ") for spelling in self.spellings], device=ids.device)
        self.ends_word[end] = True
        self.spoiling = {}
        self.names, self.by_name = sorted_tokens(its_tokenizer, llm.get_input_embeddings().weight.shape[0])

    def tokens_of(self, word, first):
        """The LM's tokens of a word with its space; None if it cannot be one."""
        try:
            if first and (word := word.removeprefix(" ")):
                word = self.space + word
            # An empty text must have an end.
            span = Span(text=word, loss=True, eos=True)
            return encode_text(self.its_tokenizer, span, None, first and self.prompt is None)[:-1]
        except UserError:  # it spells a special token
            return None

    def beginning(self, tokens):
        """(n, ids): tokens of the LM that begin as `tokens` from the n-th on do, for the first n that has some."""
        names = self.its_tokenizer.convert_ids_to_tokens(tokens)
        for n in range(len(tokens)):
            name = "".join(names[n:])
            low, high = (bisect.bisect_left(self.names, end) for end in (name, name + "\U0010ffff"))
            if high > low:
                return n, self.by_name[low:high]
        return 0, None

    def batch_init_state(self, x):
        tokenizer = self.its_tokenizer
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        texts = self.read([(None, (start,))])[0] if self.prompt is None else [self.read_prompt()]
        self.begin = texts[0].past.length
        return State(texts)

    @torch.inference_mode()
    def read_prompt(self):
        """The `Text` of no token behind the prompt."""
        from transformers import DynamicCache

        cache = DynamicCache()
        hidden = self.llm.get_decoder()(inputs_embeds=self.prompt[None], past_key_values=cache, use_cache=True)
        logits = logits_of(self.llm, hidden.last_hidden_state[0, -1:])[0].float()
        return Text(Past(None, [(x.keys[0], x.values[0]) for x in cache.layers]), 0.0, logits.log_softmax(-1))

    def batch_score(self, ys, states, xs):
        """((B, K), states with the last labels of ys). What words cost that the LM has not read, `pay` brings."""
        self.states = [self.followed(state, y[-1]) if len(y) > 1 else state for state, y in zip(states, ys.tolist())]
        self.before = [state.paid for state in self.states]
        begun = [self.beginning(state.tokens[state.old :]) for state in self.states]
        self.go_on([(state, state.old + n) for state, (n, _) in zip(self.states, begun)])
        self.scores = torch.full((len(ys), len(self.spellings)), -math.inf, device=ys.device)
        for row, (state, (n, ids)) in enumerate(zip(self.states, begun)):
            # Whole words are read now.
            state.texts, state.tokens, state.old = state.texts[state.old :], state.tokens[state.old :], 0
            if state.is_word:
                text = state.texts[n]
                state.paid = text.score + (0.0 if ids is None else float(text.following[ids].logsumexp(0)))
            self.put(row)
        return self.scores, self.states

    def put(self, row):
        """Fill a row of the scores."""
        state, before = self.states[row], self.before[row]
        if state.paid > -math.inf:
            self.scores[row] = state.paid - before
            self.scores[row, self.ends_word] = state.whole() - before
            if not state.unread:
                self.scores[row, self.end] += state.texts[-1].following[self.its_tokenizer.eos_token_id]
            self.scores[row, self.spoils(incomplete(state.spelling))] = -math.inf

    def spoils(self, begun):
        """(K,): labels that cannot follow on bytes of a character that is begun, or on none."""
        if begun not in self.spoiling:
            spoils = [incomplete(begun + spelling) is None for spelling in self.spellings]
            spoils[self.end] = bool(begun)
            self.spoiling[begun] = torch.tensor(spoils, device=self.ends_word.device)
        return self.spoiling[begun]

    def followed(self, state, label):
        """The state with a further label, whose tokens are not read yet."""
        spelling, whole = self.spellings[label], state.whole()
        if self.ends_word[label] and state.spelling:
            texts, tokens, paid = state.texts[-1:], state.unread, whole
        else:
            texts, tokens, paid = state.texts, [], state.paid
            spelling = state.spelling + spelling
        length = texts[0].past.length + len(tokens)
        begun = incomplete(spelling)
        found = self.tokens_of(spelling.decode(), length == self.begin) if begun == b"" else None
        if begun is None or paid == -math.inf or length + len(found or ()) > self.limit:
            found, paid = None, -math.inf
        new = State(texts[:1], [*tokens, *(found or ())], len(tokens), spelling, found is not None, paid)
        for text, token, former in zip(texts[1:], new.tokens, state.tokens):
            if token != former:  # a word may be cut otherwise than its beginning was
                break
            new.texts.append(text)
        return new

    def go_on(self, wanted):
        """Have n tokens read of each [(state, n)], in one pass of the LM at most."""
        todo = {}
        for state, n in wanted:
            while (have := len(state.texts) - 1) < n and (text := state.texts[-1].after.get(state.tokens[have])):
                state.texts.append(text)
            if have < n:
                todo.setdefault((state.texts[-1], tuple(state.tokens[have:n])), []).append(state)
        for states, texts in zip(todo.values(), self.read(list(todo)) if todo else ()):
            for state in states:
                state.texts += texts

    def owing(self, rows, labels):
        """Which rows of the last scores have more than is right for one of `labels`, as tokens are unread."""
        found = set()
        for row, label in zip(rows.tolist(), labels.tolist()):
            state = self.states[row]
            if self.ends_word[label] and state.is_word and len(state.unread) > (label != self.end):
                found.add(row)
        return sorted(found)

    def pay(self, rows):
        """(len(rows), K): what the last words of rows, read to their end, change of their scores."""
        before = self.scores[rows]
        self.go_on([(self.states[row], len(self.states[row].tokens)) for row in rows])
        for row in rows:
            self.put(row)
        return torch.where(before > -math.inf, self.scores[rows] - before, 0.0)

    @torch.inference_mode()
    def read(self, pairs):
        """[(`Text` or None, ids of one token or more behind it)] -> [[`Text` with each of them]], in one pass."""
        from transformers import DynamicCache

        lines = [text.past.line() if text else [] for text, _ in pairs]
        lengths = [text.past.length if text else 0 for text, _ in pairs]
        longest, most = max(lengths), max(len(ids) for _, ids in pairs)
        device = self.llm.get_input_embeddings().weight.device
        tokens = torch.zeros(len(pairs), most, dtype=torch.long, device=device)
        mask = torch.zeros(len(pairs), longest + most, dtype=torch.long, device=device)
        for i, (length, (_, ids)) in enumerate(zip(lengths, pairs)):
            tokens[i, : len(ids)] = torch.tensor(ids)
            mask[i, longest - length : longest + len(ids)] = 1
        cache = DynamicCache()
        for layer in range(len(lines[0][0].layers) if longest else 0):
            rows = [[torch.cat(parts, 1) for parts in zip(*(past.layers[layer] for past in line))] for line in lines]
            # What is padded on the left ends beside what is new, so that distances are what they are.
            rows = [[torch.nn.functional.pad(x, (0, 0, longest - x.shape[1], 0)) for x in row] for row in rows]
            cache.update(*map(torch.stack, zip(*rows)), layer)
        where = {"position_ids": (mask.cumsum(-1) - 1)[:, longest:]} if takes_positions(self.llm.get_decoder()) else {}
        out = self.llm(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **where)
        return [self.texts(text, ids, i, longest, out) for i, (text, ids) in enumerate(pairs)]

    def texts(self, text, ids, row, at, out):
        """[`Text`] of ids behind a text, from the LM's output in a row; the first one stands at a position."""
        found = []
        for n, (token, logits) in enumerate(zip(ids, out.logits[row].float())):
            # Copies: a part of a tensor keeps all of it.
            parts = [(x.keys[row, :, at + n], x.values[row, :, at + n]) for x in out.past_key_values.layers]
            layers = [tuple(x[:, None].clone() for x in both) for both in parts]
            score = text.score + float(text.following[token]) if text else 0.0
            new = Text(Past(text and text.past, layers), score, logits.log_softmax(-1))
            if text:
                text.after[token] = new
            found.append(new)
            text = new
        return found
