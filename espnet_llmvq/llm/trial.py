"""A trial of an LLM when it is loaded: what it cannot do is told before anything is trained."""

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.prompt_cache import for_beams, read_prompts

# Largest difference between two ways to compute logits, of their largest.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@torch.no_grad()
def check_search(llm, path, beams=2):
    """Raise UserError unless an LLM goes on from embeddings as its own forward does, with prompts read once for all
    beams, in a batch that is padded on the left. What keeps a state that is no keys and values (Mamba) cannot.
    """
    table = llm.get_input_embeddings().weight
    prompts = [table[torch.arange(5, 5 + n, device=table.device) % len(table)] for n in (5, 3)]
    inside = [torch.ones(len(prompt), dtype=torch.long, device=table.device) for prompt in prompts]
    inputs, mask = (torch.nn.utils.rnn.pad_sequence(rows, True, padding_side="left") for rows in (prompts, inside))
    name, training = type(llm).__name__, llm.training
    llm.eval()
    try:
        wanted = torch.cat([llm(inputs_embeds=prompt[None], use_cache=False).logits[:, -1] for prompt in prompts])
        llm.get_decoder()(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state  # noqa: B018
        cache = for_beams(read_prompts(llm, inputs, mask), beams, 2)
        found = llm.generate(
            inputs_embeds=inputs, attention_mask=mask, past_key_values=cache, num_beams=beams, max_new_tokens=2,
            do_sample=False, eos_token_id=len(table), pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        ).logits[0][::beams]  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except Exception as err:  # of whatever kind: it is the code of hundreds of models
        why = f"{type(err).__name__}: {str(err).partition(chr(10))[0]}"
        raise UserError(f"{path}: {name} cannot be searched from speech ({why}); use another LLM") from err
    finally:
        llm.train(training)
    found, wanted = (logits.double() - logits.double().mean(-1, keepdim=True) for logits in (found, wanted))
    if not (found - wanted).abs().max() <= TOLERANCE.get(table.dtype, 0.1) * wanted.abs().max():
        raise UserError(f"{path}: {name} continues a padded prompt otherwise than one alone; use another LLM")
