"""Draw the error rates and the training losses of an experiment (stage 15).

Reads EXP_DIR/results.json and EXP_DIR/RESULTS.md (stage 13) and EXP_DIR/*/train.log; writes
EXP_DIR/report/wer.png, training.png and README.md.
"""

import json
import os
import re
from pathlib import Path

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.errors import UserError
from espnet_llmvq.score.files import write_text

_EPOCH = re.compile(r"(\d+)epoch results: (.*)")
_SECTION = re.compile(r"\[(train|valid)\]([^\[]*)")
# Not part of a longer name such as ctc_loss.
_LOSS = re.compile(r"(?<!\w)loss=([^,\s]+)")


def parse_train_log(path):
    """Return {"train": {epoch: loss}, "valid": {epoch: loss}} of an ESPnet training log.

    A resumed training logs an epoch again; the last one counts.
    """
    losses = {"train": {}, "valid": {}}
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            match = _EPOCH.search(line)
            for split, values in _SECTION.findall(match[2]) if match else ():
                loss = _LOSS.search(values)
                if loss:
                    losses[split][int(match[1])] = float(loss[1])
    return losses


def _save(figure, path):
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    os.replace(temporary, path)


def draw_wer(rows, path):
    """Draw the WER entries of `results.json` as bars, grouped by set, one colour a system."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["metric"] == "wer"]
    sets = list(dict.fromkeys((row["set"], row["domain"]) for row in rows))
    sets.sort(key=lambda item: item[0].startswith("mean_"))  # means to the right
    systems = list(dict.fromkeys(row["system"] for row in rows))
    values = {(row["system"], row["set"]): row["value"] for row in rows}
    figure = Figure(figsize=(max(6, 0.9 + 0.25 * len(sets) * (len(systems) + 1)), 4))
    axes = figure.subplots()
    width = 0.8 / len(systems)
    for i, system in enumerate(systems):
        left = [j - 0.4 + (i + 0.5) * width for j in range(len(sets))]
        axes.bar(left, [values[system, name] for name, _ in sets], width, label=system)
    ticks = [f"{name}\n({domain.upper()})" for name, domain in sets]
    axes.set_xticks(range(len(sets)), ticks)
    axes.set_ylabel("WER (%)")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def draw_training(phases, path):
    """Draw training and validation loss by epoch, one panel a phase.

    phases: {name: what `parse_train_log` returns}
    """
    from matplotlib.figure import Figure

    columns = min(3, len(phases))
    lines = -(-len(phases) // columns)
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, losses) in zip(panels, phases.items()):
        for split, points in losses.items():
            epochs = sorted(points)
            axes.plot(epochs, [points[e] for e in epochs], marker="o", ms=3, label=split)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    for axes in panels[len(phases) :]:
        axes.remove()
    _save(figure, path)


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise UserError(f"{path}: not there; score the systems first (stage 13)") from None


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--exp_dir", default="exp", help="directory that stage 13 wrote to")
    args = parser.parse_args(argv)
    exp_dir = Path(args.exp_dir)
    tables = _read(exp_dir / "RESULTS.md").replace("# Results\n", "# Report\n", 1)
    try:
        rows = json.loads(_read(exp_dir / "results.json"))
    except ValueError:
        raise UserError(f"{exp_dir / 'results.json'}: not JSON; run stage 13 again") from None

    out_dir = exp_dir / "report"
    out_dir.mkdir(parents=True, exist_ok=True)
    draw_wer(rows, out_dir / "wer.png")
    phases = {log.parent.name: parse_train_log(log) for log in sorted(exp_dir.glob("*/train.log"))}
    phases = {name: losses for name, losses in phases.items() if any(losses.values())}
    training = f"No finished epoch is logged in {exp_dir}/*/train.log.\n"
    (out_dir / "training.png").unlink(missing_ok=True)  # perhaps of an earlier experiment
    if phases:
        draw_training(phases, out_dir / "training.png")
        training = "![loss by epoch](training.png)\n"
    write_text(
        out_dir / "README.md",
        f"{tables}\n## Word error rate by set\n\n![WER by set](wer.png)\n\n"
        f"## Training\n\n{training}",
    )
    print(f"written: {out_dir / 'README.md'}")


if __name__ == "__main__":
    run(main)
