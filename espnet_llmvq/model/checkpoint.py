"""Checkpoints of what trains: which tensors a file holds, and what is taken from the files of others."""

import logging
import pickle

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.ends import token_inputs

# Tensors of a pretrained encoder, which come from its own directory; of one that is a frontend.
PRETRAINED = ("speech_encoder.pretrained.", "speech_encoder.frontend.pretrained.")


def some(names):
    """The first names of a list as text."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def load_weights(path, device, remedy, mmap=False):
    """The content of a file of `torch.save`, read without pickles. UserError for a damaged one: remove it, `remedy`.

    mmap: tensors are read when they are used; those of processes on one machine share their memory.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as err:
        reason = str(err).partition("\n")[0] or type(err).__name__
        raise UserError(f"{path}: is damaged ({reason}); remove it {remedy}") from err


class PartialCheckpoint:
    """Mixin for a module with `external`, prefixes of tensors loaded from elsewhere: checkpoints hold all but the
    frozen ones among these. The names follow from the model, not from the file, so loading is strict."""

    def frozen_external(self):
        """Names of tensors that checkpoints leave out: frozen, and loaded from elsewhere."""
        # A tied output layer is a second name of the embedding table, not a buffer.
        parameters = dict(self.named_parameters(remove_duplicate=False))
        trainable = {n for n, p in parameters.items() if p.requires_grad}
        names = []
        for name in super().state_dict():
            prefix = next((s for s in self.external if name.startswith(s)), None)
            # A buffer (batch statistics, say) moves only with the parameters of its part.
            part_trains = any(n.startswith(prefix) for n in trainable) if prefix else True
            is_buffer = name not in parameters
            if prefix and (name not in trainable) and not (is_buffer and part_trains):
                names.append(name)
        return names

    def state_dict(self, *args, **kwargs):
        """{name: tensor} of a checkpoint: all but the `frozen_external` ones."""
        state = super().state_dict(*args, **kwargs)
        if args or kwargs.get("prefix"):
            return state
        for name in self.frozen_external():
            del state[name]
        return state

    def load_state_dict(self, state, strict=True, assign=False):
        """Load a checkpoint. Raises UserError that names missing and unexpected tensors, and those of other shapes.

        Only what checkpoints leave out may be missing; `strict=False` is not offered for that reason.
        """
        full = super().state_dict()
        missing = [n for n in self.state_dict() if n not in state]
        unexpected = [n for n in state if n not in full]
        shapes = [n for n in state if n in full and state[n].shape != full[n].shape]
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of other shapes", shapes)):
            if names:
                raise UserError(f"checkpoint does not fit the model: {len(names)} tensors {what}: {some(names)}")
        return super().load_state_dict(state, strict=False, assign=assign)


def load_encoder(model, path):
    """Load frontend, normalisation, encoder and CTC head from a checkpoint of ours or of ESPnet's ASR task.

    Raises UserError that names the tensors that are missing or have other shapes.
    """
    state = load_weights(path, "cpu", "and make it again")
    # ESPnet's ASR model has `encoder.`, `normalize.` at its top; ours hold them in `speech_encoder.`.
    state = {
        ("speech_encoder." + k if k.startswith(("frontend.", "normalize.", "encoder.")) else k): v
        for k, v in state.items()
    }
    own = torch.nn.Module.state_dict(model)
    wanted = [n for n in own if n.startswith(("speech_encoder.", "ctc."))]
    if not any(n.startswith(PRETRAINED) for n in state):
        # It was frozen in that training, and is read from its own directory now as then.
        wanted = [n for n in wanted if not n.startswith(PRETRAINED)]
    elif model.speech_encoder.on_pretrained:  # so were its lower layers
        trained = model.speech_encoder.frontend.trained_names()
        wanted = [n for n in wanted if not n.startswith(PRETRAINED) or n.removeprefix(PRETRAINED[1]) in trained]
    bad = [n for n in wanted if n not in state or state[n].shape != own[n].shape]
    if bad:
        raise UserError(f"{path} lacks {len(bad)} encoder tensors: {some(bad)}")
    torch.nn.Module.load_state_dict(model, {n: state[n] for n in wanted}, strict=False)
    logging.info(f"Loaded {len(wanted)} encoder tensors from {path}")


def load_previous(model, path):
    """Start from the phase before: every tensor that both have.

    What only the model has keeps its first value (LoRA: declared as new), a codebook gets that of the LLM as it is now;
    what only the file has must belong to a part the model lacks. Raises UserError for differing shapes, no overlap, and
    what was trained but is frozen now, as checkpoints of this phase would lack it.
    """
    state = load_weights(path, "cpu", "and make it again")
    own = torch.nn.Module.state_dict(model)
    shared = {n: v for n, v in state.items() if n in own}
    lost = [n for n in model.frozen_external() if n in shared]
    if lost:
        raise UserError(
            f"{path}: the phase before trained {lost[0].partition('.')[0]} ({len(lost)} tensors), this one would go "
            "back to what it was before; train it in this phase too"
        )
    if "speech_encoder.after_layer_norm" in set(model.state_dict()) - set(state):
        raise UserError(
            f"{path}: the phase before was trained on the last layer of its encoder before the final LayerNorm, this "
            "one would be on its output; train both again"
        )
    shapes = [n for n, v in shared.items() if v.shape != own[n].shape]
    if shapes or not shared:
        raise UserError(f"{path} does not fit the next phase: {', '.join(shapes[:8]) or 'nothing in common'}")
    torch.nn.Module.load_state_dict(model, shared, strict=False)
    new = [n for n in model.state_dict() if n not in shared]
    if "bridge.codebook" in new and any(n.startswith("llm.") for n in shared):
        model.bridge.codebook.data.copy_(token_inputs(model.llm))  # its table may have been trained
    logging.info(f"Initialised {len(shared)} tensors from {path}; new in this phase: {len(new)} {new[:4]}")
    dropped = [n for n in state if n not in own]
    if dropped:
        logging.info(f"Not used by this phase: {len(dropped)} tensors {dropped[:4]}")
