"""Questions put to systems: answers lie in DIRECTORY/KIND_NAME/answers.jsonl, with facts beside them."""

from pathlib import Path

from espnet_llmvq.base.environment import FILE, facts
from espnet_llmvq.base.files import write_json, write_text
from espnet_llmvq.score.questions import SPEECH, read_answers


def print_accuracy(path):
    """Print the accuracy of the answers in `path`."""
    parts = []
    for metric, right in read_answers(Path(path)).right.items():
        for form, values in right.items():
            parts.append(f"{metric}_{form} {100 * values.mean():.2f} %")
    print(f"{path}: {len(values)} questions, {', '.join(parts)}", flush=True)


def ask_all(jobs, kind, options, questions, examples, llm, path, nj=1, ngpu=0, batch_size=16):
    """Ask several systems the same questions.

    jobs: [(label, directory of the system or None for the LLM alone, forms, `Made` of the answers)]. options:
    `MultipleChoice` or `OpenQuestions`. llm: directory or hub id of the LLM that is asked alone. path: of the
    questions, for messages and audio.
    """
    import torch

    from espnet_llmvq.base.processes import run_forked
    from espnet_llmvq.decode.questions import Asker, audio_samples, load

    samples = {}
    if any(SPEECH in forms for _, _, forms, _ in jobs):
        spoken = [*questions, *examples] if getattr(options, "spoken_examples", False) else questions
        samples = audio_samples(spoken, path)
    asker = Asker(kind, questions, examples, options, samples, batch_size)
    name = Path(jobs[0][3].out).parent.name

    def ask(label, directory, forms, made):
        torch.set_num_threads(1)
        model, tokenizer = load(directory, llm, "cuda" if ngpu else "cpu")
        lines = asker.ask(model, tokenizer, forms, f"{label} {name}")
        made.forget()
        write_text(made.out, lines)
        asked = {"options": {**made.options["options"], "examples": [q.id for q in examples]}, "forms": list(forms)}
        write_json(Path(made.out).with_name(FILE), facts(**asked, ngpu=ngpu))
        made.note()
        print_accuracy(made.out)

    if ngpu or nj == 1:
        for job in jobs:
            ask(*job)
    else:
        import espnet_llmvq.model.build  # noqa: F401  shared by forked processes

        run_forked(ask, {job[0]: job for job in jobs}, nj, f"{name}: asking")
