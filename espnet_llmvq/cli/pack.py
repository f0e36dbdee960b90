"""Pack a trained system into one directory that loads on another machine (stage 16): safetensors, no pickles."""

import os
import sys

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--exp", default="exp", help="directory with the plan of the run (experiment.json)")
    parser.add_argument("--system", required=True, help="name of a system of the run")
    parser.add_argument("--out", required=True, help="directory to write; a packed one there is replaced")
    parser.add_argument(
        "--llm",
        help="copy: put the LLM inside; a name on the hub: store that name. Not given: a local directory is copied, "
        "a name stays a name",
    )
    parser.add_argument("--num_beams", type=int, help="beam; not given: as decoded in stage 12, or 4")
    parser.add_argument("--length_penalty", type=float, help="not given: as decoded in stage 12, or 0")
    parser.add_argument("--ctc_weight", type=float, help="not given: as chosen in stage 12, or 0")
    parser.add_argument(
        "--tokens_per_second", type=float, help="not given: as decoded in stage 12, or as training found"
    )
    parser.add_argument("--draft", choices=("none", "ctc"), help="not given: as decoded in stage 12, or none")
    parser.add_argument("--draft_accept", type=float, help="not given: as decoded in stage 12, or 1")
    parser.add_argument("--card", help="Markdown file for the model card: data, limits, all that the pack cannot know")
    parser.add_argument(
        "--licence", nargs="+", action="extend", default=[], help="licence files to put inside, such as of the data"
    )
    parser.add_argument("--max_mb", type=float, help="most MB that the directory may have; a larger one is an error")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.bundle.files import MB, SEARCH, check_draft, decoded_with, list_files
    from espnet_llmvq.bundle.licences import PARTS, unknown
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.score.rows import read_rows

    experiment = read_experiment(args.exp)
    system = experiment.system(args.system)
    if system.decode not in ("ctc", "llm"):
        raise UserError(
            f"--system {args.system}: a system that decodes with {system.decode} cannot be packed; ctc and llm can"
        )
    given = {key: getattr(args, key) for key in SEARCH if getattr(args, key) is not None}
    decoded = decoded_with(system) if system.decode == "llm" and len(given) < len(SEARCH) else {}
    search = {"num_beams": 4, "length_penalty": 0.0, "ctc_weight": 0.0, **decoded, **given}
    if search["num_beams"] < 1 or not 0 <= search["ctc_weight"] <= 1:
        raise UserError(f"num_beams {search['num_beams']} must be 1 or more, ctc_weight {search['ctc_weight']} 0 to 1")
    if not 0 <= search.get("draft_accept", 1) <= 1:
        raise UserError(f"draft_accept {search['draft_accept']} must be 0 to 1")
    check_draft(search, f"--system {args.system}")
    results = os.path.join(experiment.results_dir, "results.json")
    rows = read_rows(results) if os.path.exists(results) else []
    from espnet_llmvq.bundle.model import pack

    manifest = pack(
        system.model,
        args.out,
        system=system.name,
        label=system.label,
        decode=system.decode,
        search=search,
        llm=args.llm,
        prompt=experiment.options.prompt,
        rows=rows,
        labels={one.name: one.label for one in experiment.systems},
        about=args.card,
        licence=args.licence,
        max_mb=args.max_mb,
    )
    for part in unknown(manifest["licences"], manifest["files"]):
        print(f"{args.out}: no licence of {PARTS[part]} was found; put it inside with --licence", file=sys.stderr)
    size = sum(os.path.getsize(os.path.join(args.out, name)) for name in list_files(args.out))
    shown = ", ".join(f"{name} {value}" for name, value in search.items())
    print(f"{args.out}: {system.name}, {size / MB:.1f} MB, with {shown}")
