"""Trials of an LLM when it is loaded: what it cannot do is told before anything is trained."""

import contextlib

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.ends import logits_of, token_inputs, tried
from espnet_llmvq.llm.prompt_cache import for_beams, read_prompts

PROMPTS = ((5, 6, 7, 8, 9), (5, 6, 7))  # token ids
# Largest difference between two ways to compute logits, of their largest.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def check_llm(llm, path):
    """Raise UserError unless the LLM of `path` can be trained and searched from embeddings: `check_parts` and
    `check_search`. What a model raises itself is told as one too."""
    rows, begin = llm.get_input_embeddings().weight.shape[0], llm.config.get_text_config().bos_token_id
    # With the begin token, where there is one: states are largest there.
    begin = [begin] if type(begin) is int else []
    ids = [torch.tensor([*begin, *row], device=llm.device) % rows for row in PROMPTS]
    with tried(llm), said(f"{path}: {type(llm).__name__}"):
        own = [llm(input_ids=row[None], use_cache=False).logits[0] for row in ids]
        if not all(logits.isfinite().all() for logits in own):
            dtype = str(llm.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {type(llm).__name__} has no finite logits in {dtype}; set another llm_conf.dtype")
        check_parts(llm, path, ids, own)
        check_search(llm, path, ids, torch.stack([logits[-1] for logits in own]))


@contextlib.contextmanager
def said(what):
    try:
        yield
    except (torch.OutOfMemoryError, UserError):
        raise
    except Exception as err:  # of whatever kind: it is the code of hundreds of models
        why = f"{type(err).__name__}: {str(err).partition(chr(10))[0]}"
        raise UserError(f"{what} cannot be searched from speech ({why}); use another LLM") from err


def check_parts(llm, path, ids, own):
    """Raise UserError unless embeddings, decoder and `logits_of` give the logits of the forward on ids. Of ids of their
    own, as layers of Gemma 3n want them, embeddings have none."""
    table = token_inputs(llm)
    for row, logits in zip(ids, own):
        hidden = llm.get_decoder()(inputs_embeds=table[row][None], use_cache=False).last_hidden_state[0]
        if not close(logits_of(llm, hidden), logits):
            raise UserError(
                f"{path}: {type(llm).__name__}, part by part from embeddings to logits, is not what it is as a whole; "
                "use another LLM"
            )


def check_search(llm, path, ids, own, beams=2, tokens=3):
    """Raise UserError unless an LLM goes on from embeddings as its own forward does, with prompts read once for all
    beams, in a batch that is padded on the left. What keeps a state that is no keys and values (Mamba) cannot.
    """
    table = token_inputs(llm)
    inside = [torch.ones(len(row), dtype=torch.long, device=llm.device) for row in ids]
    rows = [table[row] for row in ids], inside
    inputs, mask = (torch.nn.utils.rnn.pad_sequence(part, True, padding_side="left") for part in rows)
    llm.get_decoder()(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state  # noqa: B018
    cache = for_beams(read_prompts(llm, inputs, mask), beams, tokens)
    found = llm.generate(
        inputs_embeds=inputs, attention_mask=mask, past_key_values=cache, num_beams=beams, num_return_sequences=beams,
        length_penalty=0.0, max_new_tokens=tokens, do_sample=False, eos_token_id=len(table), pad_token_id=0,
        output_logits=True, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    if not close(found.logits[0][::beams], own):
        raise UserError(
            f"{path}: {type(llm).__name__} continues a padded prompt otherwise than one alone; use another LLM"
        )
    for row, texts, scores in zip(ids, found.sequences.split(beams), found.sequences_scores.split(beams)):
        whole = torch.cat([row.expand(beams, -1), texts], 1)
        logits = llm(input_ids=whole[:, :-1], use_cache=False).logits[:, len(row) - 1 :]
        sums = logits.double().log_softmax(-1).gather(2, texts[:, :, None]).sum((1, 2))
        if not (sums - scores).abs().max() <= TOLERANCE.get(own.dtype, 0.1) * sums.abs().max():
            raise UserError(
                f"{path}: {type(llm).__name__} cannot be searched from speech (beams do not keep what they have read); "
                "use another LLM"
            )


def close(found, own):
    """Whether logits (N, V) are those of the model's own forward, a constant apart."""
    tolerance = TOLERANCE.get(own.dtype, 0.1)
    found, own = (logits.double() - logits.double().mean(-1, keepdim=True) for logits in (found, own))
    return bool((found - own).abs().max() <= tolerance * own.abs().max())
