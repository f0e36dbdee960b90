"""The fast tokenizer against sentencepiece itself."""

import filecmp
import random

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.tokenizer import fitting_sizes, read_lines, train_tokenizer

SYLLABLES = ["ba", "ring", "to", "el", "mis", "ter", "ka", "on", "shu", "le", "pra", "dy", "I'm"]


def sentences(n, seed):
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(300)]
    for _ in range(n):
        line = " ".join(rng.choices(words, k=rng.randint(1, 9)))
        yield line.capitalize() + rng.choice([".", "?", "!", "", ", é"])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text("\n".join(sentences(3000, 1)) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def directory(text, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("tok") / "tok")
    train_tokenizer([text], 250, out)
    return out


@pytest.fixture(scope="module")
def fast(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def test_ids_equal_sentencepiece(directory, fast):
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=f"{directory}/tokenizer.model")
    rng = random.Random(2)
    lines = list(sentences(2000, 3))
    odd = "abcring USER:,.'\"<>é漢字😀~\t\u2581\u00a0\u3000-0123    "
    lines += ["".join(rng.choices(odd, k=rng.randint(0, 50))) for _ in range(3000)]
    lines += [f" USER:  {a}   ASSISTANT: {b} " for a, b in zip(lines[:500], lines[2000:2500])]
    lines += ["", " ", "   ", "\u2581", "USER:", " USER: ", "USER: ", "xUSER:", "USER:x", "ASSISTANT:"]
    assert fast(lines, add_special_tokens=False)["input_ids"] == [sp.encode(x) for x in lines]
    assert len(fast) == len(sp) == 250


def test_round_trip(fast):
    lines = list(sentences(1000, 4)) + ["USER: Toring. ASSISTANT: Yes!", "#1 (at 50%) ~ {x}"]
    for line in lines:
        assert fast.decode(fast.encode(line)) == line  # also: encode adds nothing by itself


def test_special_tokens(fast):
    names = ["<unk>", "<s>", "</s>", "<pad>", "<blank>"]
    assert fast.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4]
    assert (fast.unk_token_id, fast.bos_token_id, fast.eos_token_id, fast.pad_token_id) == (0, 1, 2, 3)
    assert sorted(fast.all_special_ids) == [0, 1, 2, 3, 4]
    assert fast.decode([1, *fast.encode("ba to"), 4, 2], skip_special_tokens=True) == "ba to"
    assert fast.encode("漢")[-1] == 0


def test_user_symbols_are_one_token(fast):
    for text in ("USER:", "USER: ", " ASSISTANT:", " ASSISTANT: "):
        assert len(fast.encode(text)) == 1
    tokens = fast.convert_ids_to_tokens(fast.encode("USER: ba ASSISTANT: to"))
    assert tokens.count("\u2581USER:") == tokens.count("\u2581ASSISTANT:") == 1


def test_same_text_same_tokenizer(text, directory, tmp_path):
    out = str(tmp_path / "again")
    assert train_tokenizer([text], 250, out)
    assert filecmp.cmp(f"{directory}/tokenizer.json", f"{out}/tokenizer.json", shallow=False)
    assert not train_tokenizer([text], 250, out)
    with pytest.raises(UserError, match=r"again was made otherwise \(vocab_size: 250 then, 240 now\); delete .*again"):
        train_tokenizer([text], 240, out)
    assert filecmp.cmp(f"{directory}/tokenizer.json", f"{out}/tokenizer.json", shallow=False)


@pytest.mark.parametrize("size", [50, 100000])
def test_vocabulary_that_does_not_fit(text, tmp_path, size):
    with pytest.raises(UserError, match="change vocab_size"):
        train_tokenizer([text], size, str(tmp_path / "tok"))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_deleted(text, tmp_path):
    (tmp_path / "notes").write_text("keep")
    with pytest.raises(UserError, match="not known how"):
        train_tokenizer([text], 250, str(tmp_path))
    assert (tmp_path / "notes").read_text() == "keep"


def test_bad_text(tmp_path):
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    for name, message in (("empty", "no text"), ("latin", "UTF-8"), ("missing", "No such file")):
        with pytest.raises(UserError, match=message):
            read_lines([str(tmp_path / name)])


def test_whole_words_are_one_piece(text, tmp_path):
    lines = read_lines([text])
    counts = {}
    for word in " ".join(lines).split():
        word = word.strip(",.?!")
        counts[word] = counts.get(word, 0) + 1
    frequent = sorted(filter(str.isalpha, counts), key=lambda w: (-counts[w], w))[:120]
    pieces = {}
    for whole_words in (0, 120):
        out = str(tmp_path / f"tok{whole_words}")
        train_tokenizer([text], 250, out, whole_words=whole_words)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(out)
        pieces[whole_words] = [len(tokenizer.tokenize(word)) for word in frequent]
    assert max(pieces[120]) == 1 < max(pieces[0])


def test_too_many_whole_words(text, tmp_path):
    with pytest.raises(UserError, match="whole_words is 9999, but the text has .* different words"):
        train_tokenizer([text], 250, str(tmp_path / "a"), whole_words=9999)
    with pytest.raises(UserError, match="of 300 whole words do not fit into 150 pieces"):
        train_tokenizer([text], 150, str(tmp_path / "b"), whole_words=300)
    assert not any(tmp_path.iterdir())


def test_fitting_sizes(tmp_path):
    """What is returned can be trained; where it was lowered, one piece more could not."""
    digits = ["ZERO ONE TWO THREE FOUR", "FIVE SIX SEVEN", "EIGHT NINE ZERO"] * 20
    size, whole = fitting_sizes(digits, 800, 400)
    assert size < 800 and whole == 10  # all ten words of the text
    text = tmp_path / "text"
    text.write_text("\n".join(digits) + "\n")
    train_tokenizer([str(text)], size, str(tmp_path / "fits"), whole_words=whole)
    with pytest.raises(UserError, match="too high"):
        train_tokenizer([str(text)], size + 1, str(tmp_path / "more"), whole_words=whole)
    assert fitting_sizes(digits, size - 1, 3) == (size - 1, 3)
    # A piece for each of 900 characters, though 160 were asked for; words seen once are not whole words.
    han = ["".join(chr(0x4E00 + i) for i in range(a, a + 30)) for a in range(0, 900, 30)]
    size, whole = fitting_sizes(han, 160, 40)
    assert size > 900 and whole == 0
    text.write_text("\n".join(han) + "\n", encoding="utf-8")
    train_tokenizer([str(text)], size, str(tmp_path / "han"))
