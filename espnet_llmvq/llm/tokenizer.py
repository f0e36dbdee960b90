"""A small unigram tokenizer for a language model trained from the recipe's own text.

Sentencepiece learns the pieces; the directory written holds the same model as a Hugging Face fast
tokenizer, so that it loads as any downloaded one does, and gives the same ids as sentencepiece.
"""

import collections
import json
import math
import os
import random
import re
import shutil
import string
import tempfile

from espnet_llmvq.base.environment import versions
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import beside
from espnet_llmvq.base.made import Made
from espnet_llmvq.data.normalise import visible
from espnet_llmvq.llm.directory import BLANK_TOKEN

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
SPACE = "\u2581"  # sentencepiece's mark for the space in front of a word
SP_MODEL = "tokenizer.model"
ROLES = ("USER:", "ASSISTANT:")  # of the prompt
PRINTABLE = "".join(map(chr, range(33, 127)))  # ASCII
MAX_LINES = 1_000_000  # more lines than this do not change a small vocabulary


def read_lines(paths):
    """Non-empty lines of plain text files (UTF-8, one sentence a line, no utterance ids), in order.

    White space is reduced to single spaces; characters that cannot be seen are left out. Raises UserError for a file
    that is missing, not UTF-8 or empty.
    """
    lines = []
    for path in paths:
        before = len(lines)
        try:
            with open(path, encoding="utf-8") as f:
                lines += [words for line in f if (words := " ".join(visible(line).split()))]
        except OSError as err:
            raise UserError(f"text file {path}: {err.strerror}") from None
        except UnicodeDecodeError as err:
            raise UserError(f"text file {path} is not UTF-8 ({err}); convert it with iconv") from None
        if len(lines) == before:
            raise UserError(f"text file {path} has no text")
    return lines


def check_free(out_dir):
    """Raise UserError when `out_dir` has something in it, which nobody asked to delete."""
    if os.path.exists(out_dir) and not (os.path.isdir(out_dir) and not os.listdir(out_dir)):
        raise UserError(f"{out_dir} exists and is not empty; delete it or name another directory")


def lexicon_lines(lines, n, rng, copies=200, length=5):
    """Lines in which each of the `n` most frequent words of `lines` stands `copies` times.

    On a small text with few word types, sentencepiece cuts even the most frequent words ("is" into a space
    and "is"): bad for CTC, whose tokens then are shorter than a frame. Seen so often, a word stays whole.
    """
    # A piece of sentencepiece holds no punctuation, so "don't" is never whole.
    words = (word.strip(string.punctuation) for line in lines for word in line.split())
    counts = collections.Counter(word for word in words if word.isalpha())
    if n > len(counts):
        raise UserError(f"whole_words is {n}, but the text has {len(counts)} different words")
    words = sorted(counts, key=lambda w: (-counts[w], w))[:n]
    found = []
    for _ in range(copies if n else 0):
        rng.shuffle(words)
        found += [" ".join(words[i : i + length]) for i in range(0, n, length)]
    return found


def train_tokenizer(text_files, vocab_size, out_dir, seed=1, whole_words=0, reserved=()):
    """Train a tokenizer on plain texts and write it to `out_dir`: tokenizer.json, sentencepiece's tokenizer.model.

    Args:
        vocab_size: number of pieces, with `<unk> <s> </s> <pad> <blank>` (ids 0..4; `<blank>` is never produced by
            text: the row a CTC blank or filler uses) and the roles of the prompt, which are one token each.
        seed: draws the lines used when there are more than MAX_LINES.
        whole_words: most frequent words that are one piece each.
        reserved: further special tokens, ids 5 and up, such as the "<N>" between interleaved segments.
    Every printable ASCII character and every character of the text is a piece; others are `<unk>`.
    No token is added at the start or end of a text. True, or False if `out_dir` was trained like this before.
    Raises UserError when it was trained otherwise, or the text does not suit `vocab_size`.
    """
    import sentencepiece

    options = {"vocab_size": vocab_size, "user_symbols": ROLES, "seed": seed, "whole_words": whole_words}
    inputs = {f"text {i}": path for i, path in enumerate(text_files, 1)}
    made = Made(out_dir, inputs, **options, reserved=reserved, tools=versions("sentencepiece"))
    if made.done("delete {out}, and all that was trained with it, to train again, or give the former settings"):
        return False
    lines = read_lines(text_files)
    if len(lines) > MAX_LINES:
        lines = random.Random(seed).sample(lines, MAX_LINES)
    lexicon = lexicon_lines(lines, whole_words, random.Random(seed))
    check_free(out_dir)
    tmp = str(beside(out_dir, "new"))
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines + lexicon),
            model_prefix=os.path.join(tmp, "tokenizer"),
            vocab_size=vocab_size,
            model_type="unigram",
            normalization_rule_name="identity",
            character_coverage=1.0,
            required_chars=PRINTABLE,
            # ids are those of a new LM; the space mark makes "USER:" after a space one token
            unk_id=0, bos_id=1, eos_id=2, pad_id=3,
            unk_piece=UNK, bos_piece=BOS, eos_piece=EOS, pad_piece=PAD,
            control_symbols=[BLANK_TOKEN, *reserved],
            user_defined_symbols=[SPACE + role for role in ROLES],
            max_sentence_length=1 << 20,
            num_threads=1,  # the sums of EM, and so the pieces, depend on the number of threads
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as err:
        shutil.rmtree(tmp)
        raise UserError(f"cannot train {vocab_size} pieces from {len(lines)} lines: {err}; change vocab_size") from None
    os.remove(os.path.join(tmp, "tokenizer.vocab"))
    fast = convert(os.path.join(tmp, SP_MODEL))
    cut = [w for w in dict.fromkeys(" ".join(lexicon).split()) if len(fast.encode(w, add_special_tokens=False)) != 1]
    if cut:
        shutil.rmtree(tmp)
        raise UserError(
            f"{len(cut)} of {whole_words} whole words do not fit into {vocab_size} pieces "
            f"({', '.join(sorted(cut)[:5])}); raise vocab_size or lower whole_words"
        )
    fast.save_pretrained(tmp)
    made.note(["tokenizer.json", SP_MODEL], at=tmp)
    os.replace(tmp, out_dir)
    return True


