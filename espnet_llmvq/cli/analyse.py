"""Look into trained systems (stage 14): the gap between speech and text, nearest tokens, state of the bridge.

For each system with a bridge and each set, on at most --utterances utterances, writes to OUT_DIR analysis.json,
analysis.tsv and ANALYSIS.md (numbers, warnings), tsne_SET.png and .tsv, nearest.html and .tsv. docs/analysis.md
explains them.
"""

import json
import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_replaceable, replace_directory, write_text
from espnet_llmvq.cli.decode import read_sets
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.systems import hypothesis_file, read_systems, system_dir
from espnet_llmvq.report.analysis import FILE
from espnet_llmvq.score.files import read_transcript


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", required=True, help="names of systems of conf_dir/systems.yaml")
    parser.add_argument("--conf_dir", default="conf", help="holds systems.yaml")
    parser.add_argument("--expdir", default="exp", help="where models and hypotheses are")
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--set", action="append", required=True, help="NAME=SEQUENCES[=FRAMES.scp], repeated")
    parser.add_argument("--out_dir", help="directory of the analysis (EXPDIR/analysis if not given)")
    parser.add_argument("--utterances", type=int, default=200, help="most utterances of a set")
    parser.add_argument("--examples", type=int, default=3, help="utterances of a set with nearest tokens")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=1, help="the seed the systems were trained with")
    parser.add_argument("--draw_seed", type=int, default=1, help="of utterances, bootstrap and t-SNE")
    parser.add_argument("--title", default="Analysis", help="title of the page of nearest tokens")
    parser.add_argument("--nj", type=int, default=1, help="systems analysed at once, in processes of their own (CPU)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to run the bridge on a GPU")
    parser.add_argument("--redo", action="store_true", help="analyse again what is analysed")
    return parser


def settings(args, systems, sets):
    """What the numbers depend on, apart from the content of files."""
    made = {key: getattr(args, key) for key in ("utterances", "examples", "replicates", "draw_seed", "title")}
    models = {s.name: [s.label, system_dir(s, args.expdir, args.encoder)] for s in systems}
    return {**made, "systems": models, "sets": {name: spec[0] for name, spec in sets.items()}}


def up_to_date(path, wanted, inputs):
    """Whether the analysis in `path` was made with these settings, after all files `inputs`."""
    try:
        with open(path, encoding="utf-8") as f:
            if json.load(f)["settings"] != wanted:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    made = os.path.getmtime(path)
    return all(os.path.getmtime(p) <= made for p in inputs if os.path.exists(p))


def analyse_system(args, system, sets, chosen):
    """One system on all sets: (rows, warnings, {set: t-SNE panel}, {set: {utterance: steps}})."""
    from espnet_llmvq.analyse import tsne
    from espnet_llmvq.analyse.collect import collect, diagnose
    from espnet_llmvq.analyse.gap import gap_rows
    from espnet_llmvq.analyse.nearest import describe
    from espnet_llmvq.espnet.task import load_model
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.score.table import number
    from espnet_llmvq.speech.pretrained import changes_frames

    directory = system_dir(system, args.expdir, args.encoder)
    model, model_args = load_model(directory, "cuda" if args.ngpu else "cpu")
    if model.llm is None:
        raise UserError(f"{directory}: its last phase runs no LLM, so there is nothing to analyse")
    tokenizer = load_tokenizer(model_args.llm)
    rows, warnings, panels, steps = [], [], {}, {}
    for name, (sequences, cache) in sets.items():
        cache = None if changes_frames(vars(model_args), model_args.encoder_file) else cache
        found = collect(model, tokenizer, sequences, cache, chosen[name])
        numbers, collapsed = diagnose(model, found)
        warnings += [f"{system.label} on {name}: {text}" for text in collapsed]
        common = {"system": system.name, "set": name}
        for row in [
            *gap_rows(found.speech, found.text, found.transcripts, args.replicates, seed=args.draw_seed, name=name),
            *({"metric": m, "value": v, "low": None, "high": None} for m, v in numbers.items()),
        ]:
            values = {key: number(row[key]) for key in ("value", "low", "high")}
            size = {"utterances": len(found.ids), "steps": sum(found.counts)}
            rows.append({**common, "metric": row["metric"], **values, **size})
        drawn = tsne.spaced(len(found.ids))
        speech, text = tsne.embed(found.speech[drawn], found.text[drawn], args.draw_seed)
        panels[name] = tsne.Panel(system.name, system.label, text, speech)
        steps[name] = {
            found.ids[i]: describe(model, tokenizer, found, i) for i in range(min(args.examples, len(found.ids)))
        }
        print(f"[{system.name}] {name}: {len(found.ids)} utterances, {sum(found.counts)} steps", flush=True)
    return rows, warnings, panels, steps


