"""LoRA by peft, in an LLM that is otherwise frozen."""

import collections

from espnet_llmvq.base.errors import UserError

# How LoRA weights may begin (peft's init_lora_weights): with no more than themselves.
INITIALISATIONS = (True, False, "gaussian", "orthogonal")


def add_lora(llm, options):
    """Put LoRA into an LLM, with keyword arguments of `peft.LoraConfig`; all that peft does not train is then frozen.

    LoRA weights are float32 whatever the LLM is. Raises UserError.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    begin = options.get("init_lora_weights", True)
    if begin not in INITIALISATIONS:
        raise UserError(
            f"llm_conf.lora: init_lora_weights {begin!r} would change the LLM's own weights or needs data of its own, "
            "but these are read from its directory again wherever the model is loaded, and checkpoints do not hold "
            f"them; use one of {', '.join(map(str, INITIALISATIONS))}"
        )
    if options.get("megatron_config"):
        raise UserError("llm_conf.lora: megatron_config would import a module by its name, and is not supported")
    try:
        llm = inject_adapter_in_model(LoraConfig(task_type="CAUSAL_LM", **options), llm)
    except (TypeError, ValueError) as err:
        raise UserError(f"llm_conf.lora: {str(err).splitlines()[0]}") from None
    for name, p in llm.named_parameters():
        if p.requires_grad and "lora_" in name:
            p.data = p.data.float()  # peft gives them the precision of the frozen weights
        elif p.requires_grad and p.dtype != torch.float32:
            raise UserError(
                f"llm_conf.lora: {name} would train in {str(p.dtype).removeprefix('torch.')}, in which small steps are "
                "lost; set llm_conf.dtype: float32, or leave out modules_to_save, trainable_token_indices and bias"
            )
    return llm


def merge_lora(llm):
    """Add what LoRA has learnt to the LLM's own weights, in their place. Returns the LLM, also without LoRA.

    Beside a weight that two layers share, as tied embeddings, it stays: the other one has none of it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    uses = collections.Counter(id(p) for _, p in llm.named_parameters(remove_duplicate=False))
    for module in list(llm.modules()):
        # Layers without a weight of their own, such as experts in one tensor, keep LoRA beside them.
        if isinstance(module, BaseTunerLayer) and uses[id(getattr(module.get_base_layer(), "weight", None))] == 1:
            module.merge()
    return llm
