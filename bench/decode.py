"""Batched decoding of a trained system, against one utterance at a time and against ESPnet's Speech2Text.

In the directory of a recipe that has run to stage 11. All read the same sound files with the same beam:

- ours: encoder, search in batches, exact scores of the n-best list;
- alone: the same model, utterance by utterance through transformers' `generate`, no scores. The best hypotheses must
  be equal, or the run fails. `speedup` is of ours against it, `speedup_cpu` the same in CPU time;
- espnet: `espnet2.bin.asr_inference.Speech2Text` with a model of similar size (the same Conformer blocks, convolutional
  subsampling by 8, an attention decoder as wide and deep as the LLM), which is trained here on the same data for
  `--espnet_steps` steps by `espnet2.bin.asr_train`. Its word error rate is told, as a bad model may search longer.

Each is measured in a process of its own after decoding one utterance, on a GPU where there is one. `rtfx` and
`peak_mb` are of ours: audio seconds per second; most memory of the process, on a GPU that of its tensors.

`python bench/decode.py --json FILE`. On an idle core about five minutes, most of it training ESPnet's model.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time

from espnet_llmvq.base.files import write_text

ESPNET = """
frontend_conf: {{fs: 16000, n_fft: 512, win_length: 400, hop_length: 160}}
normalize: utterance_mvn
normalize_conf: {{norm_vars: true}}
encoder: conformer
encoder_conf: {{input_layer: conv2d8, output_size: 192, attention_heads: 4, linear_units: 640, num_blocks: 4,
  dropout_rate: 0.0, positional_dropout_rate: 0.0, attention_dropout_rate: 0.0, macaron_style: false,
  pos_enc_layer_type: abs_pos, selfattention_layer_type: selfattn, use_cnn_module: true, cnn_module_kernel: 7}}
decoder: transformer
decoder_conf: {{attention_heads: 2, linear_units: 512, num_blocks: 4, dropout_rate: 0.0}}
model_conf: {{ctc_weight: 0.3, lsm_weight: 0.1}}
optim: adamw
optim_conf: {{lr: 0.001}}
scheduler: onecyclelr
scheduler_conf: {{max_lr: 0.002, total_steps: {steps}, pct_start: 0.15}}
grad_clip: 5.0
batch_type: unsorted
batch_size: 16
valid_batch_size: 50
max_epoch: 1
num_iters_per_epoch: {steps}
keep_nbest_models: 1
best_model_criterion: [[valid, loss, min]]
use_tensorboard: false
use_matplotlib: false
num_workers: 0
"""


def recipe_parser(doc):
    """The parser of a benchmark that decodes a set with a system of a recipe that has run."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--json", required=True, help="file to write")
    parser.add_argument("--recipe", default="egs/mini_tts/llmasr1", help="directory of a recipe that has run")
    parser.add_argument("--expdir", default="exp", help="of the recipe")
    parser.add_argument("--system", default="soft_k10", help="the system to decode with")
    parser.add_argument("--set", default="dump/test_id/sequences.jsonl", help="sequences to decode")
    return parser


def get_parser():
    parser = recipe_parser(__doc__)
    parser.add_argument("--train", default="dump/train", help="formatted data that ESPnet's model is trained on")
    parser.add_argument("--valid", default="dump/valid", help="formatted data that it is validated on")
    parser.add_argument("--utterances", type=int, default=100, help="of the set, the first ones")
    parser.add_argument("--num_beams", type=int, default=4, help="of all searches")
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch of ours")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--espnet_steps", type=int, default=400, help="of training ESPnet's model; 0 leaves it out")
    return parser


def device():
    """Where decoding runs. Never asked by the process that forks the others: CUDA does not survive a fork."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load(directory):
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.build import load_model

    model, config = load_model(directory, device())
    return model, load_tokenizer(config["llm"])


def batches(args, tokenizer, size):
    """`Batches` of the first utterances, as sound files."""
    from espnet_llmvq.decode.batches import Batches
    from espnet_llmvq.sequence.sequence import read_sequences

    ids = [s.id for s, _ in zip(read_sequences(args.set), range(args.utterances))]
    return Batches(args.set, args.batch_seconds, tokenizer, batch_size=size, only=set(ids))


def clock():
    """Seconds, once a GPU has done what it was given."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(module, name, spent, part):
    """Replace a function of a module by itself, with its seconds added to spent[part]."""
    function = getattr(module, name)

    def wrapped(*given, **options):
        start = clock()
        result = function(*given, **options)
        spent[part] = spent.get(part, 0.0) + clock() - start
        return result

    setattr(module, name, wrapped)


