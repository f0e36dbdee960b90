"""Decode test sets with trained systems (stage 12): hypotheses and n-best lists in EXPDIR/TAG/decode_SET."""

import os

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", required=True, help="systems and groups of conf_dir/systems.yaml")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--expdir", default="exp", help="where models are and hypotheses go")
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--set", action="append", required=True, help="NAME=SEQUENCES[=FRAMES.scp], repeated")
    parser.add_argument("--llm", help="LLM directory of systems with `decode: ctc_lm`")
    parser.add_argument("--num_beams", type=int, default=4, help="beam of the search, and length of n-best lists")
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
    parser.add_argument(
        "--other_prompt", action="store_true", help="decode sequences whose prompt is not the one of training"
    )
    parser.add_argument("--redo", action="store_true", help="decode again what is decoded")
    return parser


def read_sets(specs):
    """["NAME=SEQUENCES[=SCP]"] -> {NAME: (sequences, scp or None)}."""
    from espnet_llmvq.base.errors import UserError

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


def search_options(args, system):
    """What decides the hypotheses of a system, beside its model: written beside them."""
    if system.decode == "ctc":
        return {}
    options = {"num_beams": args.num_beams}
    return {**options, **({"length_penalty": args.length_penalty} if system.decode == "llm" else dict(system.fusion))}


def check_prompt(path, templates, trained, other_prompt):
    """Facts about the prompt of sequences for environment.json.

    templates: {template: first utterance} of the sequences in `path`; trained: the model's, None if not recorded.
    Raises UserError if they differ and other_prompt is false.
    """
    from espnet_llmvq.base.errors import UserError

    facts = {"prompt": " | ".join(sorted(templates))}
    for template, utt in templates.items():
        if trained is not None and template != trained:
            if not other_prompt:
                raise UserError(
                    f"{path}: {utt} has the prompt {template!r}, but the model was trained with {trained!r}; make the "
                    "sequences with that --prompt (stage 9), or give --other_prompt to decode with another one"
                )
            facts["prompt of training"] = trained
    return facts


def load_fusion_lm(path, tokenizer, device):
    """The LLM of a system with `decode: ctc_lm`. Raises UserError unless it has the tokens of the CTC head."""
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.llm.directory import load_llm, load_tokenizer

    if path is None:
        raise UserError("decode: ctc_lm needs an LLM: give --llm")
    if load_tokenizer(path).get_vocab() != tokenizer.get_vocab():
        raise UserError(f"--llm {path} has other tokens than the encoder's CTC head; train both with one tokenizer")
    return load_llm(path).to(device).eval()


