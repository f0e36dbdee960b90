"""Causal LMs as Hugging Face directories (or hub ids): one code path for embedded and pretrained ones."""

import functools
import json
import os
import types

from espnet_llmvq.base.errors import DOWNLOAD, UserError, reading
from espnet_llmvq.base.files import check_path
from espnet_llmvq.base.hub import check_attention, from_pretrained
from espnet_llmvq.llm.lora import add_lora

BLANK_TOKEN = "<blank>"
REMEDIES = {True: "remove it and make it again (stages 5 and 6), or download it again", False: DOWNLOAD}


def load_tokenizer(path):
    """The tokenizer of an LLM directory. Local paths never touch the network."""
    local = check_path(path, "tokenizer_config.json")
    from transformers import AutoTokenizer

    return from_pretrained(AutoTokenizer, path, local, REMEDIES[local])


class ConfigTokenizer:
    """In place of the tokenizer where an LLM directory has only config.json: as many tokens as table rows."""

    unk_token_id = None

    def __init__(self, path):
        self.rows, self.eos_token_id = table_rows(path), 0

    def __len__(self):
        return self.rows

    def convert_tokens_to_ids(self, token):
        return None


def tokenizer_or_config(path):
    """The tokenizer of an LLM directory, or what its config tells of it."""
    if check_path(path) and not os.path.exists(os.path.join(path, "tokenizer_config.json")):
        return ConfigTokenizer(path)
    return load_tokenizer(path)


def table_rows(path):
    """Rows of the embedding table of an LLM directory, from its config: no weights are read."""
    return _config(path).get_text_config().vocab_size


def context(config):
    """Most positions of an LLM, from its config (`PretrainedConfig`); None: no limit."""
    config = config.get_text_config()
    # MPT's table of biases has the other name.
    return getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))


def context_of(path):
    """`context` of an LLM directory, without transformers, which take seconds to load, where its config names it."""
    if check_path(path):
        file = os.path.join(path, "config.json")
        with reading(file, REMEDIES[True]), open(file, encoding="utf-8") as f:
            said = json.load(f).get("max_position_embeddings")
        if type(said) is int:
            return said
    return context(_config(path))


def _config(path):
    local = check_path(path)
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, path, local, REMEDIES[local])


def load_llm(path, dtype="float32", lora=None, gradient_checkpointing=False, attn_implementation=None, weights=True):
    """Load a causal LM, optionally with LoRA injected.

    Args:
        path: Hugging Face directory or hub id.
        dtype: torch dtype name of the frozen weights.
        lora: keyword arguments of `peft.LoraConfig` (r, lora_alpha, lora_dropout, target_modules), or
            None. LoRA weights are float32 and the only ones that train.
        attn_implementation: of transformers, such as "sdpa", "eager" or "flash_attention_2"; None: what it prefers.
        weights: false: config.json alone is read, and no attention implementation chosen.
    Returns the `PreTrainedModel`; with `lora`, all other parameters are frozen. What its generation_config.json says
    about searching (sampling, penalties) is dropped: the search is ours. Raises UserError.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, GenerationConfig

    from espnet_llmvq.llm.packing import needs_gpu
    from espnet_llmvq.llm.trial import check_llm

    local, config, dtype = check_path(path), _config(path), getattr(torch, dtype)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{path}: {config.model_type} is no causal LM of transformers; use another LLM")
    if weights:
        check_attention(config, attn_implementation)
        options = {"dtype": dtype, "attn_implementation": attn_implementation}
        try:
            llm = from_pretrained(AutoModelForCausalLM, path, local, REMEDIES[local], **options)
        except (ImportError, UserError) as err:
            if attn_implementation is None:
                raise
            first = str(err).splitlines()[0]
            raise UserError(f"llm_conf.attn_implementation: {attn_implementation}: {first}") from None
    else:
        with reading(path, REMEDIES[local]):
            llm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    llm = text_part(llm, path)
    if getattr(llm.config.get_text_config(), "hidden_size_per_layer_input", 0):
        raise UserError(
            f"{path}: {type(llm).__name__} gives each of its layers the token ids again (per-layer embeddings), and a "
            "step of speech has none; take another LLM"
        )
    ids = {name: getattr(llm.config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    llm.generation_config = GenerationConfig(**ids)
    if weights and not needs_gpu(llm):
        check_llm(llm, path)
    if lora:
        llm = add_lora(llm, lora)
    if gradient_checkpointing:
        recompute_layers(llm)
    return llm


def text_part(llm, path):
    """The causal LM in a model that takes images or sounds too: those parts would train, and get LoRA, without use."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    config, decoder = llm.config.get_text_config(), llm.get_decoder()
    if config is llm.config:
        return llm
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        with torch.device("meta"):
            alone = AutoModelForCausalLM.from_config(config, attn_implementation=config._attn_implementation)
        if type(alone.base_model) is type(decoder):
            setattr(alone, alone.base_model_prefix, decoder)
            head = llm.get_output_embeddings()
            alone.set_output_embeddings(head)
            # The whole says it of itself.
            alone.config.tie_word_embeddings = head.weight is decoder.get_input_embeddings().weight
            return alone
    raise UserError(f"{path}: the text part of a {type(llm).__name__} cannot be taken out of it; use another LLM")


def layers_of(llm):
    """The layers of an LLM, as transformers marks them; [] for an old family in which it does not."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_layers(llm):
    """Keep only the inputs of each layer for the gradient, and compute the rest again; values stay the same.

    Transformers does so in training mode only, in which layers of a frozen LLM may drop out. Raises UserError for an
    LLM without such layers.
    """
    layers = layers_of(llm)
    if not layers:
        raise UserError(f"llm_conf.gradient_checkpointing: {type(llm).__name__} cannot; leave it out")
    for layer in layers:
        # A method of its own, so that a copy of the layer runs with the weights of the copy.
        layer.forward = types.MethodType(_recomputed(type(layer).forward), layer)


def _recomputed(forward):
    import torch
    from torch.utils.checkpoint import checkpoint

    @functools.wraps(forward)
    def run(layer, *args, **kwargs):
        if torch.is_grad_enabled():
            return checkpoint(forward, layer, *args, use_reentrant=False, **kwargs)
        return forward(layer, *args, **kwargs)

    return run
