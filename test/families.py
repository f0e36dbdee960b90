"""Tiny random causal LMs of many families, far from the small weights of the start, where all texts are alike."""

SIZES = dict(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    intermediate_size=24, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=3,
)  # fmt: skip
OLD = dict(
    vocab_size=40, hidden_size=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2, pad_token_id=3
)
GRANITE = dict(SIZES, embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, attention_multiplier=0.1)
# By transformers' model type. Scales and caps are as large as those of the published models.
FAMILIES = {
    **dict.fromkeys(
        ("llama", "qwen2", "qwen3", "mistral", "phi", "phi3", "olmo2", "gpt_neox", "stablelm", "mixtral", "starcoder2",
         "smollm3", "glm4"), SIZES,
    ),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), {**SIZES, "head_dim": 8, "final_logit_softcapping": 3.0}),
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "cohere": {**SIZES, "logit_scale": 0.0625},
    "cohere2": {**SIZES, "logit_scale": 0.25},
    "minicpm3": {**SIZES, "scale_emb": 12},
    "opt": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 8},
    "gpt2": OLD,
    "bloom": OLD,
    "falcon": {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
}  # fmt: skip


class Ends:
    """A tokenizer as a search asks for it."""

    added_tokens_decoder = {}

    def __init__(self, size, eos, pad):
        self.size, self.eos_token_id, self.pad_token_id, self.all_special_ids = size, eos, pad, [eos]

    def __len__(self):
        return self.size


def make(family, seed=0):
    """A random model of a family in eval mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()
    for parameter in llm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return llm
