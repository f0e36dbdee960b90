"""Trimmed LLMs: what is kept is as before, and any text can be written."""

import json
import math
import random
import unicodedata
from collections import Counter
from pathlib import Path

import families
import pytest
import standins
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made
from espnet_llmvq.cli.lm.trim import main
from espnet_llmvq.llm.directory import load_llm, load_tokenizer
from espnet_llmvq.llm.pieces import Pieces
from espnet_llmvq.llm.trim import check_model, choose, count, cut_model, encode, trim

LINES = [
    "one two three",
    "The patient said hello.",
    "four five six, seven",
    "transcribe speech into text",
    "Was that all?",
]
HELD_OUT = ["eight nine zero", "one two three", "Doctor, the bank account", "Zażółć 漢字 😀"]
ODD = "aZ09 '\".,<>\n\t\r\u00a0\u2581\u3000éżßøåΩжשلन漢字한글🙂👩\u200d🚀\u0301\u0300\u200b\ufeff\U0010ffff\x00\x7f"


def gemma(path):
    """Like Gemma 3: scaled embeddings and capped logits, a token of pictures without a row, hundreds of unused ones."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import AddedToken, Gemma3ForCausalLM, Gemma3TextConfig, GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{b:02X}>" for b in range(256))]
    base = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=pieces, initial_alphabet=["\u2581", *"漢字é"])
    base.train_from_iterator([w for word in standins.WORDS for w in (f"\u2581{word}", word.title())] * 3, trainer)
    merges = [tuple(pair) for pair in json.loads(base.to_str())["model"]["merges"]]
    whole = GemmaTokenizer(base.get_vocab(), merges)
    whole.add_tokens([AddedToken(f"<unused{i}>", normalized=False, special=i % 2 == 0) for i in range(99)])
    rows = len(whole)
    whole.add_special_tokens({"extra_special_tokens": ["<image_soft_token>"]})
    whole._tokenizer.post_processor = _template("<bos>", 2)
    whole.save_pretrained(path)
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=rows, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=512, final_logit_softcapping=30.0, initializer_range=0.3,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(path)
    return str(path)


def _template(name, i):
    from tokenizers import processors

    return processors.TemplateProcessing(f"{name} $A", f"{name} $A {name} $B", [(name, i)])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("\n".join(LINES) + "\n")
    return str(path)


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma", "unigram"])
def pair(request, tmp_path_factory, texts):
    """(whole, trimmed) LLM directories."""
    room = tmp_path_factory.mktemp("trim")
    make = {"qwen2": standins.qwen2, "llama": standins.llama, "gemma": gemma}.get(request.param)
    whole = make(room / "whole") if make else request.getfixturevalue("llm_dir")
    assert trim(whole, [texts], str(room / "trimmed"))
    return whole, str(room / "trimmed")


def random_texts(n, seed=1):
    """Words that are kept, words that are not, and letters of all kinds, with any spaces."""
    rng = random.Random(seed)
    words = [*" ".join(LINES).split(), *standins.WORDS]
    for _ in range(n):
        parts = [rng.choice(words) if rng.random() < 0.4 else rng.choice(ODD) for _ in range(rng.randint(0, 12))]
        yield rng.choice(["", " "]).join(parts)


def test_others_may_read_what_is_trimmed(pair):
    for file in Path(pair[1]).iterdir():
        assert file.stat().st_mode & 0o044 == 0o044, file.name


def test_texts_are_cut_as_before(pair):
    whole, cut = map(load_tokenizer, pair)
    assert len(cut) < len(whole)
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in Path(pair[1]).iterdir())  # others may read it
    kept, found = set(cut.get_vocab()), 0
    for line in [*LINES, *(f" {line}" for line in LINES), *random_texts(500)]:
        pieces = whole.tokenize(line)
        if line.strip() in LINES or kept.issuperset(pieces):
            assert cut.tokenize(line) == pieces
            found += 1
    assert found > len(LINES) * 2 + 20


def test_any_text_is_written_and_read_as_before(pair):
    whole, cut = map(load_tokenizer, pair)
    for line in [*HELD_OUT, *random_texts(500, 2)]:
        read = cut.decode(cut.encode(line, add_special_tokens=False))
        assert read == whole.decode(whole.encode(line, add_special_tokens=False))
        if "qwen2" in type(whole).__name__.lower():
            assert read == unicodedata.normalize("NFC", line)
        elif "Gemma" in type(whole).__name__:
            assert read == line.replace("\u2581", " ")


@torch.no_grad()
def test_logits_of_kept_tokens_are_as_before(pair):
    (whole, cut), (llm, trimmed) = map(load_tokenizer, pair), map(load_llm, pair)
    old = whole.get_vocab()
    rows = [old[name] for name, _ in sorted(cut.get_vocab().items(), key=lambda item: item[1])]
    assert trimmed.config.vocab_size == len(rows) == len(cut)
    for line in LINES:
        expected = llm(torch.tensor([whole.encode(line)])).logits[0][:, rows]
        assert expected.std() > 0.1
        torch.testing.assert_close(trimmed(torch.tensor([cut.encode(line)])).logits[0], expected, rtol=0, atol=1e-5)


def test_special_tokens_have_their_new_ids_everywhere(pair):
    from transformers import GenerationConfig

    whole, cut = map(load_tokenizer, pair)
    vocab = cut.get_vocab()
    assert set(cut.all_special_tokens) == set(whole.all_special_tokens) - {"<image_soft_token>"}
    assert cut.all_special_ids == [vocab[name] for name in cut.all_special_tokens]
    # those that are put in front of a text
    assert cut.convert_ids_to_tokens(cut.encode("one")) == whole.convert_ids_to_tokens(whole.encode("one"))

    def names(tokenizer, config):
        found = {}
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(config, key)
            found[key] = tokenizer.convert_ids_to_tokens([value] if isinstance(value, int) else value or [])
        return found

    before, after = map(load_llm, pair)
    assert names(whole, before.config) == names(cut, after.config)
    before, after = map(GenerationConfig.from_pretrained, pair)
    assert names(whole, before) == names(cut, after)
    if whole.chat_template:
        turns = [{"role": "user", "content": "one two three"}]
        before, after = (
            t.convert_ids_to_tokens(t.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])
            for t in (whole, cut)
        )
        assert after == before


def test_unused_tokens_and_tokens_without_row_go(tmp_path, texts):
    trim(gemma(tmp_path / "whole"), [texts], str(tmp_path / "cut"))
    assert not [
        name for name in load_tokenizer(str(tmp_path / "cut")).get_vocab() if name.startswith(("<unused", "<im"))
    ]


@pytest.mark.parametrize("family", families.FAMILIES)
@torch.no_grad()
def test_models_of_all_families_are_cut(family):
    llm, kept = families.make(family), [0, 1, 2, 3, 5, 8, 13, 21, 34, 39]
    check_model(llm, family)
    ids = [1, 5, 39, 21, 2]
    expected = llm(torch.tensor([ids])).logits[0][:, kept]
    llm.generation_config.suppress_tokens = [39, 5]
    cut_model(llm, kept)
    found = llm(torch.tensor([[kept.index(i) for i in ids]])).logits[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert llm.config.vocab_size == len(kept)
    assert llm.generation_config.suppress_tokens == [9, 4]


def cut_by(whole, lines, size=None):
    """The tokenizer that is left of a whole one."""
    from transformers import PreTrainedTokenizerFast

    pieces = Pieces(whole)
    kept = choose(pieces, pieces.always(whole), count(whole, lines), len(whole), size)
    new = {i: n for n, i in enumerate(sorted(kept, key=lambda i: (i not in pieces.names, i)))}
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(pieces.cut(new))))


def test_a_unigram_tokenizer_with_bytes():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), *((f"<0x{b:02X}>", 0.0) for b in range(256)), ("\u2581", -2.0), ("漢", -40.0)]
    pieces += [("x", -15.0), ("a", -15.0), ("aж", -15.0), ("xa", -1.0), ("ж", -39.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    cut = cut_by(whole, ["xaж xa"])
    assert "ж" not in cut.get_vocab()
    # Bytes for "ж" are no cheaper than "ж" was: "xa" and bytes would else be better.
    assert cut.tokenize("xaж") == whole.tokenize("xaж") == ["x", "aж"]
    assert cut.tokenize("xa ж") == ["xa", "\u2581", "<0xD0>", "<0xB6>"]
    for line in random_texts(300, 3):
        assert cut.decode(cut.encode(line)) == line.replace("\u2581", " ")


def test_letters_alone_write_any_text(pair):
    whole = load_tokenizer(pair[0])
    cut = cut_by(whole, [])
    assert len(cut) < len(load_tokenizer(pair[1]))
    for line in random_texts(300, 4):
        read = cut.decode(cut.encode(line, add_special_tokens=False))
        assert read == whole.decode(whole.encode(line, add_special_tokens=False))


def test_words_that_merges_do_not_reach_and_special_tokens_without_a_name(tmp_path):
    """Llama 3 looks up whole words first (ignore_merges), and has special tokens that nothing names."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(load_tokenizer(standins.qwen2(tmp_path / "whole")).backend_tokenizer.to_str())
    state["model"]["ignore_merges"] = True
    spare = {**state["added_tokens"][-1], "content": "<|fim_prefix|>", "id": len(state["model"]["vocab"]) + 4}
    state["model"]["vocab"]["Ġqqq"] = spare["id"] - 1  # behind the added tokens
    state["added_tokens"].append(spare)
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    lines = [*LINES, "one qqq two"]
    cut = cut_by(whole, lines)
    assert "<|fim_prefix|>" in cut.get_vocab() and cut.tokenize("<|fim_prefix|>") == ["<|fim_prefix|>"]
    assert sorted(cut.get_vocab().values()) == list(range(len(cut)))
    assert "Ġqqq" in cut.tokenize(lines[-1])
    for line in lines:
        assert cut.tokenize(line) == whole.tokenize(line)