def fitting_sizes(lines, vocab_size, whole_words, sample=20_000):
    """Return (vocab_size, whole_words) nearest to those asked for with which `train_tokenizer` takes `lines`.

    Found by training on at most `sample` lines. There must be at least one piece a character and no more pieces than
    the text has substrings that repeat. A word seen once is no whole word: text without spaces has no other words.
    """
    lines = [" ".join(line.split()) for line in lines][:sample]
    counts = collections.Counter(word.strip(string.punctuation) for line in lines for word in line.split())
    whole_words = min(whole_words, sum(n > 1 and word.isalpha() for word, n in counts.items()))
    # Special tokens, symbols of the prompt and the space mark are pieces too.
    fewest = len(set("".join([PRINTABLE, *lines])) - {" "}) + 8
    vocab_size = max(vocab_size, fewest + whole_words)
    most = math.inf
    with tempfile.TemporaryDirectory() as room:
        text = os.path.join(room, "text")
        with open(text, "w", encoding="utf-8") as f:
            f.writelines(line + "\n" for line in lines)
        while True:
            try:
                train_tokenizer([text], vocab_size, os.path.join(room, "tokenizer"), whole_words=whole_words)
                return vocab_size, whole_words
            except UserError as err:
                # Sentencepiece says how many it can make; else the whole words are what does not fit.
                limit = re.search(r"value <= (\d+)", str(err))
                if limit and int(limit[1]) < vocab_size:
                    vocab_size = most = int(limit[1])
                elif whole_words and 2 * vocab_size <= most:
                    vocab_size *= 2
                elif whole_words:
                    whole_words //= 2
                else:
                    raise


def convert(model_file):
    """The Hugging Face fast tokenizer that equals a sentencepiece model made by `train_tokenizer`.

    Equal for all text but the literal names of special tokens ("</s>"): it reads the tokens.
    """
    import sentencepiece
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    sp = sentencepiece.SentencePieceProcessor(model_file=model_file)
    pieces = [sp.id_to_piece(i) for i in range(len(sp))]
    scores = [sp.get_score(i) for i in range(len(sp))]
    special = [i for i in range(len(sp)) if sp.is_control(i) or sp.is_unknown(i)]
    # user symbols are the only other pieces without a score; sentencepiece gives them this one
    user = {i for i in range(len(sp)) if scores[i] == 0.0} - set(special)
    best = max(s for i, s in enumerate(scores) if i not in user and i not in special)
    for i in user:
        scores[i] = len(pieces[i].encode()) * best - 0.1

    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores)), unk_id=sp.unk_id()))
    # sentencepiece's order of treating spaces, so that even a literal space mark is read alike
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("^ +"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Replace(Regex(f"[ {SPACE}]+$"), ""),
            normalizers.Prepend(" "),
            normalizers.Replace(" ", SPACE),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens([pieces[i] for i in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        extra_special_tokens=[pieces[i] for i in special if pieces[i] not in (UNK, BOS, EOS, PAD)],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def unigram_scores(tokenizer):
    """{piece: log probability} of a unigram Hugging Face tokenizer; None for other kinds."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] != "Unigram":
        return None
    special = set(tokenizer.all_special_tokens)
    return {piece: score for piece, score in model["vocab"] if piece not in special}
