"""Learning curves: systems after parts of their steps, by the checkpoints that were kept."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import check_outputs, write_text, writing
from espnet_llmvq.experiment.options import words
from espnet_llmvq.experiment.phases import optimizer_steps
from espnet_llmvq.experiment.table import System
from espnet_llmvq.report.training import parse_train_log
from espnet_llmvq.score.rows import COMPARED, SET
from espnet_llmvq.score.table import Cell, Column, Row, Table, cell_of, markdown_table, tsv_text

FILES = ("CURVES.md", "curves.tsv", "curves.png")
REMEDY = (
    "give the phase num_iters_per_epoch and max_epoch that end an epoch there, and all of them to keep "
    "(keep_nbest_models: [2, 8]); the group `curves` has such systems"
)


@dataclass(frozen=True)
class Checkpoint:
    """A system after some of its steps. loss: of the validation set, None if it is not logged."""

    system: System
    steps: int
    loss: float | None


def kept_checkpoints(experiment, system):
    """({steps: `Checkpoint`}, steps in all) of a system, over its phases that train with the LLM.

    Raises UserError for a system that has none, and for a phase whose steps follow from the data alone.
    """
    trainings, found, done = {training.tag: training for training in experiment.trainings}, {}, 0
    for tag in system.phases if system.decode == "llm" else ():
        config, home = trainings[tag].config, Path(experiment.exp(tag))
        if not (config.get("model_conf") or {}).get("llm_weight", 1.0):
            continue
        each = optimizer_steps({**config, "max_epoch": 1})
        if each is None:
            raise UserError(f"{trainings[tag].where}: how many steps an epoch has depends on the data; {REMEDY}")
        log = home / "train.log"
        losses = parse_train_log(log)["valid"] if log.exists() else {}
        for epoch in range(1, config["max_epoch"] + 1):
            weights = f"{epoch}epoch.pth"
            if (home / weights).exists():
                at = replace(system, model=str(home), weights=weights)
                found[done + epoch * each] = Checkpoint(at, done + epoch * each, losses.get(epoch))
        done += config["max_epoch"] * each
    if not found:
        raise UserError(
            f"{system.name} has no checkpoint with the LLM; it is not trained, or the LLM does not write it"
        )
    return found, done


def read_parts(text):
    """{name of a directory: Fraction} of parts of the steps such as "1/8 1". Raises UserError for what is none."""
    found = {}
    for word in words(text, "at"):
        try:
            part = Fraction(word)
        except (ValueError, ZeroDivisionError):
            part = Fraction(0)
        if not 0 < part <= 1:
            raise UserError(f"--at {word}: give parts of all steps above 0, up to 1, such as 1/8 or 0.5")
        found[f"{part.numerator}_of_{part.denominator}"] = part
    if not found:
        raise UserError("--at is empty; give parts of all steps, such as 1/8 1")
    return found


def choose(experiment, systems, parts):
    """{(name of a part, name of a system): `Checkpoint`}. Raises UserError where one was not kept."""
    found = {}
    for system in systems:
        kept, total = kept_checkpoints(experiment, system)
        for name, part in parts.items():
            if part * total not in kept:
                there = ", ".join(map(str, sorted(kept)))
                raise UserError(
                    f"{system.name}: no checkpoint after {part} of its {total} steps was kept, but after {there}; "
                    f"{REMEDY}"
                )
            found[name, system.name] = kept[part * total]
    return found


def curves(experiment, systems, parts, sets, *, nj=1, ngpu=0):
    """Decode sets with the checkpoints of systems after `parts` of their steps, score them, and write tables and plots.

    parts: of `read_parts`; sets: names. Results of all systems after a part are in RESULTS_DIR/curves/PART, as scoring
    writes them; FILES beside.
    """
    from espnet_llmvq.score.derail import AuditRules
    from espnet_llmvq.score.files import Rules
    from espnet_llmvq.score.options import Options, Statistics
    from espnet_llmvq.score.scoring import score_all, write_results
    from espnet_llmvq.stages.decode import decode, rescore

    options, home = experiment.options, Path(experiment.results_dir, "curves")
    check_outputs([home / name for name in FILES])
    chosen = choose(experiment, systems, parts)
    for (part, name), one in chosen.items():
        hypotheses = str(home / part / "decode" / name / "{set}" / "hyp.jsonl")
        note = "" if one.loss is None else f"{one.steps} steps, validation loss {one.loss:.3f}"
        chosen[part, name] = replace(one, system=replace(one.system, hypotheses=hypotheses, note=note))
    for part in parts:
        now = [chosen[part, system.name].system for system in systems]
        print(f"{part.replace('_', ' ')} of the steps", flush=True)
        decode(experiment, now, sets, nj=nj, ngpu=ngpu)
        rescore(experiment, now, sets)
    scoring = Options(Statistics(options.resample), Rules(empty_hyp="keep"), AuditRules(), options.prompt)
    table, found = experiment.table(), {}
    for part in parts:
        now = tuple(chosen[part, system.name].system for system in systems)
        names = [system.name for system in now]
        base = table.baseline if table.baseline in names else names[0]
        columns = tuple(experiment.eval_set(experiment.scored_set(name)) for name in sets)
        one = replace(table, systems=now, sets=columns, baseline=base, published=(), answers=(), differences={})
        scored = score_all(one, scoring, home / part)
        write_results(scored, home / part)
        rows = [row for row in scored.results.rows if (row["kind"], row["metric"]) == (SET, COMPARED)]
        found |= {(part, row["system"], row["set"]): row for row in rows}
    write_curves(home, {system.name: system.label for system in systems}, parts, sets, chosen, found)
    return home


def write_curves(home, labels, parts, sets, chosen, found):
    """Write FILES to `home`. chosen: of `choose`; found: {(part, system, set): entry of results.json}."""
    header, lines = ("system", "part", "steps", "loss", "set", "wer", "low", "high"), []
    for (part, name), one in chosen.items():
        for set_name in sets:
            row = found[part, name, set_name]
            lines.append((name, parts[part], one.steps, one.loss, set_name, row["value"], row["low"], row["high"]))
    write_text(home / "curves.tsv", tsv_text(header, lines))
    panels = [("Loss of the validation set", lambda part, name: Cell(chosen[part, name].loss, form=".3f"))]
    panels += [(f"WER on {s} (%)", lambda part, name, s=s: cell_of(found[part, name, s])) for s in sets]
    text, columns = (
        "# Learning curves\n\nAfter parts of the steps with the LLM.\n",
        [Column(str(p)) for p in parts.values()],
    )
    for title, cell in panels:
        rows = [Row(label, [cell(part, name) for part in parts], name) for name, label in labels.items()]
        text += f"\n## {title}\n\n{markdown_table(Table(title, columns, rows))}"
    write_text(home / "CURVES.md", text)
    with writing(home / "curves.png", binary=True) as f:
        draw(f, labels, parts, chosen, panels)


def draw(file, labels, parts, chosen, panels):
    """Draw each panel over the steps, a line a system, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 4), layout="constrained")
    for axis, (title, cell) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name, label in labels.items():
            points = {chosen[part, name].steps: cell(part, name) for part in sorted(parts, key=parts.get)}
            points = {steps: one for steps, one in points.items() if one.is_number}
            ends = [(c.value - c.low, c.high - c.value) if c.ends else (0, 0) for c in points.values()]
            y = [c.value for c in points.values()]
            axis.errorbar([*points], y, yerr=[*zip(*ends)] or None, label=label, marker="o", markersize=4, capsize=3)
        axis.set_title(title, parse_math=False)
        axis.set_xlabel("steps")
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