@pytest.mark.parametrize("make", [standins.qwen2, standins.llama])
def test_the_most_frequent_tokens_are_kept_with_all_on_their_way(make, tmp_path):
    whole = load_tokenizer(make(tmp_path / "whole", vocab=500, rows=500))
    lines = ["transcribe"] * 9 + ["patient"] * 5 + ["seven eight nine zero"]
    smallest = len(cut_by(whole, [""]))
    cut = cut_by(whole, lines, smallest + 25)
    assert len(cut) <= smallest + 25
    assert cut.tokenize("transcribe") == whole.tokenize("transcribe")
    assert len(cut.tokenize("seven eight nine zero")) > len(whole.tokenize("seven eight nine zero"))
    merges = json.loads(cut.backend_tokenizer.to_str())["model"]["merges"]
    assert all({a, b, a + b} <= cut.get_vocab().keys() for a, b in merges)
    with pytest.raises(UserError, match=rf"--size 20: .* are {smallest}; give more"):
        cut_by(whole, lines, 20)


def test_counts_are_of_lines_with_and_without_a_space(tmp_path):
    whole = load_tokenizer(standins.qwen2(tmp_path / "whole"))
    expected = Counter(i for text in ("one", " one", "two", " two") for i in whole.encode(text))
    assert count(whole, ["one", "two"]) == expected


