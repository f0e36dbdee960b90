"""Which parameters train, and which modules stay in evaluation mode."""

import re

import torch

from espnet_llmvq.base.errors import UserError


def freeze(model, patterns):
    """Let parameters whose name matches a regular expression from the start not train. UserError for no match."""
    for pattern in patterns:
        matched = [p for name, p in model.named_parameters() if re.match(pattern, name)]
        if not matched:
            raise UserError(f"freeze: {pattern!r} matches no parameter")
        for p in matched:
            p.requires_grad = False


def check_precision(model):
    """Raise UserError for a parameter that trains in half precision: it would hardly move."""
    for name, p in model.named_parameters():
        if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16):
            raise UserError(
                f"llm_conf.dtype: {str(p.dtype).removeprefix('torch.')} is for frozen weights, and {name} trains: "
                "most steps of the optimizer are smaller than its rounding; leave dtype out (autocast is for speed), "
                "train LoRA (llm_conf.lora), or freeze the LLM (freeze: [llm])"
            )


def trains(module):
    """Whether a module has parameters that train."""
    return any(p.requires_grad for p in module.parameters())


def keep_frozen_in_eval(model, external):
    """Parts whose parameters are all frozen go back to eval mode, after `model` went to training mode.

    So does batch normalisation of a part that came from elsewhere (names that begin as `external` says): the pieces of
    interleaved sequences would move its statistics away from those of whole utterances.
    """
    for name, module in model.named_modules():
        if module is model:
            continue
        pretrained = isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and name.startswith(external)
        if pretrained or (any(True for _ in module.parameters()) and not trains(module)):
            module.eval()
