"""What the training of each phase of an experiment will cost: parameters, memory of a GPU, hours."""

import dataclasses
import os
from dataclasses import dataclass

from espnet_llmvq.base.config import option
from espnet_llmvq.base.errors import UserError, check_name

# Operations of dense matrix products a second, in bfloat16 (V100: float16), and memory in GB: NVIDIA's data sheets.
GPUS = {
    "v100": (125e12, 32), "a100-40": (312e12, 40), "a100": (312e12, 80), "l40s": (362e12, 48), "rtx4090": (165e12, 24),
    "h100": (989e12, 80), "h200": (989e12, 141),
}  # fmt: skip
GB = 1e9


@dataclass(frozen=True)
class Question:
    """What is assumed of data and machine. ngpu, num_nodes: GPUs of a machine, and machines, that share a batch."""

    seconds: float = option(12.3, "speech of an utterance (LibriSpeech: 12.3)")
    tokens: int = option(45, "tokens of its transcript with the end token")
    prompt_tokens: int = option(12, "tokens of the prompt")
    corpus_hours: float = option(None, "speech of an epoch, where no positions are counted yet")
    gpu: str = option("a100", " or ".join(GPUS))
    device_flops: float = option(None, "of another GPU: operations a second, without sparsity")
    utilisation: float = option(
        0.3, "share of them that training reaches: 0.21 to 0.46 in large trainings (2204.02311, table 3)"
    )
    ngpu: int = 1
    num_nodes: int = 1

    def __post_init__(self):
        if not 0 < self.utilisation <= 1:
            raise UserError(f"--utilisation {self.utilisation}: must be above 0, at most 1")
        for name in ("seconds", "tokens"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name} {getattr(self, name)} must be above 0")
        if self.prompt_tokens < 0:
            raise UserError(f"--prompt_tokens {self.prompt_tokens} must be 0 or more")
        if self.device_flops is None:
            check_name("--gpu", self.gpu, GPUS)

    @property
    def gpus(self):
        return max(self.ngpu, 1) * self.num_nodes


def llm_directory(experiment, room):
    """The LLM to size: that of the experiment or, as long as it is not trained, a config in the directory `room`."""
    if not experiment.trains_llm or os.path.exists(os.path.join(experiment.llm, "config.json")):
        return experiment.llm
    from transformers import LlamaConfig

    from espnet_llmvq.llm.pretrain import load_config

    shape = dataclasses.asdict(load_config(experiment.options.lm_config).model)
    LlamaConfig(vocab_size=experiment.options.vocab_size, **shape).save_pretrained(room)
    return room


def pieces_directory(experiment, room):
    """The spelling pieces of the CTC head: those of the experiment or, before they are chosen, as many rows in `room`,
    with those of letters and bytes. None for a head without."""
    if not experiment.spelling:
        return None
    out = os.path.join(room, os.path.basename(experiment.spelling))
    if os.path.exists(experiment.spelling):
        os.symlink(os.path.abspath(experiment.spelling), out)
        return out
    import torch

    from espnet_llmvq.llm.directory import load_llm, table_rows
    from espnet_llmvq.llm.ends import token_inputs
    from espnet_llmvq.llm.spelling import save_rows

    with torch.device("meta"):
        width = token_inputs(load_llm(experiment.llm, weights=False)).shape[1]
    count = min(experiment.pieces + 256, table_rows(experiment.llm))
    os.mkdir(out)
    save_rows(torch.zeros(count, width), torch.arange(count), out)
    return out


def batches_of_epoch(experiment, question, training, config, sequences):
    """Batches of an epoch: as the config says, counted, or from the hours of the corpus; None if unknown."""
    from espnet_llmvq.espnet.run import epoch_batches

    if config["num_iters_per_epoch"]:
        return config["num_iters_per_epoch"]
    shape = experiment.positions(experiment.options.train_set)
    if training.mixture:
        shape = experiment.mixture(training.mixture)[1]
    if os.path.exists(shape):
        return epoch_batches(config, shape, question.gpus)
    if question.corpus_hours:
        return max(1, round(question.corpus_hours * 3600 / question.seconds / sequences))
    return None


