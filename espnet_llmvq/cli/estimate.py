"""Say what the training of each phase will cost: parameters, memory of a GPU, hours. No weights or data are needed."""

import os

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.cli.parser import Parser

# Operations of dense matrix products a second, in bfloat16 (V100: float16), and memory in GB: NVIDIA's data sheets.
GPUS = {
    "v100": (125e12, 32), "a100-40": (312e12, 40), "a100": (312e12, 80), "l40s": (362e12, 48), "rtx4090": (165e12, 24),
    "h100": (989e12, 80), "h200": (989e12, 141),
}  # fmt: skip
GB = 1e9


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", default="", help="systems and groups of conf_dir/systems.yaml")
    parser.add_argument("--config", help="training config of the speech encoder (e.g. conf/encoder.yaml), sized too")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--pretrained_encoder", help="directory or hub id of WavLM or Whisper, for all phases")
    parser.add_argument("--pretrained_layer", help="last, weighted or a number; default: that of the phases, or last")
    parser.add_argument("--encoder_file", help="checkpoint of a trained encoder instead of --config")
    parser.add_argument("--llm", required=True, help="LLM directory or hub id; its config.json is enough")
    parser.add_argument("--lm_config", help="config of the language model to be trained, if --llm does not exist yet")
    parser.add_argument("--vocab_size", type=int, help="tokens of it")
    parser.add_argument("--override", action="append", default=[], help="key=value laid over every config, repeated")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch, as in training")
    parser.add_argument("--ngpu", type=int, default=1, help="GPUs of a machine that share a batch")
    parser.add_argument("--num_nodes", type=int, default=1, help="machines that share a batch")
    parser.add_argument("--cached", action="store_true", help="encoder frames are cached where they can be")
    parser.add_argument("--seconds", type=float, default=12.3, help="speech of an utterance (LibriSpeech: 12.3)")
    parser.add_argument("--tokens", type=int, default=45, help="tokens of its transcript with the end token")
    parser.add_argument("--prompt_tokens", type=int, default=12, help="tokens of the prompt")
    parser.add_argument("--train_shape", help="LLM positions of training sequences: batches of an epoch are counted")
    parser.add_argument("--mixture_dir", default="exp/mixtures", help="NAME_shape of mixtures of phases")
    parser.add_argument("--corpus_hours", type=float, help="speech of an epoch, where no positions are counted yet")
    parser.add_argument("--gpu", default="a100", help=f"one of {', '.join(GPUS)}")
    parser.add_argument("--device_flops", type=float, help="of another GPU: operations a second, without sparsity")
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.3,
        help="share of them that training reaches: 0.21 to 0.46 in large trainings (2204.02311, table 3)",
    )
    parser.add_argument("--json", help="write the same to this file")
    return parser


def llm_directory(args, room):
    """The LLM to size: --llm, or, as long as it does not exist, a config in the directory `room`."""
    if args.lm_config is None or os.path.exists(os.path.join(args.llm, "config.json")):
        return args.llm
    import dataclasses

    from transformers import LlamaConfig

    from espnet_llmvq.llm.pretrain import load_config

    if args.vocab_size is None:
        raise UserError(f"{args.llm} does not exist yet; --lm_config needs --vocab_size")
    shape = dataclasses.asdict(load_config(args.lm_config).model)
    LlamaConfig(vocab_size=args.vocab_size, **shape).save_pretrained(room)
    return room


def batches_of_epoch(args, training, config, sequences, gpus):
    """Batches of an epoch: as the config says, counted, or from --corpus_hours; None if unknown."""
    from espnet_llmvq.espnet.run import epoch_batches

    if config["num_iters_per_epoch"]:
        return config["num_iters_per_epoch"]
    shape = (
        os.path.join(args.mixture_dir, f"{training.phase.mixture}_shape")
        if training.phase.mixture
        else args.train_shape
    )
    if shape and os.path.exists(shape):
        return epoch_batches(config, shape, gpus)
    if args.corpus_hours:
        return max(1, round(args.corpus_hours * 3600 / args.seconds / sequences))
    return None


