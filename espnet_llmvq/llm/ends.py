"""The two ends of a causal LM of any family: what it gets for a token, and what it says after its last layer.

Families scale embeddings and logits in places of their own: Gemma multiplies rows of its table by sqrt(width) in the
embedding layer, Granite in the model's forward; Granite, Cohere and Gemma 2 scale or cap logits behind the output
layer. So the table is what the embedding layer gives, and logits are what the model's own forward makes of hidden
states.
"""

import contextlib
import copy
import operator

import torch

CHUNK = 16384  # rows of a table that are looked up at once


def token_inputs(llm):
    """(V, H): what the LLM gets as `inputs_embeds` for each token; the table itself where that is all it is."""
    embed = llm.get_input_embeddings()
    if type(embed) is torch.nn.Embedding and embed.max_norm is None:
        return embed.weight
    with torch.no_grad():
        ids = torch.arange(embed.weight.shape[0], device=embed.weight.device)
        return torch.cat([embed(part) for part in ids.split(CHUNK)])


class Said(tuple):
    """Output of a decoder: hidden states, and None for what families ask of it besides (caches, routers of experts)."""

    last_hidden_state = property(operator.itemgetter(0))

    def __getattr__(self, name):
        return None


class Given(torch.nn.Module):
    """In place of a decoder: its inputs are its hidden states. Numbers that the output end reads are the decoder's."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder_of = (decoder,)  # in a tuple, so that it is no part of this module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["decoder_of"][0], name)

    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        return Said((inputs_embeds,))


def output_end(llm):
    """The LLM without its decoder: a shallow copy, with the same weights, whose decoder is `Given`."""
    decoder = llm.get_decoder()
    name = next(name for name, module in llm.named_modules() if module is decoder)
    top = module = copy.copy(llm)
    *parents, last = name.split(".")
    for parent in parents:
        module._modules = {**module._modules, parent: copy.copy(module._modules[parent])}
        module = module._modules[parent]
    module._modules = {**module._modules, last: Given(decoder)}
    return top


def logits_of(llm, hidden):
    """Logits (N, V) of hidden states (N, H), as the forward of the whole model makes them: with its scales and caps."""
    return output_end(llm)(inputs_embeds=hidden[None], use_cache=False).logits[0]


@contextlib.contextmanager
def tried(llm):
    """The LLM in eval mode, without gradient. Each module gets its own mode back: what is frozen has another."""
    modes = {module: module.training for module in llm.modules()}
    llm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
