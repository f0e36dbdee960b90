"""Keys and values of prompts, computed once and shared by all that is written after them."""

from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from espnet_llmvq.llm.packing import takes_positions


def read_prompts(llm, inputs, mask):
    """Key-value cache of prompts up to their last position.

    inputs (B, P, H), padded on the left; mask (B, P). None for a P of 1: there is nothing to keep.
    """
    if inputs.shape[1] == 1:
        return None
    inputs, mask = inputs[:, :-1], mask[:, :-1]
    decoder, cache, where = llm.get_decoder(), DynamicCache(config=llm.config), {}
    if takes_positions(decoder):
        where["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    decoder(inputs_embeds=inputs, attention_mask=mask, past_key_values=cache, use_cache=True, **where)
    return cache


class BeamLayer(DynamicLayer):
    """One layer for the beams of a search: prompts are in it once a beam and stay where they are.

    transformers' own copies everything twice a step, to append a token and to follow the beams. Here a token is written
    into room kept for it, and beams, which never leave their prompt, take with them only what they have written.

    layer: with the prompts, (B, heads, P, D). times: beams of each. room: most tokens written.
    """

    def __init__(self, layer, times, room):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.prompt = layer.get_seq_length()
        self.held = []
        for states in (layer.keys, layer.values):
            b, heads, _, d = states.shape
            held = states.new_empty(b * times, heads, self.prompt + room, d)
            held[:, :, : self.prompt] = states.repeat_interleave(times, dim=0)
            self.held.append(held)
        self._show(self.prompt)

    def _show(self, length):
        self.keys, self.values = (held[:, :, :length] for held in self.held)

    def update(self, key_states, value_states, *args, **kwargs):
        at = self.get_seq_length()
        length = at + key_states.shape[-2]
        for held, states in zip(self.held, (key_states, value_states)):
            held[:, :, at:length] = states
        self._show(length)
        return self.keys, self.values

    def reorder_cache(self, beam_idx):
        for states in (self.keys, self.values):
            written = states[:, :, self.prompt :]
            written[:] = written[beam_idx.to(self.device)]


def for_beams(cache, times, room):
    """The cache of a search with `times` beams a prompt, each of at most `room` tokens. None stays None."""
    if cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers):
        return Cache(layers=[BeamLayer(layer, times, room) for layer in cache.layers])
    if cache is not None:
        cache.batch_repeat_interleave(times)
    return cache