def decode_system(args, system, sets):
    """Decode every set with one system."""
    import json
    import time

    import torch
    from tqdm import tqdm

    from espnet_llmvq.base.environment import FILE, facts
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.decode.batches import read_batches
    from espnet_llmvq.decode.ctc import greedy
    from espnet_llmvq.decode.generate import encoded, generate
    from espnet_llmvq.decode.nbest import NBEST, Partial, nbest_line, read_nbest, write_hypotheses
    from espnet_llmvq.decode.rescore import add_ctc_scores
    from espnet_llmvq.espnet.task import load_model
    from espnet_llmvq.experiment.systems import hypothesis_file, system_dir
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.speech.pretrained import changes_frames

    torch.set_num_threads(args.threads)
    directory, device = system_dir(system, args.expdir, args.encoder), "cuda" if args.ngpu else "cpu"
    model, model_args = load_model(directory, device)
    tokenizer = load_tokenizer(model_args.llm)
    options = search_options(args, system)
    if system.decode == "ctc_lm":
        from espnet_llmvq.decode.ctc_lm import search

        llm = load_fusion_lm(args.llm, tokenizer, device)

    def decode(batch):
        if system.decode == "ctc":
            return greedy(model, batch)
        if system.decode == "ctc_lm":
            return search(model, llm, tokenizer, batch, **options)
        return generate(model, tokenizer, batch, **options)

    # Scoring prints these, so that its tables do not depend on where they are made.
    made = facts(**options, ngpu=args.ngpu)
    for name, (sequences, cache) in sets.items():
        path = hypothesis_file(system, args.expdir, args.encoder, name)
        nbest = os.path.join(os.path.dirname(path), NBEST)
        cache = None if changes_frames(vars(model_args), model_args.encoder_file) else cache
        batches = read_batches(sequences, args.batch_seconds, model_args.llm, batch_size=args.batch_size, cache=cache)
        told = made
        if system.decode == "llm":
            trained = getattr(model_args, "prompt", None)
            told = {**made, **check_prompt(sequences, batches.templates, trained, args.other_prompt)}
        inputs = [sequences, os.path.join(directory, "model.pth")]
        partial = Partial(nbest, {**told, "inputs": [os.path.getmtime(file) for file in inputs]})
        if partial.done:
            print(f"{path}: {len(partial.done)} of {len(batches.order)} utterances are decoded, going on", flush=True)
        batches.skip(partial.done)
        start, audio = time.perf_counter(), 0.0
        total = sum(batches.seconds(keys) for keys in batches.batches)
        shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}{postfix}]"
        with tqdm(total=total, desc=f"{system.name} {name}", bar_format=shape, mininterval=2) as bar:
            for ids, batch in batches:
                batch = encoded(model, batch)
                lists = decode(batch)
                if system.decode != "ctc_lm" and model.ctc is not None:
                    lists = add_ctc_scores(model, batch, lists)
                texts = [[tokenizer.decode(h.tokens, skip_special_tokens=True).strip() for h in row] for row in lists]
                partial.add({i: nbest_line(i, row, found) for i, row, found in zip(ids, lists, texts)})
                audio += batches.seconds(ids)
                bar.set_postfix(RTF=f"{(time.perf_counter() - start) / audio:.3f}", refresh=False)
                bar.update(batches.seconds(ids))
        seconds = time.perf_counter() - start
        partial.finish(nbest, batches.order)
        chosen = {utt: row[0] if row else None for utt, row in read_nbest(nbest).items()}
        write_hypotheses(path, chosen)
        write_text(os.path.join(os.path.dirname(path), FILE), json.dumps(told, indent=1) + "\n")
        print(
            f"{path}: {len(chosen)} utterances, real-time factor {seconds / max(audio, 1e-9):.3f}, "
            f"{sum(bool(h and h.get('at_limit')) for h in chosen.values())} at the length limit",
            flush=True,
        )


def is_decoded(path, inputs, options):
    """Whether hypotheses and n-best lists are newer than the files `inputs` and made with these search options."""
    import json

    from espnet_llmvq.base.environment import FILE
    from espnet_llmvq.decode.nbest import NBEST

    directory = os.path.dirname(path)
    files = [path, os.path.join(directory, NBEST), os.path.join(directory, FILE)]
    if not all(map(os.path.exists, files)):
        return False
    if min(map(os.path.getmtime, files[:2])) < max(map(os.path.getmtime, inputs)):
        return False
    try:
        with open(files[2], encoding="utf-8") as f:
            made = json.load(f)
    except ValueError:  # damaged: decoded anew
        return False
    return all(made.get(key) == value for key, value in options.items())


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import hypothesis_file, read_systems, system_dir

    sets, work = read_sets(args.set), []
    for system in read_systems(read_cards(args.conf_dir), args.systems.split(), args.seed):
        model = os.path.join(system_dir(system, args.expdir, args.encoder), "model.pth")
        if not os.path.exists(model):
            raise UserError(f"{model} does not exist; run stage {11 if system.phases else 7}")
        fresh = {}
        for name, spec in sets.items():
            path = hypothesis_file(system, args.expdir, args.encoder, name)
            if args.redo or not is_decoded(path, [model, spec[0]], search_options(args, system)):
                fresh[name] = spec
        if fresh:
            work.append((system, fresh))
        else:
            print(f"[{system.name}] all sets are decoded, nothing to do")
    if not work:
        return
    print("loading libraries", flush=True)
    import espnet_llmvq.espnet.task  # noqa: F401  shared by forked processes
    from espnet_llmvq.base.processes import run_forked

    if args.ngpu or args.nj == 1:
        for system, fresh in work:
            decode_system(args, system, fresh)
        return
    jobs = {system.name: (args, system, fresh) for system, fresh in work}
    run_forked(decode_system, jobs, args.nj, "decoding with")
