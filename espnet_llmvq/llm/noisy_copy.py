"""Noisy copies: text tokens corrupted as a frame-synchronous acoustic front end would corrupt them.

A large language model has the habit of copying what stands in its context. A small one trained on plain text alone has
not, and then cannot use the token-like vectors a bridge puts in its prompt. Training it to write a sentence down after
a noisy version of its tokens gives it the habit: this stands in for scale, and it never sees speech. A million tokens
of such training are too few for the habit to arise from random weights (it did not, in trials), so the model also
starts with it: see `copy_start`.
"""

import dataclasses
import itertools
import math

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.directory import BLANK_TOKEN
from espnet_llmvq.llm.spans import begin_ids, encode_text, puts_space_first
from espnet_llmvq.llm.tokenizer import SPACE, unigram_scores
from espnet_llmvq.sequence.prompt import TRANSCRIPT, parse, separator
from espnet_llmvq.sequence.sequence import Span


@dataclasses.dataclass(frozen=True)
class Noise:
    """Largest rates of each disturbance, 0..0.95.

    An example draws a level in 0..1, and each of its rates uniformly in 0..level * largest, so that
    clean, slightly and heavily disturbed examples all occur; the mean is a quarter of the largest.
    """

    p_resegment: float = 0.6  # of words that get another segmentation
    p_drop: float = 0.2  # of tokens left out
    p_substitute: float = 0.4  # of tokens replaced by a random piece
    p_insert: float = 0.2  # random pieces put in after a token: r / (1 - r) on average
    p_repeat: float = 0.7  # further copies of a token: r / (1 - r) on average
    p_blank: float = 0.7  # filler tokens after a token: r / (1 - r) on average
    resegment_alpha: float = 0.3  # 0: all segmentations alike; larger: nearer to the usual one

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            top = 0.95 if field.name.startswith("p_") else math.inf
            if not 0 <= value <= top:
                raise UserError(f"noise.{field.name} is {value}; it must lie in 0..{top}")

    def draw(self, rng):
        """The rates of one example, in the order of the fields without `resegment_alpha`."""
        level = rng.random()
        return [level * rng.random() * p for p in dataclasses.astuple(self)[:-1]]


class Resegmenter:
    """Draws segmentations of words from a unigram model: P(pieces) ~ exp(alpha * sum of scores)."""

    def __init__(self, scores, alpha):
        """`scores`: {piece: log probability}."""
        self.scores, self.alpha, self.lattices = scores, alpha, {}
        self.longest = max(map(len, scores))

    def lattice(self, word):
        """For each end 1..len(word): starts of the pieces ending there, cumulative probabilities.

        None for a word with no segmentation into pieces.
        """
        if word in self.lattices:
            return self.lattices[word]
        forward = [0.0] + [-math.inf] * len(word)
        arcs = [None]
        for end in range(1, len(word) + 1):
            starts, logs = [], []
            for start in range(max(0, end - self.longest), end):
                score = self.scores.get(word[start:end])
                if score is not None and forward[start] > -math.inf:
                    starts.append(start)
                    logs.append(forward[start] + self.alpha * score)
            cumulative = []
            if starts:
                top = max(logs)
                sums = list(itertools.accumulate(math.exp(log - top) for log in logs))
                forward[end] = top + math.log(sums[-1])
                cumulative = [c / sums[-1] for c in sums]
            arcs.append((starts, cumulative))
        self.lattices[word] = arcs if forward[-1] > -math.inf else None
        return self.lattices[word]

    def sample(self, word, rng):
        """Pieces of a segmentation of `word` (with the space mark), or None if there is none."""
        arcs = self.lattice(word)
        if arcs is None:
            return None
        pieces, end = [], len(word)
        while end:
            starts, cumulative = arcs[end]
            draw = rng.random()
            start = next(s for s, c in zip(starts, cumulative) if draw < c or c == cumulative[-1])
            pieces.append(word[start:end])
            end = start
        return pieces[::-1]


