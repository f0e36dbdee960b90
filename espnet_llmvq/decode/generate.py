"""Batched beam search with transformers' generation, left-padded."""

import torch


def length_limit(seconds, rate=8.0, offset=8):
    """Most tokens that `seconds` of speech are given (an int): a runaway stops here.

    Fast English has about five words a second. A loop that is stopped late costs more words than it was worth.
    """
    return int(rate * seconds) + offset


class EndAtLimit:
    """Logits processor: a text of `limits` (B,) tokens ends, whatever else is in the batch."""

    def __init__(self, limits, num_beams, eos_id):
        self.limits, self.eos_id = limits.repeat_interleave(num_beams), eos_id

    def __call__(self, input_ids, scores):
        over = input_ids.shape[1] >= self.limits
        end = torch.full_like(scores, float("-inf"))
        end[:, self.eos_id] = 0.0
        return torch.where(over[:, None], end, scores)


@torch.inference_mode()
def generate(model, tokenizer, batch, num_beams=4, **options):
    """Transcribe one batch.

    Args:
        model: `SpeechLLM` in eval mode. batch: tensors as `SpeechLLM.forward` takes them, prompts only.
        options: further keyword arguments of `GenerationMixin.generate`.
    Returns (list of texts, list of token id lists, list of bools: ended by the length limit).
    """
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    frames, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    # The limit follows the audio, not what blank dropping left of it.
    limits = [length_limit(n * model.speech_encoder.frame_seconds()) for n in lengths.tolist()]
    steps, step_lengths, _ = model.bridge_speech(frames, lengths)
    prompts, _ = model.assemble(steps, step_lengths, batch["tokens"], batch["layout"])
    longest = max(len(p) for p in prompts)
    inputs = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for i, prompt in enumerate(prompts):
        inputs[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = 1
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    out = model.llm.generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=max(limits) + 1,
        logits_processor=[
            EndAtLimit(torch.tensor(limits, device=device), num_beams, tokenizer.eos_token_id)
        ],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
        **options,
    )
    texts, tokens, cut = [], [], []
    for row, limit in zip(out.tolist(), limits):
        row = row[: row.index(tokenizer.eos_token_id)]
        cut.append(len(row) == limit)
        tokens.append(row)
        texts.append(tokenizer.decode(row, skip_special_tokens=True).strip())
    return texts, tokens, cut