def page_entries(args, systems, chosen, steps):
    """Entries of the page of nearest tokens: one for each set and utterance, with all systems."""
    entries = []
    for name, texts in chosen.items():
        hyps = {}
        for system in systems:
            path = hypothesis_file(system, args.expdir, args.encoder, name)
            hyps[system.name] = read_transcript(path) if os.path.exists(path) else {}
        for utt in list(texts)[: args.examples]:
            shown = [
                {
                    "name": system.name,
                    "label": system.label,
                    "hyp": hyps[system.name].get(utt),
                    "steps": steps[system.name][name][utt],
                }
                for system in systems
            ]
            entries.append({"set": name, "utt": utt, "ref": texts[utt].strip(), "systems": shown})
    return entries


def main(argv=None):
    args = get_parser().parse_args(argv)
    for option, least in (("utterances", 3), ("examples", 0), ("replicates", 1)):
        if getattr(args, option) < least:
            raise UserError(f"--{option} {getattr(args, option)}: at least {least} are needed")
    sets = read_sets(args.set)
    systems = read_systems(read_cards(args.conf_dir), args.systems.split(), args.seed)
    for system in systems:
        if not system.phases:
            print(f"[{system.name}] has no bridge, left out")
    systems = [system for system in systems if system.phases]
    if not systems:
        return
    inputs = [path for spec in sets.values() for path in spec if path]
    for system in systems:
        model = os.path.join(system_dir(system, args.expdir, args.encoder), "model.pth")
        if not os.path.exists(model):
            raise UserError(f"{model} does not exist; run stage 11")
        inputs += [model, *(hypothesis_file(system, args.expdir, args.encoder, name) for name in sets)]
    out_dir = args.out_dir or os.path.join(args.expdir, "analysis")
    wanted = settings(args, systems, sets)
    if not args.redo and up_to_date(os.path.join(out_dir, FILE), wanted, inputs):
        print(f"{out_dir} is up to date, nothing to do")
        return
    check_replaceable(out_dir, FILE)
    print("loading libraries", flush=True)
    import shutil

    import torch

    from espnet_llmvq.analyse import nearest, tsne
    from espnet_llmvq.analyse.collect import LEAST, choose
    from espnet_llmvq.report.analysis import markdown
    from espnet_llmvq.report.page import render
    from espnet_llmvq.score.table import rows_tsv

    torch.set_num_threads(args.threads)
    chosen = {name: choose(spec[0], args.utterances, args.draw_seed, name) for name, spec in sets.items()}
    for name in [name for name in sets if not chosen[name]]:
        print(f"{name}: fewer than {LEAST} utterances with a transcript, left out")
        del sets[name], chosen[name]
    if not sets:
        raise UserError(f"no set has {LEAST} utterances with a transcript, so there is nothing to analyse")
    jobs = {system.name: (args, system, sets, chosen) for system in systems}
    if args.ngpu or args.nj == 1:
        analysed = {name: analyse_system(*job) for name, job in jobs.items()}
    else:
        import espnet_llmvq.espnet.task  # noqa: F401  shared by forked processes
        from espnet_llmvq.base.processes import run_forked

        analysed = run_forked(analyse_system, jobs, args.nj, "analysing")
    rows, warnings, panels, steps = [], [], {name: [] for name in sets}, {}
    for system in systems:
        new, collapsed, places, steps[system.name] = analysed[system.name]
        rows, warnings = rows + new, warnings + collapsed
        for name, panel in places.items():
            panels[name].append(panel)
    # All anew: figures of sets or systems that are no longer asked for must not reach the report.
    home, name = os.path.split(os.path.abspath(out_dir))
    new_dir = os.path.join(home, f".{name}.tmp")
    shutil.rmtree(new_dir, ignore_errors=True)
    os.makedirs(new_dir)
    for name in sets:
        ids = [list(chosen[name])[i] for i in tsne.spaced(len(chosen[name]))]
        texts = [chosen[name][utt].strip() for utt in ids]
        tsne.draw(os.path.join(new_dir, f"tsne_{name}.png"), f"{name}: utterance means (t-SNE)", panels[name])
        write_text(os.path.join(new_dir, f"tsne_{name}.tsv"), tsne.tsv(panels[name], ids, texts))
    entries = page_entries(args, systems, chosen, steps)
    page = render("nearest.html.jinja", title=args.title, entries=entries)
    write_text(os.path.join(new_dir, "nearest.html"), page)
    write_text(os.path.join(new_dir, "nearest.tsv"), nearest.tsv(entries))
    write_text(os.path.join(new_dir, "analysis.tsv"), rows_tsv(rows))
    made = {
        "utterances": args.utterances,
        "draw_seed": args.draw_seed,
        "labels": {system.name: system.label for system in systems},
        "warnings": warnings,
        "rows": rows,
        "settings": wanted,
    }
    write_text(os.path.join(new_dir, "ANALYSIS.md"), markdown(made))
    write_text(os.path.join(new_dir, FILE), json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    replace_directory(new_dir, out_dir)
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"written to {os.path.join(out_dir, 'ANALYSIS.md')}")
