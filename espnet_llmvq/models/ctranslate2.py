"""Whisper from CTranslate2's format to a directory of transformers, without CTranslate2.

A `model.bin` is: version (6) as uint32, name of the specification, its revision and the number of tensors as uint32; of
each tensor its name, rank (uint8), shape (uint32 each), type (uint8), number of bytes (uint32) and bytes; then the
number of aliases and of each two names. A name has its length, with the zero byte at its end, before it as uint16.
Beside it are tokenizer.json, vocabulary.txt with a token a line, and config.json with what is not to be generated.
"""

import json
import re
import struct

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_json

VERSION, SPEC, REVISION = 6, "WhisperSpec", 3
TYPES = ("float32", "int8", "int16", "int32", "float16")  # by their codes
MULTILINGUAL_ROWS = 51865  # a table of fewer rows is of an English model
END, START = "<|endoftext|>", "<|startoftranscript|>"
# Names of CTranslate2 -> names of transformers; of what is one matrix there, several.
PARTS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": "encoder_attn.k_proj encoder_attn.v_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}
NAME = re.compile(rf"(encoder|decoder)/(?:layer_(\d+)/)?({'|'.join(PARTS)})/({'|'.join(KINDS)})")


def read(path):
    """{name: array} of a model.bin of Whisper. Raises UserError for another format, and for one that is cut."""

    def take(count):
        found = f.read(count)
        if len(found) < count:
            raise UserError(f"{path} is cut at byte {f.tell()}; get it again")
        return found

    def number(form):
        return struct.unpack(f"<{form}", take(struct.calcsize(form)))[0]

    def text():
        return take(number("H")).rstrip(b"\0").decode()

    with open(path, "rb") as f:
        if (version := number("I")) != VERSION:
            raise UserError(f"{path}: version {version} of CTranslate2's format; this program reads {VERSION}")
        if (found := (text(), number("I"))) != (SPEC, REVISION):
            raise UserError(f"{path} is of {found[0]}, revision {found[1]}; this program reads {SPEC}, {REVISION}")
        tensors = {}
        for _ in range(number("I")):
            name, shape = text(), [number("I") for _ in range(number("B"))]
            kind = number("B")
            if kind >= len(TYPES):
                raise UserError(f"{path}: {name} is of type {kind}, which this program does not know")
            tensors[name] = np.frombuffer(take(number("I")), TYPES[kind]).reshape(shape)
        for _ in range(number("I")):
            text(), text()  # the last layer's weight is the table's
        if f.read(1):
            raise UserError(f"{path}: more follows the last tensor; get it again")
    return tensors


def renamed(path, tensors):
    """{name in transformers: array} of the weights. Raises UserError for what has no place there."""
    found = {}
    for name, array in tensors.items():
        if not array.ndim:  # a setting
            continue
        place = NAME.fullmatch(name)
        if array.dtype not in (np.float16, np.float32) or not place:
            if array.dtype == np.int16 and name == "decoder/alignment_heads":
                continue
            raise UserError(f"{path}: {name} ({array.dtype}) is no weight of a Whisper model that is not quantised")
        room, layer, part, kind = place.groups()
        names = PARTS[part].split()
        for target, piece in zip(names, np.split(array, len(names))):
            if target.endswith("k_proj") and kind == "bias":  # Whisper's keys have none
                if piece.any():
                    raise UserError(f"{path}: {name} has a bias of keys; a Whisper model has none")
                continue
            where = f"layers.{layer}.{target}" if layer else target
            found[f"model.{room}.{where}.{KINDS[kind]}"] = piece
    return found