class NoisyCopy:
    """Makes examples: prompt with noisy tokens in the place of speech, then the transcript.

    With a tokenizer that is not a unigram model there is no other segmentation, and with one
    without `<blank>` there are no filler tokens: those rates are then without effect.
    """

    def __init__(self, tokenizer, template, noise):
        """`tokenizer`: Hugging Face tokenizer; `template`: "USER: {speech} ASSISTANT: {text}"."""
        self.tokenizer, self.noise = tokenizer, noise
        self.lead = separator(template, TRANSCRIPT)
        if puts_space_first(tokenizer) == "always":
            self.lead = ""
        spans = [Span(text=words[0]) if kind == "text" else None for kind, *words in parse(template)]
        self.head, self.middle = begin_ids(tokenizer, [span for span in spans[:1] if span]), []
        part = self.head
        for i, span in enumerate(spans):
            if span:
                part += encode_text(tokenizer, span, None, first=i == 0)
            else:
                part = self.middle
        vocab = tokenizer.get_vocab()
        self.blank = vocab.get(BLANK_TOKEN)
        barred = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values(), *self.head, *self.middle}
        self.ordinary = [i for i in sorted(vocab.values()) if i not in barred]
        self.eos, self.ids = tokenizer.eos_token_id, vocab
        self.pieces, self.resegmenter = {i: piece for piece, i in vocab.items()}, None
        if scores := unigram_scores(tokenizer):
            scores = {p: s for p, s in scores.items() if vocab[p] not in barred}
            self.resegmenter = Resegmenter(scores, noise.resegment_alpha)

    def encode(self, lines):
        """Token ids of each line as a transcript, without special tokens: a list of lists."""
        texts = [self.lead + line for line in lines]
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def resegment(self, tokens, rate, rng):
        """Segment each word again with probability `rate`."""
        out, word = [], []

        def close():
            pieces = None
            if word and rng.random() < rate:
                pieces = self.resegmenter.sample("".join(self.pieces[t] for t in word), rng)
            out.extend(word if pieces is None else [self.ids[p] for p in pieces])
            word.clear()

        for token in tokens:
            if self.pieces[token].startswith(SPACE):
                close()
            word.append(token)
        close()
        return out

    def disturb(self, tokens, rng):
        """A noisy version of a list of token ids. `rng`: numpy Generator. May be empty."""
        resegment, drop, substitute, insert, repeat, blank = self.noise.draw(rng)
        if self.resegmenter and resegment:
            tokens = self.resegment(tokens, resegment, rng)
        if self.blank is None:
            blank = 0.0

        def piece():
            return self.ordinary[int(rng.integers(len(self.ordinary)))]

        out = []
        for token in tokens:
            if rng.random() >= drop:
                token = piece() if rng.random() < substitute else token
                out.append(token)
                while rng.random() < repeat:
                    out.append(token)
            while rng.random() < insert:
                out.append(piece())
            while rng.random() < blank:
                out.append(self.blank)
        return out

    def example(self, tokens, rng, limit=None):
        """One example of the copy task from the tokens of a transcript.

        Returns (ids, n): token ids, of which the last n (transcript and eos) bear loss. An example
        longer than `limit` tokens has its noisy part replaced by the clean one.
        """
        noisy = self.disturb(tokens, rng)
        fixed = len(self.head) + len(self.middle) + len(tokens) + 1
        if limit and fixed + len(noisy) > limit:
            noisy = tokens
        return [*self.head, *noisy, *self.middle, *tokens, self.eos], len(tokens) + 1

    def random_tokens(self, n, rng):
        """A "transcript" of n random pieces: what cannot be guessed has to be copied.

        They come from a pool of 2 to n pieces, so that many, and pairs and triples of them, occur more than once:
        as in spelled words and numbers, what came before does not tell where in the input the copy is.
        """
        pool = rng.choice(self.ordinary, size=int(rng.integers(2, max(2, n), endpoint=True)))
        return [int(token) for token in rng.choice(pool, size=n)]

    def plain(self, tokens):
        """One example of plain text: (ids, n) as in `example`.

        The first token needs something before it to be predicted from: `<s>`, or eos (the mark
        between documents) for language models without one.
        """
        bos = self.tokenizer.bos_token_id
        return [self.eos if bos is None else bos, *tokens, self.eos], len(tokens) + 1