def test_command(tmp_path, texts, capsys):
    whole, out, held_out = standins.llama(tmp_path / "whole"), tmp_path / "out", tmp_path / "held_out"
    held_out.write_text("\n".join(HELD_OUT) + "\n", encoding="utf-8")
    (tmp_path / "whole/LICENSE.txt").write_text("terms")
    Made(whole, model="whole").note(licence="Terms, https://terms")  # as `models get` does
    command = ["--llm", whole, "--texts", texts, "--out", str(out), "--held_out"]
    main([*command, str(held_out)])
    said = json.loads((out / "trim.json").read_text())
    printed = capsys.readouterr().out
    assert (out / "LICENSE.txt").read_text() == "terms"
    assert Made(out).facts()["licence"] == "Terms, https://terms"

    before, after = load_tokenizer(whole), load_tokenizer(str(out))
    llm, trimmed = load_llm(whole), load_llm(str(out))
    assert said["rows"] == [len(before), len(after)]
    assert said["parameters"] == [sum(p.numel() for p in m.parameters()) for m in (llm, trimmed)]
    assert f"{len(after)} of {len(before)} rows" in printed
    lengths = [[len(before.tokenize(line)), len(after.tokenize(line))] for line in LINES]
    assert said["texts"] == {
        "lines": 5, "as_before": 5, "tokens": list(map(sum, zip(*lengths))), "others": [0, 0], "in_bytes": 0,
        "first_in_bytes": None,
    }  # fmt: skip
    row = said["held_out"][str(held_out)]
    same = [before.tokenize(line) == after.tokenize(line) for line in HELD_OUT]
    assert row["as_before"] == sum(same) and same[1] and not all(same)
    lengths = [[len(before.tokenize(line)), len(after.tokenize(line))] for line in HELD_OUT]
    assert row["tokens"] == list(map(sum, zip(*lengths)))
    assert row["others"] == list(map(sum, zip(*(n for n, s in zip(lengths, same) if not s))))
    assert f"{sum(same)} of 4 lines are cut as before" in printed

    for i, (model, tokenizer) in enumerate([(llm, before), (trimmed, after)]):
        nats = 0.0
        for line in HELD_OUT:  # each alone, by transformers' own loss
            ids = torch.tensor([[1, *encode(tokenizer, [line])[0]]])
            with torch.no_grad():
                nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        words, characters = sum(len(x.split()) for x in HELD_OUT), sum(map(len, HELD_OUT))
        assert row["perplexity"]["per_word"][i] == pytest.approx(math.exp(nats / words), rel=1e-4)
        assert row["perplexity"]["per_character"][i] == pytest.approx(math.exp(nats / characters), rel=1e-4)

    # It is there; other held-out text changes the report alone.
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    main([*command, str(held_out)])
    assert capsys.readouterr().out == printed
    main([*command, texts])
    changed = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert changed - {".llmvq-written"} == {"trim.json", "trim.json.made.json"}
    with pytest.raises(UserError, match="was made otherwise .size: None then, 400 now.; delete .* or give the former"):
        main([*command[:-1], "--size", "400"])


