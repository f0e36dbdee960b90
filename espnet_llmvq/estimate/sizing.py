"""What a training step costs, computed from its config: parameters, memory, floating-point operations.

The model of the config is built without weights, and its own forward and backward pass run on tensors that have shapes
but no data (`FakeTensorMode` of torch). What is alive is counted as it comes and goes. So nothing here repeats what
a model does, and a new bridge or encoder is sized as it is. Three things are replaced, as they look at data: fused
attention by the kernel that keeps what the GPU's keep, blank dropping by none (batches are counted before it, too), and
the soft-VQ operators, which say their results' shapes, by these and their largest buffer.
"""

import contextlib
import functools
import itertools
import os
import weakref
from dataclasses import dataclass
from unittest import mock

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.search import PAIR_VALUES, chunk_rows
from espnet_llmvq.bridge.soft_vq import GATHERED
from espnet_llmvq.espnet.task import SpeechLLMTask, optim_classes
from espnet_llmvq.experiment.phases import with_defaults
from espnet_llmvq.llm.directory import layers_of
from espnet_llmvq.model.build import build
from espnet_llmvq.model.losses import IGNORE, PAD, SPEECH
from espnet_llmvq.speech.spans import WHOLE

PARTS = {"speech_encoder": "encoder", "ctc": "CTC head", "bridge": "bridge", "aligned_start": "aligned start"}


@dataclass(frozen=True)
class Batch:
    """Equal utterances: how many, samples of speech at 16 kHz, tokens of the prompt and of the transcript of each."""

    sequences: int
    samples: int
    prompt_tokens: int
    tokens: int
    cached: bool = False  # encoder frames are read, the encoder does not run


@dataclass(frozen=True)
class Size:
    """Cost of a training on one GPU: parameters in numbers, memory in bytes, flops of a batch.

    parts: {part: (parameters, trainable ones)}. weights, gradients, optimizer: all of them. layer: the largest layer of
    the LLM, rest: all that is in none of its layers; both (bytes, parameters, trainable ones). peak: memory when it is
    highest; gradients come as activations go, so it is less than the sum of all. activations: what there is at that
    moment beside weights, gradients and the optimizer's state: what is kept for the backward pass, what is in work,
    the batch.
    """

    parts: dict
    layer: tuple
    rest: tuple
    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    flops: int


# The model without weights


def write_encoder(directory, config):
    """Write what phases read of an encoder that is not trained yet; returns its `encoder_file`."""
    config = with_defaults(config, SpeechLLMTask.get_default_config())
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "config.yaml"), "w", encoding="utf-8") as f:
        yaml.safe_dump(config, f)
    path = os.path.join(directory, "model.pth")
    open(path, "w").close()
    return path


def dataless(model, mode):
    """Replace all tensors of a model on the meta device by tensors of `mode` on CPU, shared ones once."""
    made = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers, vars(module)):
            for name, old in list(store.items()):
                # Ids that rows of a table are chosen by keep their data.
                if not torch.is_tensor(old) or not (old.is_meta or old.is_floating_point()):
                    continue
                if id(old) not in made:
                    with mode:
                        new = torch.empty_strided(old.size(), old.stride(), dtype=old.dtype, device="cpu")
                    if isinstance(old, torch.nn.Parameter):
                        new = torch.nn.Parameter(new, old.requires_grad)
                    made[id(old)] = (old, new)  # held, so that no id is given twice
                store[name] = made[id(old)][1]


