"""Word times by CTC forced alignment: the most probable path of the CTC head through a known transcript."""

import math
import re

from espnet_llmvq.align.ctm import Word


def word_owners(tokenizer, text, ids, offsets):
    """Words of a text, and the word that each token belongs to, by its characters: (words, word index of each token).

    offsets: (first character, character after the last) of each token. A token of space alone belongs to the word
    after it. Raises ValueError when a token covers several words or a word has no token.
    """
    found = list(re.finditer(r"\S+", text))
    words, owners = [m.group() for m in found], []
    for token, (start, end) in zip(ids, offsets):
        inside = [i for i, m in enumerate(found) if m.start() < end and start < m.end()]
        # No word inside: space before a word, or after the last one.
        following = [i for i, m in enumerate(found) if m.start() >= end] or [len(found) - 1]
        if len(inside) > 1:
            raise ValueError(f"a token covers several words: {tokenizer.decode([token])!r}")
        owners.append((inside or following)[0])
    for i, word in enumerate(words):
        if i not in owners:
            raise ValueError(f"a word has no token: {word!r}")
    return words, owners


def align_tokens(log_probs, ids, blank):
    """The most probable CTC path of `log_probs` (T, V) that spells `ids`.

    Returns a list of (first frame, frame after the last, mean log probability), one a token. Raises ValueError when
    there are no tokens or T frames are too few for them.
    """
    import torch
    from torchaudio.functional import forced_align, merge_tokens

    if not ids:
        raise ValueError("the transcript is empty")
    # CTC puts a blank between equal neighbours.
    needed = len(ids) + sum(a == b for a, b in zip(ids, ids[1:]))
    if len(log_probs) < needed:
        raise ValueError(f"audio too short: {len(log_probs)} encoder frames, its {len(ids)} tokens need {needed}")
    path, scores = forced_align(log_probs[None], torch.tensor([ids], dtype=torch.int32), blank=blank)
    return [(s.start, s.end, s.score) for s in merge_tokens(path[0], scores[0], blank=blank)]


def align_words(log_probs, words, ids, owners, blank, frame_seconds, duration):
    """Times of words: [Word], with the mean probability (geometric, over its token frames) as confidence.

    words, ids, owners: of `decode.align.word_tokens`. frame_seconds: from one frame of `log_probs` (T, V) to the next;
    duration: of the audio in seconds, which the last frame may exceed. Raises ValueError as `align_tokens`.
    """
    spans = align_tokens(log_probs, ids, blank)
    result = []
    for i, word in enumerate(words):
        own = [span for span, owner in zip(spans, owners) if owner == i]
        start = own[0][0] * frame_seconds
        end = max(min(own[-1][1] * frame_seconds, duration), start)
        frames = sum(last - first for first, last, _ in own)
        score = sum((last - first) * s for first, last, s in own) / frames
        result.append(Word(word, start, end - start, math.exp(min(score, 0.0))))
    return result
