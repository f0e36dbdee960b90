"""The analysis of an experiment: all systems with a bridge on all test sets -> tables, figures, a page."""

import json
import os
from dataclasses import asdict, dataclass

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_replaceable, write_text
from espnet_llmvq.base.made import NAME, Made
from espnet_llmvq.report.analysis import FILE
from espnet_llmvq.score.files import read_transcript

LEAST = {"utterances": 3, "examples": 0, "replicates": 1}


@dataclass(frozen=True)
class Analysis:
    """What is looked at: at most so many utterances of a set, of them examples with nearest tokens; replicates of the
    bootstrap; seed of what is drawn; title of the page of nearest tokens."""

    utterances: int = 200
    examples: int = 3
    replicates: int = 1000
    draw_seed: int = 1
    title: str = "Analysis"

    def __post_init__(self):
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: at least {least} are needed")


def analyse_system(options, system, sets, chosen, ngpu=0, spoken=None):
    """One system on all sets: (rows, warnings, {set: t-SNE panel}, {set: {utterance: steps}}).

    sets: {name: (sequences, frames.scp or None)}; chosen: {name: {utterance: transcript}}. spoken: as `analyse`.
    """
    from espnet_llmvq.analyse import tsne
    from espnet_llmvq.analyse.collect import collect, diagnose
    from espnet_llmvq.analyse.gap import gap_rows
    from espnet_llmvq.analyse.heard import closeness
    from espnet_llmvq.analyse.nearest import describe
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.score.table import number
    from espnet_llmvq.sequence.heard import read_confusions
    from espnet_llmvq.speech.pretrained import frames_are_trained

    model, config = load_model(system.model, "cuda" if ngpu else "cpu")
    if model.llm is None:
        raise UserError(f"{system.model}: its last phase runs no LLM, so there is nothing to analyse")
    tokenizer, confusions = load_tokenizer(config["llm"]), read_confusions(spoken) if spoken else None
    rows, warnings, panels, steps = [], [], {}, {}
    for name, (sequences, cache) in sets.items():
        cache = None if frames_are_trained(config, config["encoder_file"]) else cache
        found = collect(model, tokenizer, sequences, cache, chosen[name])
        numbers, collapsed = diagnose(model, found)
        if confusions:
            numbers |= closeness(model, config, sequences, cache, chosen[name], confusions, options.draw_seed)
        warnings += [f"{system.label} on {name}: {text}" for text in collapsed]
        clouds = (found.speech, found.text, found.transcripts)
        measured = gap_rows(*clouds, options.replicates, options.draw_seed, name)
        measured += [{"metric": m, "value": v, "low": None, "high": None} for m, v in numbers.items()]
        for row in measured:
            values = {key: number(row[key]) for key in ("value", "low", "high")}
            size = {"utterances": len(found.ids), "steps": sum(found.counts)}
            rows.append({"system": system.name, "set": name, "metric": row["metric"], **values, **size})
        drawn = tsne.spaced(len(found.ids))
        speech, text = tsne.embed(found.speech[drawn], found.text[drawn], options.draw_seed)
        panels[name] = tsne.Panel(system.name, system.label, text, speech)
        examples = range(min(options.examples, len(found.ids)))
        steps[name] = {found.ids[i]: describe(model, tokenizer, found, i) for i in examples}
        print(f"[{system.name}] {name}: {len(found.ids)} utterances, {sum(found.counts)} steps", flush=True)
    return rows, warnings, panels, steps


def page_entries(systems, chosen, steps, examples):
    """Entries of the page of nearest tokens: one for each set and utterance, with all systems."""
    entries = []
    for name, texts in chosen.items():
        paths = {system.name: system.hyp_path(name) for system in systems}
        hyps = {system: read_transcript(path) if path.exists() else {} for system, path in paths.items()}
        for utt in list(texts)[:examples]:
            shown = [
                {"name": s.name, "label": s.label, "hyp": hyps[s.name].get(utt), "steps": steps[s.name][name][utt]}
                for s in systems
            ]
            entries.append({"set": name, "utt": utt, "ref": texts[utt].strip(), "systems": shown})
    return entries


