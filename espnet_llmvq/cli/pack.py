"""Pack a trained system into one directory that loads on another machine (stage 16): safetensors, no pickles."""

import json
import os

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--system", required=True, help="name of a system under conf_dir/systems")
    parser.add_argument("--out", required=True, help="directory to write; a packed one there is replaced")
    parser.add_argument("--conf_dir", default="conf", help="holds systems/ and phases/")
    parser.add_argument("--expdir", default="exp", help="where models are")
    parser.add_argument("--encoder", required=True, help="experiment directory of the encoder")
    parser.add_argument("--seed", type=int, default=1, help="the seed the system was trained with")
    parser.add_argument(
        "--llm",
        help="copy: put the LLM inside; a name on the hub: store that name. Not given: a local directory is copied, "
        "a name stays a name",
    )
    parser.add_argument("--results", help="results.json of stage 13, for the model card; left out if it is not there")
    parser.add_argument("--prompt", help="template, for a model that has none recorded")
    parser.add_argument("--num_beams", type=int, help="beam; not given: as decoded in stage 12, or 4")
    parser.add_argument("--length_penalty", type=float, help="not given: as decoded in stage 12, or 0")
    parser.add_argument("--ctc_weight", type=float, help="not given: as chosen in stage 12, or 0")
    return parser


def decoded_with(system, expdir, encoder):
    """Search options of the hypotheses of a system, {} if there are none. Raises UserError if sets differ in them."""
    from glob import escape, glob

    from espnet_llmvq.base.environment import FILE
    from espnet_llmvq.base.errors import UserError, reading
    from espnet_llmvq.bundle.files import SEARCH
    from espnet_llmvq.experiment.systems import hypothesis_file, system_dir

    found = {}
    pattern = os.path.relpath(hypothesis_file(system, "", "", "*"), system_dir(system, "", ""))
    room = escape(system_dir(system, expdir, encoder))
    for path in sorted(glob(os.path.join(room, os.path.dirname(pattern), FILE))):
        with reading(path, "decode again (stage 12)"), open(path, encoding="utf-8") as f:
            made = json.load(f)
        options = {key: made[key] for key in SEARCH if key in made}
        if found and options != found:
            raise UserError(
                f"{path}: decoded with {options}, another set with {found}; give --num_beams, --length_penalty and "
                "--ctc_weight"
            )
        found = options
    return found


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.bundle.files import SEARCH
    from espnet_llmvq.experiment.systems import read_systems, system_dir
    from espnet_llmvq.score.rows import read_rows

    (system, *more) = read_systems(args.conf_dir, [args.system], args.seed)
    if more:
        raise UserError(f"--system {args.system} is a group; name one system")
    if system.decode == "ctc_lm":
        raise UserError(f"--system {args.system}: a system that decodes with ctc_lm cannot be packed; ctc and llm can")
    given = {key: getattr(args, key) for key in SEARCH if getattr(args, key) is not None}
    made = {}
    if system.decode == "llm" and len(given) < len(SEARCH):
        made = decoded_with(system, args.expdir, args.encoder)
    search = {"num_beams": 4, "length_penalty": 0.0, "ctc_weight": 0.0, **made, **given}
    if search["num_beams"] < 1 or not 0 <= search["ctc_weight"] <= 1:
        raise UserError(f"num_beams {search['num_beams']} must be 1 or more, ctc_weight {search['ctc_weight']} 0 to 1")
    rows = read_rows(args.results) if args.results and os.path.exists(args.results) else []
    from espnet_llmvq.bundle.model import pack

    pack(
        system_dir(system, args.expdir, args.encoder),
        args.out,
        system=system.name,
        label=system.label,
        decode=system.decode,
        search=search,
        llm=args.llm,
        prompt=args.prompt,
        rows=rows,
    )
    size = sum(os.path.getsize(os.path.join(room, f)) for room, _, files in os.walk(args.out) for f in files)
    print(f"{args.out}: {system.name}, {size / 2**20:.1f} MiB, with {search}")