def estimate(experiment, question, training, encoder_file, llm, pieces=None):
    """The row of one training, a dict for JSON. encoder_file: checkpoint of the encoder, or one that stands for it;
    pieces: directory of those of its CTC head."""
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.estimate.sizing import Batch, size
    from espnet_llmvq.experiment.phases import BRIDGE_STACK, counts_positions, with_defaults
    from espnet_llmvq.model.positions import Positions
    from espnet_llmvq.sequence.sequence import Span
    from espnet_llmvq.speech.pretrained import frames_are_trained

    config = with_defaults(training.config, SpeechLLMTask.get_default_config())
    gpus, samples = question.gpus, round(question.seconds * SAMPLE_RATE)
    stack = 1 if training.is_encoder else config["bridge_conf"].get("stack", BRIDGE_STACK)
    speech = Positions(None, {**experiment.encoder, **training.config}, stack).span(Span(audio="-", samples=samples))
    positions = speech + question.prompt_tokens + question.tokens
    if counts_positions(config):
        # ESPnet closes a batch with the sequence that passes the budget.
        sequences = config["batch_bins"] // positions + 1
    else:
        sequences = config["batch_size"]
    share = -(-sequences // gpus)
    alone = training.is_encoder and not experiment.on_pretrained
    cut_up = training.mixture and not experiment.whole_files(training.mixture)
    fixed = not (alone or cut_up or frames_are_trained(config, encoder_file))
    cached = experiment.caches_frames and fixed
    own = training.is_encoder or "encoder" in training.config
    settings = {**training.config, "llm": llm, "encoder_file": None if own else encoder_file}
    settings |= {"ctc_tokens": pieces} if training.is_encoder else {}
    batch = Batch(share, samples, question.prompt_tokens, question.tokens, cached)
    cost = size(settings, batch)
    batches = batches_of_epoch(experiment, question, training, config, sequences)
    flops, memory = GPUS.get(question.gpu, (None, None))
    speed = question.utilisation * (question.device_flops or flops)
    trainable = sum(part for _, part in cost.parts.values())
    if config["fsdp"] and gpus > 1:
        low = config["autocast"] in ("auto", "bfloat16")
        memory_of = sharded(cost, size(settings, batch, low_layers=True).activations if low else None, gpus)
    else:
        # DistributedDataParallel sends gradients in buffers of its own, of float32 parameters.
        buckets = 4 * trainable if gpus > 1 and not config["gradient_as_bucket_view"] else 0
        memory_of = {
            "weights_bytes": cost.weights,
            "gradients_bytes": cost.gradients + buckets,
            "optimizer_bytes": cost.optimizer,
            "activations_bytes": cost.activations,
            "peak_bytes": cost.peak + buckets,
        }
    return {
        "phase": training.tag,
        "config": training.where,
        "parameters": sum(total for total, _ in cost.parts.values()),
        "trainable": trainable,
        "parts": {name: {"parameters": total, "trainable": part} for name, (total, part) in cost.parts.items()},
        "positions": positions,
        "sequences": sequences,
        "sequences_per_gpu": share,
        "gpus": gpus,
        "cached": cached,
        **memory_of,
        "gpu_bytes": None if question.device_flops else memory * GB,
        "flops_per_batch": cost.flops,
        "batches": None if batches is None else config["max_epoch"] * batches,
        "hours": None if batches is None else config["max_epoch"] * batches * cost.flops / speed / 3600,
    }


def sharded(cost, low_activations, gpus):
    """Memory of one of the GPUs that share a model (espnet/fsdp.py), a dict for JSON, by what FSDP2 keeps.

    cost: `Size` on one GPU. low_activations: with layers gathered in bfloat16; None: as they are. Beside its shards a
    GPU has three layers, in use, on their way and as they came, and the gradients of one, once more in float32 where
    they are sent; the rest of the model for the whole of a step, and its gradients, doubled at the end of it.
    """
    (layer, layer_parameters, layer_trained), (rest, _, rest_trained) = cost.layer, cost.rest
    low = low_activations is not None
    activations = low_activations if low else cost.activations
    shards = {name: getattr(cost, name) // gpus for name in ("weights", "gradients", "optimizer")}
    layers, layer_gradients = 3 * (2 * layer_parameters if low else layer), (6 if low else 8) * layer_trained
    at_work = max(layers + layer_gradients + 4 * rest_trained + activations, 8 * rest_trained)
    return {
        "weights_bytes": shards["weights"] + rest + layers,
        "gradients_bytes": shards["gradients"] + 4 * rest_trained + layer_gradients,
        "optimizer_bytes": shards["optimizer"],
        "activations_bytes": activations,
        "peak_bytes": sum(shards.values()) + rest + max(at_work, rest),
    }


def show(rows, question):
    """Two Markdown tables: cost, and parameters by part."""
    device = f"{question.device_flops:.3g} operations/s" if question.device_flops else question.gpu
    yield f"Memory in GB of one GPU; hours on {rows[0]['gpus']} x {device}, utilisation {question.utilisation:g}."
    yield ""
    yield "| phase | sequences a GPU | weights | gradients | optimizer | activations | peak | TFLOP a batch | hours |"
    yield "|---|" + "---:|" * 8
    for row in rows:
        parts = ("weights", "gradients", "optimizer", "activations", "peak")
        memory = [f"{row[f'{part}_bytes'] / GB:.3g}" for part in parts]
        if row["gpu_bytes"] and row["peak_bytes"] > row["gpu_bytes"]:
            memory[-1] += " (too much)"
        hours = "?" if row["hours"] is None else f"{row['hours']:.3g}"
        work = f"{row['flops_per_batch'] / 1e12:.3g}"
        cells = [row["phase"], str(row["sequences_per_gpu"]), *memory, work, hours]
        yield f"| {' | '.join(cells)} |"
    names = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    yield ""
    yield "Millions of parameters, of them trained:"
    yield ""
    yield "| phase | all | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * (len(names) + 1)
    for row in rows:
        cells = [f"{row['parameters'] / 1e6:.2f}, {row['trainable'] / 1e6:.2f}"]
        for name in names:
            part = row["parts"].get(name)
            cells.append(f"{part['parameters'] / 1e6:.2f}, {part['trainable'] / 1e6:.2f}" if part else "")
        yield f"| {row['phase']} | " + " | ".join(cells) + " |"


def estimate_all(experiment, question):
    """The rows of all trainings of an experiment. Raises UserError if there are none."""
    import tempfile

    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.estimate.sizing import write_encoder

    if not experiment.trainings:
        raise UserError("nothing to size: the systems have no phases and no encoder is trained")
    for training in experiment.trainings:
        SpeechLLMTask.check_config(training.config, training.where)
    with tempfile.TemporaryDirectory() as room:
        llm, pieces = llm_directory(experiment, room), None
        encoder_file = experiment.options.encoder_file or None
        if experiment.trains_encoder:
            pieces = pieces_directory(experiment, room)
            encoder_file = write_encoder(
                os.path.join(room, "encoder"), {**experiment.trainings[0].config, "ctc_tokens": pieces}
            )
        return [estimate(experiment, question, t, encoder_file, llm, pieces) for t in experiment.trainings]
