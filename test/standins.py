"""Small checkpoints with random weights and the true architecture and files of published models.

    python test/standins.py DIR         writes DIR/wavlm, whisper, qwen2, llama
    standins.wavlm(path), ...           one of them

Each directory is what `save_pretrained` writes of the real model: config.json, weights, and the preprocessor or the
tokenizer with its special tokens and chat template.
"""

import json
import os
import sys

# Words that the tokenizers are trained on; any text can be written with them.
WORDS = (
    "one two three four five six seven eight nine zero hello is good a the and to of in it you that he was for on are "
    "with as his they be at this have from or had by not but what all were when we there can an your which their said "
    "patient doctor bank account please transcribe speech into text user assistant system"
).split()
QWEN_CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# That of TinyLlama-Chat.
LLAMA_CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def wavlm(path, hidden=32, layers=3, **changes):
    """Like microsoft/wavlm-large: layer norm in the convolutions and before the blocks, normalised waveforms, 50 Hz."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    config = WavLMConfig(**{
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 2 * hidden,
        "conv_dim": [16] * 7, "conv_bias": False, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_buckets": 32, "max_bucket_distance": 80,
        "mask_time_prob": 0.075, "layerdrop": 0.1, "num_codevectors_per_group": 4, "codevector_dim": 8,
        "proj_codevector_dim": 8, "initializer_range": 0.1, **changes,
    })  # fmt: skip
    model = WavLMModel(config)
    # New ones are all zero, which would hide an error in them.
    for layer in model.encoder.layers:
        torch.nn.init.normal_(layer.attention.gru_rel_pos_linear.weight)
    torch.nn.init.normal_(model.encoder.layers[0].attention.rel_attn_embed.weight)
    model.save_pretrained(path)
    Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True, return_attention_mask=True
    ).save_pretrained(path)
    return str(path)


def whisper(path, hidden=32, layers=2, **changes):
    """Like openai/whisper-medium.en: 80 mel bands, a window of 30 s."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    config = WhisperConfig(**{
        "vocab_size": 64, "d_model": hidden, "encoder_layers": layers, "decoder_layers": 1,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 2 * hidden,
        "decoder_ffn_dim": 2 * hidden, "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 16,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3, "init_std": 0.1,
        **changes,
    })  # fmt: skip
    WhisperModel(config).save_pretrained(path)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(path)
    return str(path)


def whisper_recogniser(path, english=False, **changes):
    """Like openai/whisper-base, or base.en if `english`, with its decoder and tokenizer; it writes letters and spaces.

    Its tokens are bytes, the marks of Whisper, and the times of its windows. English and French are its languages.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    written, end = (
        [i for i, token in enumerate(tokens) if token == "\u0120" or (token.isascii() and token.isalpha())],
        256,
    )
    names = "endoftext startoftranscript en fr translate transcribe startoflm startofprev nospeech notimestamps".split()
    marks = {name: end + i for i, name in enumerate(names)}
    tokenizer = WhisperTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<|endoftext|>", task="transcribe",
        language=None if english else "en", extra_special_tokens=[f"<|{name}|>" for name in names],
    )  # fmt: skip
    tokenizer.add_tokens([f"<|{i / 50:.2f}|>" for i in range(1501)])
    tokenizer.save_pretrained(path)
    WhisperFeatureExtractor().save_pretrained(path)
    torch.manual_seed(0)
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": end + 1}
    model = WhisperForConditionalGeneration(WhisperConfig(**{
        "vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "init_std": 0.5,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "max_target_positions": 40, **ids, **changes,
    }))  # fmt: skip
    # What it hears counts, times are written where they are asked for, and texts end.
    rows = torch.nn.functional.normalize(model.proj_out.weight.data)
    rows[end] = 0.8 * (rows[tokens.index("J")] + rows[tokens.index("y")])
    rows[end + len(names) :] *= 0.1
    model.proj_out.weight.data.copy_(rows)
    model.model.decoder.embed_positions.weight.data *= 2
    for layer in model.model.decoder.layers:
        layer.encoder_attn.out_proj.weight.data *= 8
    known = {"lang_to_id": {f"<|{code}|>": marks[code] for code in ("en", "fr")}, "is_multilingual": not english,
             "task_to_id": {task: marks[task] for task in ("transcribe", "translate")}}  # fmt: skip
    model.generation_config = GenerationConfig(
        **ids, **(known if not english else {"is_multilingual": False}), max_length=40,
        suppress_tokens=[i for i in range(end + len(names)) if i not in (*written, end)],
        begin_suppress_tokens=[end], no_timestamps_token_id=marks["notimestamps"], return_timestamps=False,
        prev_sot_token_id=marks["startofprev"], max_initial_timestamp_index=50,
    )  # fmt: skip
    model.save_pretrained(path)
    return str(path)


def qwen2(path, hidden=32, layers=2, vocab=400, rows=448, **changes):
    """Like Qwen2.5-0.5B-Instruct: tied embeddings with more rows than there are tokens, byte-level BPE, no begin token.

    Its generation_config.json asks for sampling and a repetition penalty, as that of the real one does.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(marks), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"{w} {w.title()} {w}" for w in WORDS] * 3, trainer)
    tokenizer.add_special_tokens(marks)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=marks[1:2],
        clean_up_tokenization_spaces=False, chat_template=QWEN_CHAT,
    )  # fmt: skip
    made.save_pretrained(path)
    torch.manual_seed(0)
    eos, pad = made.eos_token_id, made.pad_token_id
    config = Qwen2Config(**{
        "vocab_size": rows, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 2 * hidden, "max_position_embeddings": 512,
        "tie_word_embeddings": True, "eos_token_id": eos, "bos_token_id": pad, "initializer_range": 0.2, **changes,
    })  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1, eos_token_id=[eos, pad],
        pad_token_id=pad, bos_token_id=pad,
    )  # fmt: skip
    model.save_pretrained(path)
    return str(path)


def llama(path, hidden=32, layers=2, vocab=400, words=WORDS, **changes):
    """Like TinyLlama-1.1B-Chat: untied embeddings, sentencepiece BPE with bytes, begin token, no padding token.

    words: what the tokenizer is trained on. Of others each letter is a token, too many for CTC on short audio.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    base = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    base.normalizer = normalizers.Sequence(spaces)
    alphabet = [chr(c) for c in range(33, 127)] + ["\u2581"]
    pieces = special + [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=pieces, initial_alphabet=alphabet, show_progress=False
    )
    base.train_from_iterator([w for word in words for w in (word, word.title())] * 3, trainer)
    base.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # The bytes were special in the training only, so that they have their rows.
    merges = [tuple(pair) for pair in json.loads(base.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(base.get_vocab(), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer, tokenizer.decoder = base.normalizer, base.decoder
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        clean_up_tokenization_spaces=False, chat_template=LLAMA_CHAT,
    ).save_pretrained(path)  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(**{
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 2 * hidden,
        "max_position_embeddings": 512, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": None, "initializer_range": 0.2, **changes,
    })  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


ALL = {"wavlm": wavlm, "whisper": whisper, "qwen2": qwen2, "llama": llama}


if __name__ == "__main__":
    for kind, make in ALL.items():
        print(make(os.path.join(sys.argv[1], kind)))
