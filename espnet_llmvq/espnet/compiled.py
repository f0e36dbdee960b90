"""`compile_llm`: torch.compile for the layers of the LLM, in training only."""

import logging

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.llm.directory import layers_of

CHOICES = ("none", "auto", "layers")
# Of all layers together: one for each kind of layer, with and without mask, gradient, several rows. Torch's own 8 are
# few, and what comes behind them is not compiled.
VARIANTS = 64


def wanted(config, where="config"):
    """The value of `compile_llm` in a config (dict), one of CHOICES. Raises UserError for any other."""
    return check_name(f"compile_llm in {where}", config.get("compile_llm") or "none", CHOICES)


def compiler_fault(device):
    """Why torch compiles nothing for a device here, None where it can.

    Asked by compiling something: a C++ compiler without Python's headers, say, is not enough.
    """
    import torch

    try:
        x = torch.ones(8, 8, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() + x) * x, dynamic=True)(x).sum().backward()
    except Exception as err:  # torch has one of its own for each part of its compiler
        return next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)
    return None


def compile_layers(llm, choice, device="cpu"):
    """Have torch compile each layer of an LLM when it first runs: what is memory bound in it then takes one pass.

    Values are those of the plain layers but for rounding, which depends on the lengths that come first; dropout draws
    others. choice: `auto`: where that can be, and a layer that cannot be compiled runs as it is; `layers`: else a
    UserError.
    """
    import torch

    # Kernels have their number of threads in them, but torch finds those of another number on disk too.
    torch._inductor.config.cpp.threads = torch.get_num_threads()
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    layers = layers_of(llm)
    fault = compiler_fault(device) if layers else f"the layers of {type(llm).__name__} are not marked"
    if fault and choice == "layers":
        raise UserError(
            f"compile_llm: layers: torch cannot compile here ({fault}); install a C++ compiler and Python's headers, "
            "or leave it out"
        )
    if fault:
        logging.info(f"compile_llm: auto: nothing is compiled: {fault}")
        return
    torch._dynamo.config.suppress_errors = choice == "auto"
    logging.info(f"torch compiles {len(layers)} layers of the LLM: the first steps take up to some minutes")
    for layer in layers:
        layer.compile(dynamic=True)  # lengths differ from batch to batch