def analyse(systems, sets, out_dir, options, *, nj=1, ngpu=0, redo=False, spoken=None):
    """Analyse trained systems with a bridge, unless that is done. sets: {name: (sequences, frames.scp or None)}.

    spoken: file of spoken words (`sequence.heard`), to see how close text as if heard comes to the speech of the sets.
    """
    for system in systems:
        if system.decode != "llm":
            print(f"[{system.name}] has no bridge, left out")
    systems = [system for system in systems if system.decode == "llm"]
    if not systems:
        return
    inputs = {f"sequences of {name}": sequences for name, (sequences, _) in sets.items()}
    inputs |= {f"frames of {name}": os.path.dirname(cache) for name, (_, cache) in sets.items() if cache}
    inputs |= {"spoken words": spoken} if spoken else {}
    for system in systems:
        inputs[f"model of {system.name}"] = os.path.join(system.model, "model.pth")
        inputs |= {f"{system.name} on {name}": system.hyp_path(name) for name in sets}
        if not os.path.exists(inputs[f"model of {system.name}"]):
            raise UserError(f"{system.model}/model.pth does not exist; run stage 11")
    labels = {system.name: system.label for system in systems}
    made = Made(out_dir, inputs, **asdict(options), labels=labels)
    if not redo and made.fresh():
        print(f"{out_dir} is up to date, nothing to do")
        return
    check_replaceable(out_dir, NAME)
    print("loading libraries", flush=True)
    import torch

    from espnet_llmvq.analyse import nearest, tsne
    from espnet_llmvq.analyse.collect import LEAST as LEAST_OF_SET
    from espnet_llmvq.analyse.collect import choose
    from espnet_llmvq.report.analysis import markdown
    from espnet_llmvq.report.page import render
    from espnet_llmvq.score.table import rows_tsv

    torch.set_num_threads(1)
    chosen = {n: choose(spec[0], options.utterances, options.draw_seed, n) for n, spec in sets.items()}
    for name in [name for name in sets if not chosen[name]]:
        print(f"{name}: fewer than {LEAST_OF_SET} utterances with a transcript, left out")
    sets = {name: spec for name, spec in sets.items() if chosen[name]}
    chosen = {name: chosen[name] for name in sets}
    if not sets:
        raise UserError(f"no set has {LEAST_OF_SET} utterances with a transcript, so there is nothing to analyse")
    jobs = {system.name: (options, system, sets, chosen, ngpu, spoken) for system in systems}
    if ngpu or nj == 1:
        analysed = {name: analyse_system(*job) for name, job in jobs.items()}
    else:
        import espnet_llmvq.model.build  # noqa: F401  shared by forked processes
        from espnet_llmvq.base.processes import run_forked

        analysed = run_forked(analyse_system, jobs, nj, "analysing")
    rows, warnings, panels, steps = [], [], {name: [] for name in sets}, {}
    for system in systems:
        new, collapsed, places, steps[system.name] = analysed[system.name]
        rows, warnings = rows + new, warnings + collapsed
        for name, panel in places.items():
            panels[name].append(panel)
    entries = page_entries(systems, chosen, steps, options.examples)
    page = render("nearest.html.jinja", title=options.title, entries=entries)
    analysis = {
        "utterances": options.utterances, "draw_seed": options.draw_seed, "labels": labels, "warnings": warnings,
        "rows": rows,
    }  # fmt: skip
    files = {
        "nearest.html": page,
        "nearest.tsv": nearest.tsv(entries),
        "analysis.tsv": rows_tsv(rows),
        "ANALYSIS.md": markdown(analysis),
        FILE: json.dumps(analysis, indent=1, ensure_ascii=False) + "\n",
    }
    # All of it again: figures of sets or systems that are no longer asked for must not reach the report.
    with made.rebuilding() as new_dir:
        for name in sets:
            ids = [list(chosen[name])[i] for i in tsne.spaced(len(chosen[name]))]
            texts = [chosen[name][utt].strip() for utt in ids]
            tsne.draw(os.path.join(new_dir, f"tsne_{name}.png"), f"{name}: utterance means (t-SNE)", panels[name])
            write_text(os.path.join(new_dir, f"tsne_{name}.tsv"), tsne.tsv(panels[name], ids, texts))
        for name, text in files.items():
            write_text(os.path.join(new_dir, name), text)
        made.note(files=sorted(os.listdir(new_dir)), at=new_dir)
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"written to {os.path.join(out_dir, 'ANALYSIS.md')}")
