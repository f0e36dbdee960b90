"""Decode test sets with trained systems (stage 12): one JSON line an utterance in EXPDIR/TAG/decode_SET."""

import os

from espnet_llmvq.bin.cli import Parser, run


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", required=True, help="systems and groups under conf_dir/systems")
    parser.add_argument("--conf_dir", default="conf", help="holds systems/ and phases/")
    parser.add_argument("--expdir", default="exp", help="where models are and hypotheses go")
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--set", action="append", required=True, help="NAME=SEQUENCES[=FRAMES.scp], repeated")
    parser.add_argument("--num_beams", type=int, default=4, help="beam of the LLM")
    parser.add_argument(
        "--length_penalty",
        type=float,
        default=0.0,
        help="beam scores are divided by length to this power; 0 ranks by probability, 1 favours loops",
    )
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included")
    parser.add_argument("--batch_size", type=int, default=64, help="most utterances in a batch")
    parser.add_argument("--seed", type=int, default=1, help="the seed the systems were trained with")
    parser.add_argument("--nj", type=int, default=1, help="systems decoded at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to decode on a GPU")
    parser.add_argument("--redo", action="store_true", help="decode again what is decoded")
    return parser


def read_sets(specs):
    """["NAME=SEQUENCES[=SCP]"] -> {NAME: (sequences, scp or None)}."""
    from espnet_llmvq.errors import UserError

    sets = {}
    for spec in specs:
        name, *rest = spec.split("=")
        if len(rest) not in (1, 2):
            raise UserError(f"--set {spec}: expected NAME=SEQUENCES[=FRAMES.scp]")
        if not os.path.exists(rest[0]):
            raise UserError(f"--set {spec}: {rest[0]} does not exist; run stage 9")
        cache = rest[1] if len(rest) == 2 and os.path.exists(rest[1]) else None
        sets[name] = (rest[0], cache)
    return sets


def decode_system(args, system, sets):
    """Decode every set with one system."""
    import json
    import time

    import torch
    from tqdm import tqdm

    from espnet_llmvq.decode.batches import read_batches
    from espnet_llmvq.decode.ctc import greedy
    from espnet_llmvq.decode.generate import generate
    from espnet_llmvq.environment import FILE, facts
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.score.files import write_text
    from espnet_llmvq.sequence import SAMPLE_RATE
    from espnet_llmvq.systems import hypothesis_file, system_dir
    from espnet_llmvq.tasks.speech_llm import load_model

    torch.set_num_threads(args.threads)
    directory = system_dir(system, args.expdir, args.encoder)
    model, model_args = load_model(directory, "cuda" if args.ngpu else "cpu")
    tokenizer = load_tokenizer(model_args.llm)
    # Scoring prints these, so that its tables do not depend on where they are made.
    options = {"num_beams": args.num_beams, "length_penalty": args.length_penalty}
    made = facts(**options if system.decode == "llm" else {}, ngpu=args.ngpu)
    for name, (sequences, cache) in sets.items():
        path, found = hypothesis_file(system, args.expdir, args.encoder, name), {}
        start = time.perf_counter()
        batches = read_batches(
            sequences, args.batch_seconds, model_args.llm, batch_size=args.batch_size, cache=cache
        )
        samples = sum(s.samples for p in batches.prompts.values() for s in p.spans if s.is_speech)
        for ids, batch in tqdm(batches, desc=f"{system.name} {name}", unit="batch", mininterval=2):
            if system.decode == "ctc":
                texts, _ = greedy(model, tokenizer, batch)
                cut = [False] * len(ids)
            else:
                texts, _, cut = generate(
                    model, tokenizer, batch, args.num_beams, length_penalty=args.length_penalty
                )
            found.update({i: (t, c) for i, t, c in zip(ids, texts, cut)})
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            for utt in batches.order:
                text, at_limit = found[utt]
                line = {"id": utt, "text": text}
                f.write(json.dumps({**line, "at_limit": True} if at_limit else line, ensure_ascii=False) + "\n")
        os.replace(path + ".tmp", path)
        write_text(os.path.join(os.path.dirname(path), FILE), json.dumps(made, indent=1) + "\n")
        seconds, audio = time.perf_counter() - start, samples / SAMPLE_RATE
        print(
            f"{path}: {len(found)} utterances, real-time factor {seconds / audio:.3f}, "
            f"{sum(c for _, c in found.values())} at the length limit",
            flush=True,
        )


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.errors import UserError
    from espnet_llmvq.systems import hypothesis_file, read_systems, system_dir

    sets, work = read_sets(args.set), []
    for system in read_systems(args.conf_dir, args.systems.split(), args.seed):
        model = os.path.join(system_dir(system, args.expdir, args.encoder), "model.pth")
        if not os.path.exists(model):
            raise UserError(f"{model} does not exist; run stage {11 if system.phases else 7}")
        fresh = {}
        for name, spec in sets.items():
            path = hypothesis_file(system, args.expdir, args.encoder, name)
            inputs = max(os.path.getmtime(model), os.path.getmtime(spec[0]))
            if args.redo or not os.path.exists(path) or os.path.getmtime(path) < inputs:
                fresh[name] = spec
        if fresh:
            work.append((system, fresh))
        else:
            print(f"[{system.name}] all sets are decoded, nothing to do")
    if not work:
        return
    print("loading libraries", flush=True)
    import multiprocessing

    import espnet_llmvq.tasks.speech_llm  # noqa: F401  shared by forked processes

    if args.ngpu or args.nj == 1:
        for system, fresh in work:
            decode_system(args, system, fresh)
        return
    with multiprocessing.get_context("fork").Pool(args.nj, maxtasksperchild=1) as pool:
        pool.starmap(decode_system, [(args, system, fresh) for system, fresh in work], chunksize=1)


if __name__ == "__main__":
    run(main)