def copy_start(model):
    """Set the weights of a new Llama model so that it continues a sequence as it went on before.

    The n heads of layer 0 look one to n positions back and note a code of the token there; the heads of layer 1
    look for the position whose notes are the codes of the present token and of the n - 1 before it, and bring the
    token that stands there to the output (an "induction head"). With the last token alone, a copy of
    "B E V E R L Y" would jump from the first E to what follows the second; with the last two, one of
    "M A R G A R E T" would go round in "A R G". Training goes on from there with all weights free. The embedding's
    dimension 0 is a constant; the notes follow it. Needs two layers and two heads, and heads wide enough for a note
    (`note_size`).
    """
    import torch

    config = model.config
    heads = config.num_attention_heads
    width, head = config.hidden_size, config.hidden_size // heads
    half = head // 2  # rotary position embedding turns dimensions i and i + half by position * speed[i]
    size = note_size(width, heads)
    speed = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    # of embeddings; of dimension 0 and the notes beside them; a code found again is worth so many nats in layer 1
    scale, constant, note, worth = 0.06, 5.0, 1.5, 4.0
    sharpness = (worth * head**0.5 / size) ** 0.5
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    notes = [slice(1 + i * size, 1 + (i + 1) * size) for i in range(heads)]
    token = slice(1 + heads * size, width)
    token_size = width - 1 - heads * size
    with torch.no_grad():
        for layer in model.model.layers:  # quieter than the embeddings, so that notes and tokens last
            layer.self_attn.o_proj.weight.mul_(0.25)
            layer.mlp.down_proj.weight.mul_(0.25)
        embedding = model.get_input_embeddings().weight
        embedding.normal_(0, scale)
        embedding[:, 0] = constant * scale
        embedding[:, 1 : 1 + heads * size] = 0
        if not config.tie_word_embeddings:
            model.get_output_embeddings().weight.copy_(embedding)
        code = torch.randn(size, token_size) / token_size**0.5

        # one to n back: the constant, turned by so many positions; other distances get 5 nats or more less
        k = min(6, half)
        normed = constant / ((token_size + constant**2) / width) ** 0.5
        length = (5 * head**0.5 / (1 - speed[:k].cos()).sum()).sqrt() / normed
        for i, dimensions in enumerate(notes):
            at = i * head
            for weight, turn in ((first.q_proj.weight, -(i + 1) * speed), (first.k_proj.weight, 0 * speed)):
                weight[at : at + head] = 0
                weight[at : at + k, 0] = length * turn[:k].cos()
                weight[at + half : at + half + k, 0] = length * turn[:k].sin()
            first.v_proj.weight[at : at + head] = 0
            first.v_proj.weight[at : at + size, token] = code
            first.o_proj.weight[:, at : at + head] = 0
            first.o_proj.weight[dimensions, at : at + size] = note * scale * torch.eye(size)

        # same codes: on the slowly turning dimensions, for which distance matters little
        pairs = heads * size // 2
        slow = torch.cat([torch.arange(half - pairs, half), torch.arange(head - pairs, head)])
        second.q_proj.weight.zero_()
        second.k_proj.weight.zero_()
        for at in range(0, width, head):
            second.q_proj.weight[at + slow[0::heads], token] = sharpness * code
            for i in range(heads):
                second.k_proj.weight[at + slow[i::heads], notes[i]] = sharpness * torch.eye(size)
            for i in range(1, heads):
                second.q_proj.weight[at + slow[i::heads], notes[i - 1]] = sharpness / note * torch.eye(size)
        keep = torch.zeros(width)
        keep[token] = 1
        second.v_proj.weight.copy_(torch.diag(keep))
        second.o_proj.weight.copy_(0.2 * torch.eye(width))


def note_size(width, heads):
    """Dimensions of a note of `copy_start`: an even number, all notes within half a head."""
    return width // heads // 2 // heads // 2 * 2