def estimate(args, training, encoder, encoder_file, llm):
    """The row of one training, a dict for JSON. encoder: config of the encoder (dict), encoder_file: of phases."""
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.espnet.task import SpeechLLMTask
    from espnet_llmvq.estimate.sizing import Batch, size
    from espnet_llmvq.experiment.phases import counts_positions, with_defaults
    from espnet_llmvq.model.positions import Positions
    from espnet_llmvq.sequence.sequence import Span
    from espnet_llmvq.speech.pretrained import changes_frames

    config = with_defaults(training.config, SpeechLLMTask.get_default_config())
    gpus, samples = max(args.ngpu, 1) * args.num_nodes, round(args.seconds * SAMPLE_RATE)
    stack = 1 if training.is_encoder else config["bridge_conf"].get("stack", 5)
    speech = Positions(None, {**encoder, **training.config}, stack).span(Span(audio="-", samples=samples))
    positions = speech + args.prompt_tokens + args.tokens
    if counts_positions(config):
        # ESPnet closes a batch with the sequence that passes the budget.
        sequences = config["batch_bins"] // positions + 1
    else:
        sequences = config["batch_size"]
    share = -(-sequences // gpus)
    cached = args.cached and not (training.is_encoder or training.phase.mixture or changes_frames(config, encoder_file))
    own = training.is_encoder or "encoder" in training.config
    settings = {**training.config, "llm": llm, "encoder_file": None if own else encoder_file}
    cost = size(settings, Batch(share, samples, args.prompt_tokens, args.tokens, cached))
    batches = batches_of_epoch(args, training, config, sequences, gpus)
    flops, memory = GPUS.get(args.gpu, (None, None))
    speed = args.utilisation * (args.device_flops or flops)
    trainable = sum(part for _, part in cost.parts.values())
    # DistributedDataParallel sends gradients in buffers of its own, of float32 parameters.
    buckets = 4 * trainable if gpus > 1 and not config["gradient_as_bucket_view"] else 0
    return {
        "phase": training.phase.tag,
        "config": training.phase.where,
        "parameters": sum(total for total, _ in cost.parts.values()),
        "trainable": trainable,
        "parts": {name: {"parameters": total, "trainable": part} for name, (total, part) in cost.parts.items()},
        "positions": positions,
        "sequences": sequences,
        "sequences_per_gpu": share,
        "gpus": gpus,
        "cached": cached,
        "weights_bytes": cost.weights,
        "gradients_bytes": cost.gradients + buckets,
        "optimizer_bytes": cost.optimizer,
        "activations_bytes": cost.activations,
        "saved_bytes": cost.saved,
        "logits_bytes": cost.logits,
        "peak_bytes": cost.peak + buckets,
        "gpu_bytes": None if args.device_flops else memory * GB,
        "flops_per_batch": cost.flops,
        "batches": None if batches is None else config["max_epoch"] * batches,
        "hours": None if batches is None else config["max_epoch"] * batches * cost.flops / speed / 3600,
    }


def show(rows, args):
    """Two Markdown tables: cost, and parameters by part."""
    device = f"{args.device_flops:.3g} operations/s" if args.device_flops else args.gpu
    yield f"Memory in GB of one GPU; hours on {rows[0]['gpus']} x {device}, utilisation {args.utilisation:g}."
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


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.device_flops is None:
        check_name("--gpu", args.gpu, GPUS)
    if not 0 < args.utilisation <= 1:
        raise UserError(f"--utilisation {args.utilisation}: must be above 0, at most 1")
    import json
    import tempfile

    from espnet_llmvq.base.config import read_overrides
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.experiment.phases import read_trainings

    trainings = read_trainings(
        args.conf_dir, args.systems.split(), encoder=args.config, overrides=read_overrides(args.override),
        accumulate=args.accumulate, pretrained=args.pretrained_encoder, layer=args.pretrained_layer,
    )  # fmt: skip
    if not trainings:
        raise UserError("nothing to size: the systems have no phases; give --config or other --systems")
    from espnet_llmvq.espnet.task import SpeechLLMTask, encoder_config
    from espnet_llmvq.estimate.sizing import write_encoder

    for training in trainings:
        SpeechLLMTask.check_config(training.config, training.phase.where)
    with tempfile.TemporaryDirectory() as room:
        llm = llm_directory(args, room)
        encoder, encoder_file = {}, args.encoder_file
        if encoder_file:
            encoder = encoder_config(encoder_file)
        elif args.config:
            encoder = next(t.config for t in trainings if t.is_encoder)
            encoder_file = write_encoder(room, encoder)
        rows = [estimate(args, training, encoder, encoder_file, llm) for training in trainings]
    print("\n".join(show(rows, args)))
    if args.json:
        write_text(args.json, json.dumps(rows, indent=1) + "\n")