def nbytes(tensors):
    """Bytes of tensors, shared memory once."""
    return sum({id(s): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def count_parameters(model):
    """{part: (parameters, trainable ones)}; LoRA is a part of its own, what is tied counts once."""
    parts = {}
    for name, p in model.named_parameters():
        part = PARTS.get(name.partition(".")[0], "LoRA" if "lora_" in name else "LLM")
        total, trainable = parts.get(part, (0, 0))
        parts[part] = (total + p.numel(), trainable + p.numel() * p.requires_grad)
    return parts


def count_layers(model):
    """(largest layer, rest) of `Size`."""

    def count(parameters):
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return sum(p.numel() * p.element_size() for p in parameters), sum(p.numel() for p in parameters), trained

    layers = [list(layer.parameters()) for layer in (layers_of(model.llm) if model.llm is not None else ())]
    inside = set(itertools.chain.from_iterable(layers))
    rest = [p for p in model.parameters() if p not in inside]
    return max(map(count, layers), default=(0, 0, 0)), count(rest)


# Running it


def has_no_data(tensor):
    return isinstance(tensor, FakeTensor) or (torch.is_tensor(tensor) and tensor.is_meta)


class Dataless(TorchFunctionMode):
    """Answers for tensors without data what cannot be known of them."""

    NUMBERS = {torch.Tensor.item: float, torch.Tensor.__float__: float, torch.Tensor.__int__: int,
               torch.Tensor.__bool__: bool}  # fmt: skip

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.ctc_loss:
            return CTCLoss.apply(args[0], int(args[3].max()))
        if func in self.NUMBERS and has_no_data(args[0]):
            return self.NUMBERS[func](1)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and has_no_data(args[0]):
            # The mask has data: the number of chosen rows is then known.
            at = args[1]
            if torch.is_tensor(at) and at.dtype == torch.bool and not has_no_data(at):
                args = (args[0], at.nonzero(as_tuple=True), *args[2:])
        return func(*args, **kwargs)


@contextlib.contextmanager
def running():
    """Let a model run on tensors without data."""
    # Not a matter of the mode, which does not see what torch's own functions call.
    flash = mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention)
    with flash, Dataless():
        yield


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Fused attention: no matrix of all pairs is kept. Tensors without data would get the kernel that keeps it."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    query, key, value = (x.to(dtype) for x in (query, key, value))
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    if attn_mask is not None:
        attn_mask = torch.zeros_like(attn_mask, dtype=dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]


class CTCLoss(torch.autograd.Function):
    """`ctc_loss` by its shapes: log-probabilities (T, N, V) and what is summed forwards and backwards are kept."""

    @staticmethod
    def forward(ctx, log_probs, target_length):
        t, n, _ = log_probs.shape
        ctx.save_for_backward(log_probs, log_probs.new_empty(n, t, 2 * target_length + 1))
        return log_probs.new_empty(())

    @staticmethod
    def backward(ctx, grad):
        log_probs, alpha = ctx.saved_tensors
        beta, gradient = torch.empty_like(alpha), torch.empty_like(log_probs)
        del beta
        return gradient, None


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made under it that are alive, and the most that ever were.

    inside: function (operator, its arguments) -> bytes of what an operator needs inside.
    """

    def __init__(self, inside):
        super().__init__()
        self.inside, self.known = inside, {}
        self.gradients = {}
        self.now = self.peak = self.gradients_at_peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor):
                self.add(tensor.untyped_storage())
        now = self.now + (self.inside(func, args) if func.namespace == "espnet_llmvq" else 0)
        if now > self.peak:
            self.peak, self.gradients_at_peak = now, sum(self.gradients.values())
        return result

    def add(self, storage):
        key, size = id(storage), storage.nbytes()
        if key not in self.known:
            self.known[key] = weakref.ref(storage, lambda _: self.free(key, size))
            self.now += size

    def free(self, key, size):
        del self.known[key]
        self.now -= size

    def ignore(self, tensors):
        """Do not count these: they were there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.known[id(storage)] = weakref.ref(storage)

    def keep_gradient(self, parameter):
        """Hook: a gradient is complete."""
        self.gradients[id(parameter)] = parameter.grad.untyped_storage().nbytes()


def inside_bytes(device, func, args):
    """Bytes of the largest buffers inside the soft-VQ operators (`bridge/soft_vq.py`, `bridge/search.py`)."""
    backward = func is torch.ops.espnet_llmvq.soft_vq_backward.default
    z, codebook = args[1:3] if backward else args[:2]
    (n, d), v = z.shape, len(codebook)
    chunk = args[13] if backward else args[3] if len(args) == 4 else args[6]
    scores = 4 * n * chunk_rows(n, v, chunk, device)
    if not backward:
        # Beside a chunk of scores the directions of the steps; then some rows more than are kept, in float64 and in
        # blocks: of a step and of a row the value, its square, and the two of the block before.
        k = args[3] if len(args) == 8 else args[2]
        pairs = n * d * min(v, (1 if k == v else k) + 8 + k % v // 8)
        return max(scores + 12 * n * d, 45 * PAIR_VALUES if pairs > PAIR_VALUES else 30 * pairs)
    rows, every, renormalise, train = args[4], args[10], args[11], args[14]
    dense = 3 * scores if every else 0 if renormalise else 2 * scores
    # The kept rows of some steps, also in float64; then for each row in use what it gets from gradient and from z.
    kept = 0 if every else 4 * d * max(3 * min(GATHERED // d, n * rows.shape[1]), 3 * train * min(v, rows.numel()))
    return max(dense, kept) + 16 * n * d


def search_flops(z, codebook, *_, out_val=None, **__):
    """One product of all steps with all rows."""
    return 2 * z[0] * codebook[0] * codebook[1]


def soft_vq_backward_flops(grad, z, codebook, *rest, out_val=None, **__):
    """Products with all rows where all get gradient, else none that counts."""
    every, renormalise = rest[7:9]
    return 0 if renormalise and not every else (5 if every else 3) * search_flops(z, codebook)


def flop_counter():
    """torch's counter of matrix products, with the operators that it does not know."""
    own, aten = torch.ops.espnet_llmvq, torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            own.nearest_rows: search_flops,
            own.soft_vq: search_flops,
            own.soft_vq_backward: soft_vq_backward_flops,
            aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
            aten._scaled_dot_product_flash_attention_for_cpu_backward: (
                lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
            ),
        },
    )


def inputs(model, batch, mode):
    """Arguments of `SpeechLLM.forward`: tokens and labels with data, speech without."""
    # No end token: a target of CTC has none.
    text = model.eos_id + 1
    tokens = torch.full((batch.sequences, batch.prompt_tokens + 1 + batch.tokens), text)
    tokens[:, batch.prompt_tokens] = SPEECH
    if batch.sequences > 1:
        tokens[-1, -1] = PAD  # lengths differ, so the padding is masked
    labels = torch.full_like(tokens, IGNORE)
    labels[:, batch.prompt_tokens + 1 :] = text
    labels[tokens == PAD] = IGNORE
    length = batch.samples
    with mode:
        if batch.cached:
            encoder = model.speech_encoder
            cached = encoder.frontend if encoder.on_pretrained else encoder
            length = int(cached.rate.frames(length))
            speech = torch.empty(batch.sequences, length, cached.output_size())
        else:
            speech = torch.empty(batch.sequences, length)
    speech_lengths, speech_steps = torch.full((batch.sequences,), length), torch.full((batch.sequences,), WHOLE)
    return dict(tokens=tokens, labels=labels, speech=speech, speech_lengths=speech_lengths, speech_steps=speech_steps)


def shorten_none(model, frames, lengths):
    """`SpeechLLM.shorten` that computes the same and drops nothing."""
    if model.drop_blank is not None or model.merge_runs:
        with torch.no_grad():
            model.ctc(frames.float()).softmax(-1)
    return frames, lengths


def optimizer_bytes(model, config):
    """State of the optimizer of `config` after a step. Needs gradients."""
    conf = {k: v for k, v in config["optim_conf"].items() if k not in ("fused", "foreach")}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim_classes[config["optim"]](parameters, **conf)
    optimizer.step()
    return nbytes(t for t in tree_leaves(list(optimizer.state.values())) if torch.is_tensor(t))


def size(settings, batch, device="cuda", low_layers=False):
    """The `Size` of training with `settings` on `batch`, the share of one GPU.

    settings: training config (dict) as ESPnet gets it. device: "cuda" or "cpu", where it will run: `autocast: auto`
    is bfloat16 on a GPU, and chunks of scores differ. low_layers: the weights of the LLM's layers are bfloat16, as they
    are when sharded ones are gathered. Raises UserError if nothing would train.
    """
    # torch's first backward pass starts threads for the devices that it sees, and tensors without data make it see one;
    # a process with such threads cannot fork trainings. Behind a real pass on the CPU there are none.
    torch.ones(1, requires_grad=True).sum().backward()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    config = with_defaults(settings, SpeechLLMTask.get_default_config())
    model = build(config, weights=False)
    for layer in layers_of(model.llm) if low_layers else ():
        layer.to(torch.bfloat16)
    dataless(model, mode)
    model.train()
    model.packing_checked = True  # what leaks can be seen in data only
    if config["autocast"] == "auto":
        model.autocast = device == "cuda"
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise UserError("all parameters are frozen, nothing would train")
    model.shorten = functools.partial(shorten_none, model)
    if model.bridge is not None:
        model.bridge.statistics = lambda *_: {}  # they count what was chosen
    encoder = getattr(model.speech_encoder, "frontend", model.speech_encoder)
    if hasattr(encoder, "log_mel"):  # Whisper's, which is computed by NumPy
        mels = encoder.config.num_mel_bins
        encoder.log_mel = lambda wave: wave.new_empty(1, mels, 2 * encoder.rate.frames(len(wave)))
    held = list(model.parameters()) + list(model.buffers())
    arguments = inputs(model, batch, mode)
    alive = Alive(functools.partial(inside_bytes, torch.device(device)))
    alive.ignore([*held, *arguments.values()])
    hooks = [p.register_post_accumulate_grad_hook(alive.keep_gradient) for p in trainable]
    with running():
        # From the second batch of a step on, gradients are there from the beginning.
        for _ in range(min(config["accum_grad"], 2)):
            with alive:
                model(**arguments)[0].backward()
        for hook in hooks:
            hook.remove()
        state = optimizer_bytes(model, config)
        with flop_counter() as flops:  # by itself, as it keeps tensors alive
            model(**arguments)[0].backward()
    weights, inputs_bytes = nbytes(held), nbytes(arguments.values())
    layer, rest = count_layers(model)
    return Size(
        parts=count_parameters(model),
        layer=layer,
        rest=rest,
        weights=weights,
        gradients=nbytes(p.grad for p in trainable if p.grad is not None),
        optimizer=state,
        activations=inputs_bytes + alive.peak - alive.gradients_at_peak,
        peak=weights + state + inputs_bytes + alive.peak,
        flops=flops.get_total_flops(),
    )