def test_the_directory_of_others_stays(tmp_path, texts):
    whole, out = standins.llama(tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(UserError, match="it is not known how"):
        trim(whole, [texts], str(out))
    with pytest.raises(UserError, match="is in the LLM directory"):
        trim(whole, [texts], f"{whole}/trimmed")
    with pytest.raises(UserError, match="text file .*gone"):
        trim(whole, [str(tmp_path / "gone")], str(tmp_path / "out2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert [path.name for path in out.iterdir()] == ["mine"]


def changed(directory, change):
    """Change the tokenizer.json of a directory."""
    path = Path(directory) / "tokenizer.json"
    state = json.loads(path.read_text())
    change(state["model"])
    path.write_text(json.dumps(state))
    return str(directory)


def without_byte(model):
    model["vocab"]["another"] = model["vocab"].pop("<0x41>")


def of_words(model):
    model["end_of_word_suffix"] = "</w>"


@pytest.mark.parametrize("change, reason", [(without_byte, "no piece for byte 0x41"), (of_words, "place in a word")])
def test_tokenizers_that_are_refused(change, reason, tmp_path, texts):
    whole = changed(standins.llama(tmp_path / "whole"), change)
    with pytest.raises(UserError, match=f"whole: its tokenizer cannot be trimmed: .*{reason}"):
        trim(whole, [texts], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_kinds_of_tokenizers_are_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

    pieces = {"[UNK]": 0, "a": 1, "##b": 2}
    word_piece = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece(pieces, unk_token="[UNK]")))
    unigram = models.Unigram([("<unk>", 0.0), ("a", -1.0), ("ab", -2.0)], unk_id=0)
    for tokenizer, reason in [
        (word_piece, "it is a WordPiece model"),
        (ByT5Tokenizer(), "ByT5Tokenizer is none of"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(unigram)), "single characters of its piece 'ab'"),
    ]:
        with pytest.raises(UserError, match=reason):
            Pieces(tokenizer)


def test_models_that_are_refused():
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {k: v for k, v in families.SIZES.items() if k != "max_position_embeddings"}
    config = AutoConfig.for_model(
        "gemma3n_text", **small, head_dim=8, hidden_size_per_layer_input=4, vocab_size_per_layer_input=30,
        num_kv_shared_layers=0, layer_types=["full_attention"] * 2, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 2,
    )  # fmt: skip
    with pytest.raises(UserError, match="Gemma3nForCausalLM cannot be trimmed: it has embeddings for each layer"):
        check_model(AutoModelForCausalLM.from_config(config), "DIR")
    llm = families.make("llama")
    llm.register_buffer("prior", torch.zeros(40))
    with pytest.raises(UserError, match="DIR: LlamaForCausalLM cannot be trimmed: prior has as many rows .* .40."):
        check_model(llm, "DIR")


def test_an_added_piece_of_a_unigram_model_keeps_its_place(tmp_path, llm_dir, texts):
    from transformers import AddedToken

    whole = load_tokenizer(llm_dir)
    whole.add_tokens([AddedToken("~", normalized=False)])  # which is one of its pieces
    load_llm(llm_dir).save_pretrained(tmp_path / "whole")
    whole.save_pretrained(tmp_path / "whole")
    assert trim(str(tmp_path / "whole"), [texts], str(tmp_path / "cut"))
    names, cut = whole.get_vocab(), load_tokenizer(str(tmp_path / "cut"))
    before, after = (load_llm(str(tmp_path / d)).get_input_embeddings().weight for d in ("whole", "cut"))
    for name, i in cut.get_vocab().items():
        assert torch.equal(after[i], before[names[name]]), name


def test_a_long_line_without_spaces_has_no_perplexity_a_word(tmp_path, llm_dir, texts, capsys):
    (tmp_path / "word").write_text("zq" * 200 + "\n")
    options = ["--llm", llm_dir, "--texts", texts, "--out", str(tmp_path / "cut")]
    main([*options, "--held_out", str(tmp_path / "word")])
    assert "perplexity per word: - before, - after" in capsys.readouterr().out
    (tmp_path / "long").write_text("one two " * 600 + "\n")
    with pytest.raises(UserError, match="long: every line is longer than the LLM's context"):
        main([*options, "--held_out", str(tmp_path / "long")])


def test_a_chat_template_that_refuses_is_named(tmp_path, llm_dir, texts):
    load_llm(llm_dir).save_pretrained(tmp_path / "whole")
    whole = load_tokenizer(llm_dir)
    whole.chat_template = "{{ raise_exception('no system message') }}"
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match="whole: its chat template .*no system message"):
        trim(str(tmp_path / "whole"), [texts], str(tmp_path / "cut"))