def model_config(tensors, weights, eos, start):
    """The `WhisperConfig` of the tensors. eos, start: ids of the tokens that end and begin a text."""

    def layers(room):
        return len({name.split("/")[1] for name in tensors if name.startswith(f"{room}/layer_")} - {"layer_norm"})

    def shape(name):
        return weights[f"model.{name}.weight"].shape

    rooms = {
        f"{room}_{key}": value
        for room in ("encoder", "decoder")
        for key, value in {
            "layers": layers(room),
            "attention_heads": int(tensors[f"{room}/num_heads"]),
            "ffn_dim": shape(f"{room}.layers.0.fc1")[0],
        }.items()
    }
    return WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        vocab_size=shape("decoder.embed_tokens")[0],
        d_model=shape("decoder.embed_tokens")[1],
        num_mel_bins=shape("encoder.conv1")[1],
        max_source_positions=shape("encoder.embed_positions")[0],
        max_target_positions=shape("decoder.embed_positions")[0],
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=eos,
        decoder_start_token_id=start,
        dtype="float32",
        **rooms,
    )


def write_tokenizer(source, out, rows):
    """Write the tokenizer; times, which tokenizer.json here lacks, come from vocabulary.txt. {special token: id}."""
    said = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = (source / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    special = {token["content"]: token["id"] for token in said["added_tokens"]}
    if len(vocabulary) != rows or any(vocabulary[i] != token for token, i in special.items()):
        raise UserError(
            f"{source / 'vocabulary.txt'} has other tokens than tokenizer.json, or not {rows}; get it again"
        )
    for i in range(max(special.values()) + 1, rows):
        as_it_is = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        said["added_tokens"].append({"id": i, "content": vocabulary[i], **as_it_is})
    write_json(out / "tokenizer.json", said)
    others = [token for token in special if token != END]
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
    WhisperTokenizer.from_pretrained(out, extra_special_tokens=others, **roles).save_pretrained(out)
    return special


def generation_config(source, special, multilingual):
    """The `GenerationConfig` that Whisper needs to recognise speech, from what CTranslate2 keeps of it."""
    said = json.loads((source / "config.json").read_text(encoding="utf-8"))
    languages = {f"<|{code}|>": special[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in special}
    several = {
        "lang_to_id": languages,
        "task_to_id": {task: special[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "task": "transcribe",
    }
    return GenerationConfig(
        alignment_heads=said["alignment_heads"],
        suppress_tokens=said["suppress_ids"],
        begin_suppress_tokens=said["suppress_ids_begin"],
        bos_token_id=special[END],
        eos_token_id=special[END],
        pad_token_id=special[END],
        decoder_start_token_id=special[START],
        prev_sot_token_id=special["<|startofprev|>"],
        no_timestamps_token_id=special["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        max_length=448,
        return_timestamps=False,
        is_multilingual=multilingual,
        **(several if multilingual else {}),
    )


def convert(path, source, out):
    """Write model.bin `path`, with what lies in `source`, as the directory `out` (both `Path`s).

    The weights stay float16, as nothing is lost by it, and config.json has them read as float32.
    """
    tensors = read(path)
    weights = renamed(path, tensors)
    rows = len(weights["model.decoder.embed_tokens.weight"])
    special = write_tokenizer(source, out, rows)
    config = model_config(tensors, weights, special[END], special[START])
    config.save_pretrained(out)
    generation_config(source, special, rows >= MULTILINGUAL_ROWS).save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def loss(directory, text):
    """Loss of `text` a token, in nats, when a tone that rises for two seconds is heard."""
    model, info = WhisperForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if wrong := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise UserError(f"{directory}: tensors of Whisper are missing or too many: {', '.join(wrong[:4])}")
    seconds = np.arange(32000) / 16000
    tone = 0.1 * np.sin(2 * np.pi * (200 + 500 * seconds) * seconds)
    heard = WhisperFeatureExtractor.from_pretrained(directory)(tone, sampling_rate=16000, return_tensors="pt")
    labels = WhisperTokenizer.from_pretrained(directory)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return model.eval()(heard.input_features, decoder_input_ids=labels[:, :-1], labels=labels[:, 1:]).loss.item()
