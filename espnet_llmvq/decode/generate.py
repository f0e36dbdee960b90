"""Batched beam search with transformers' generation, left-padded."""

import torch


def length_limit(steps, slope=1.5, offset=10):
    """Most tokens that speech of `steps` bridge steps is given (an int): a runaway stops here."""
    return int(slope * steps) + offset


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
    limit = length_limit(-(-int(lengths.max()) // model.bridge.stack))
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
        max_new_tokens=limit,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
        **options,
    )
    texts, tokens, cut = [], [], []
    for row in out.tolist():
        ended = tokenizer.eos_token_id in row
        row = row[: row.index(tokenizer.eos_token_id)] if ended else row
        cut.append(not ended)
        tokens.append(row)
        texts.append(tokenizer.decode(row, skip_special_tokens=True).strip())
    return texts, tokens, cut