def ours(args, directory, spent):
    """Function: decode all, or the first utterance, in batches -> {utterance: tokens}; spent: seconds of parts."""
    from espnet_llmvq.decode import generate as module

    for name, part in (("encoded", "encoder"), ("prompt_inputs", "bridge"), ("log_probability", "scores")):
        timed(module, name, spent, part)
    model, tokenizer = load(directory)

    def decode(first=False):
        found = {}
        for ids, batch in batches(args, tokenizer, 1 if first else 64):
            lists = module.generate(model, tokenizer, module.encoded(model, batch), args.num_beams)
            found.update((utt, row[0].tokens) for utt, row in zip(ids, lists))
            if first:
                break
        return found

    return decode


def alone(args, directory, spent):
    """Function: the same by plain `generate` over one utterance after another."""
    import torch

    from espnet_llmvq.decode import generate as module

    for name, part in (("encoded", "encoder"), ("prompt_inputs", "bridge")):
        timed(module, name, spent, part)
    model, tokenizer = load(directory)
    eos, frame = tokenizer.eos_token_id, model.speech_encoder.rate.seconds

    @torch.inference_mode()
    def decode(first=False):
        found = {}
        for (utt,), batch in batches(args, tokenizer, 1):
            batch = module.encoded(model, batch)
            (prompt,) = module.prompt_inputs(model, batch)
            limit = module.length_limit(int(batch["speech_lengths"]) * frame)
            # Beyond the limit both searches end every text.
            end = module.EndAtLimit(torch.tensor([limit], device=prompt.device), args.num_beams, eos)
            (row,) = model.llm.generate(
                inputs_embeds=prompt[None],
                attention_mask=prompt.new_ones(1, len(prompt), dtype=torch.long),
                num_beams=args.num_beams,
                **({"length_penalty": 0.0} if args.num_beams > 1 else {}),
                do_sample=False,
                max_new_tokens=limit + 1,
                logits_processor=[end],
                eos_token_id=eos,
                pad_token_id=eos,
            ).tolist()
            found[utt] = row[: row.index(eos)] if eos in row else row
            if first:
                break
        return found

    return decode


