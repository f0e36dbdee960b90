"""Who is asked, and what is answered already: answers lie in DIRECTORY/KIND_NAME/answers.jsonl.

Light, so that a run that has nothing left to ask ends at once.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from espnet_llmvq.base.environment import FILE, facts
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.score.questions import ANSWERS, SPEECH, TEXT, read_answers


def is_answered(path, inputs, made):
    """Whether answers are newer than the files `inputs` and were `made` with the same options."""
    beside = os.path.join(os.path.dirname(path), FILE)
    if not (os.path.exists(path) and os.path.exists(beside)):
        return False
    if os.path.getmtime(path) < max(map(os.path.getmtime, inputs)):
        return False
    try:
        with open(beside, encoding="utf-8") as f:
            known = json.load(f)
    except ValueError:  # damaged: asked anew
        return False
    return all(known.get(key) == value for key, value in made.items())


def print_accuracy(path):
    """Print the accuracy of the answers in `path`."""
    told = []
    for metric, right in read_answers(Path(path)).right.items():
        for form, values in right.items():
            told.append(f"{metric}_{form} {100 * values.mean():.2f} %")
    print(f"{path}: {len(values)} questions, {', '.join(told)}", flush=True)


def ask_all(args, kind, options, questions, examples):
    """Ask the systems and the LLM of parsed arguments what was not asked yet."""
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import read_systems, system_dir

    forms = (TEXT,) if args.text_only else (TEXT, SPEECH)
    name = f"{kind}_{Path(args.questions).stem}"
    files = [args.questions, *([args.examples] if getattr(args, "examples", None) else [])]
    made = {"options": {**asdict(options), "examples": [q.id for q in examples]}, "forms": None, "ngpu": args.ngpu}
    work = []  # (name, what is loaded, file it depends on, forms, answers)
    for system in read_systems(read_cards(args.conf_dir), args.systems.split(), args.seed) if args.systems else ():
        if system.decode != "llm":
            continue
        directory = system_dir(system, args.expdir, args.encoder)
        model = os.path.join(directory, "model.pth")
        if not os.path.exists(model):
            raise UserError(f"{model} does not exist; run stage 11")
        work.append((system.name, directory, model, forms, os.path.join(directory, name, ANSWERS)))
    if args.llm:
        weights = os.path.join(args.llm, "config.json") if os.path.isdir(args.llm) else args.questions
        work.append(("llm", None, weights, (TEXT,), os.path.join(args.llm_dir, name, ANSWERS)))
    waiting = []
    for label, directory, model, asked, path in work:
        told = {**made, "forms": list(asked)}
        if not args.redo and is_answered(path, [*files, model], told):
            print(f"[{label}] {name} is answered, nothing to do", flush=True)
        else:
            waiting.append((label, directory, asked, path, told))
    if not waiting:
        return
    print("loading libraries", flush=True)
    import torch

    from espnet_llmvq.base.processes import run_forked
    from espnet_llmvq.decode.questions import Asker, audio_samples, load

    samples = {}
    if any(SPEECH in asked for _, _, asked, _, _ in waiting):
        spoken = [*questions, *examples] if getattr(options, "spoken_examples", False) else questions
        samples = audio_samples(spoken, args.questions)
    asker = Asker(kind, questions, examples, options, samples, args.batch_size)

    def ask(label, directory, asked, path, told):
        torch.set_num_threads(args.threads)
        model, tokenizer = load(directory, args.llm, "cuda" if args.ngpu else "cpu")
        lines = asker.ask(model, tokenizer, asked, f"{label} {name}")
        # Facts last: answers without them are asked again.
        Path(path).with_name(FILE).unlink(missing_ok=True)
        write_text(path, lines)
        write_text(Path(path).with_name(FILE), json.dumps(facts(**told), indent=1, ensure_ascii=False) + "\n")
        print_accuracy(path)

    if args.ngpu or args.nj == 1:
        for job in waiting:
            ask(*job)
    else:
        import espnet_llmvq.espnet.task  # noqa: F401  shared by forked processes

        run_forked(ask, {job[0]: job for job in waiting}, args.nj, f"{name}: asking")