def train_espnet(args, tokenizer_dir, room, gpu):
    """Train ESPnet's model in the directory `room`, on a GPU or the CPU; seconds it took."""
    import sentencepiece

    from espnet_llmvq.llm.tokenizer import SP_MODEL

    bpe = os.path.join(tokenizer_dir, SP_MODEL)
    pieces = sentencepiece.SentencePieceProcessor(model_file=bpe)
    special = {"<blank>", "<unk>", "<s>", "</s>", "<pad>", "<sos/eos>"}
    tokens = [t for t in map(pieces.id_to_piece, range(pieces.get_piece_size())) if t not in special]
    write_text(f"{room}/tokens", "\n".join(["<blank>", "<unk>", *tokens, "<sos/eos>"]) + "\n")
    write_text(f"{room}/config.yaml", ESPNET.format(steps=args.espnet_steps))
    options = [("config", f"{room}/config.yaml"), ("output_dir", f"{room}/exp"), ("ngpu", str(int(gpu)))]
    options += [("token_type", "bpe"), ("bpemodel", bpe), ("token_list", f"{room}/tokens")]
    for name, data in (("train", args.train), ("valid", args.valid)):
        key = f"{name}_data_path_and_name_and_type"
        options += [(key, f"{data}/wav.scp,speech,sound"), (key, f"{data}/text,text,text")]
        options += [(f"{name}_shape_file", f"{data}/utt2num_samples")]
    command = [sys.executable, "-m", "espnet2.bin.asr_train"]
    command += [part for key, value in options for part in (f"--{key}", value)]
    start = time.perf_counter()
    with open(f"{room}/train.log", "w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        with open(f"{room}/train.log") as log:
            sys.exit(f"training ESPnet's model failed: {''.join(log.readlines()[-20:])}")
    return time.perf_counter() - start


def espnet(args, room, spent):
    """Function: decode all -> {utterance: text} by ESPnet's Speech2Text, one utterance after another."""
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_llmvq.data.audio import read_audio
    from espnet_llmvq.sequence.sequence import read_sequences

    search = Speech2Text(
        f"{room}/exp/config.yaml",
        f"{room}/exp/1epoch.pth",
        beam_size=args.num_beams,
        ctc_weight=0.3,
        nbest=1,
        device=device(),
    )
    files = [
        (s.id, next(p.audio for p in s.spans if p.is_speech))
        for s, _ in zip(read_sequences(args.set), range(args.utterances))
    ]

    def decode(first=False):
        return {utt: search(read_audio(path))[0][0] or "" for utt, path in files[: 1 if first else None]}

    return decode


def measure(args, make, *given):
    """Run `make(args, *given, {})()` in a process of its own: (hypotheses, times and memory)."""

    def child(end):
        import logging

        import torch

        logging.disable(logging.WARNING)
        torch.set_num_threads(args.threads)
        spent = {}
        decode = make(args, *given, spent)
        decode(first=True)
        spent.clear()
        wall, cpu = clock(), time.process_time()
        found = decode()
        told = {
            "seconds": round(clock() - wall, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "parts_seconds": {part: round(value, 2) for part, value in spent.items()},
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "device": "CPU",
        }
        if device() == "cuda":
            told["peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
            told["device"] = torch.cuda.get_device_name()
        end.send((found, told))

    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(False)
    process = fork.Process(target=child, args=(sender,))
    process.start()
    sender.close()
    try:
        found, told = receiver.recv()
    except EOFError:
        sys.exit(f"decoding ({make.__name__}) failed")
    process.join()
    print(make.__name__, told, flush=True)
    return found, told


def error_rate(args, texts):
    """Word error rate in percent of {utterance: text}."""
    from espnet_llmvq.data.normalise import get_normaliser
    from espnet_llmvq.score.wer import score_utterances, split_words, total
    from espnet_llmvq.sequence.sequence import read_sequences

    refs = {s.id: s.transcript for s in read_sequences(args.set) if s.id in texts}
    normalise = get_normaliser("basic")
    score = total(score_utterances(split_words(refs, normalise), split_words(texts, normalise)))
    return round(100 * (score.substitutions + score.deletions + score.insertions) / score.words, 2)


def main():
    args = get_parser().parse_args()
    args.json = os.path.abspath(args.json)
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import read_systems

    os.chdir(args.recipe)
    (system,) = read_systems(read_cards("conf"), [args.system], args.expdir)
    directory = system.model
    if not os.path.exists(os.path.join(directory, "model.pth")) or not os.path.exists(args.set):
        told = f"{args.recipe} has no trained {args.system}; run the recipe first"
        print(told)
        write_text(args.json, json.dumps({"skipped": told}) + "\n")
        return
    import espnet_llmvq.model.build  # noqa: F401  shared by forked processes
    from espnet_llmvq.base.config import read_yaml
    from espnet_llmvq.llm.directory import load_tokenizer

    llm = read_yaml(os.path.join(directory, "config.yaml"))["llm"]
    tokenizer = load_tokenizer(llm)
    audio = batches(args, tokenizer, 64)
    seconds = audio.seconds(audio.order)
    found, batched = measure(args, ours, directory)
    same, single = measure(args, alone, directory)
    differ = [utt for utt in found if found[utt] != same[utt]]
    if differ:
        sys.exit(f"{len(differ)} of {len(found)} hypotheses differ, such as {differ[0]}: the times mean nothing")

    def text(tokens):
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()

    batched["wer"] = error_rate(args, {utt: text(tokens) for utt, tokens in found.items()})
    result = {
        "speedup": round(single["seconds"] / batched["seconds"], 2),
        "speedup_cpu": round(single["cpu_seconds"] / batched["cpu_seconds"], 2),
        "rtfx": round(seconds / batched["seconds"], 1),
        "peak_mb": batched["peak_mb"],
        "device": batched["device"],
        "cpus": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "audio_seconds": round(seconds, 1),
        **{key: getattr(args, key) for key in ("system", "set", "utterances", "num_beams", "threads")},
        "ours": batched,
        "alone": single,
    }
    if args.espnet_steps:
        with tempfile.TemporaryDirectory() as room:
            training = train_espnet(args, llm, room, batched["device"] != "CPU")
            texts, told = measure(args, espnet, room)
        told |= {"training_seconds": round(training), "steps": args.espnet_steps, "wer": error_rate(args, texts)}
        result["espnet"] = told
        result["speedup_espnet"] = round(told["seconds"] / batched["seconds"], 2)
        result["speedup_espnet_cpu"] = round(told["cpu_seconds"] / batched["cpu_seconds"], 2)
    write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
