"""List the mixtures that the phases of some systems train on, as NAME|SET/FORM=SHARE ... lines, and check them."""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--systems", required=True, help="systems and groups under conf_dir/systems")
    parser.add_argument("--conf_dir", default="conf", help="holds systems/, phases/, mixtures/ and interleave/")
    parser.add_argument("--sets", default="train", help="sets of transcribed speech that mixtures may name")
    parser.add_argument("--texts", default="", help="plain texts that mixtures may name")
    parser.add_argument(
        "--override", action="append", default=[], help="key=value laid over conf_dir/interleave/*.yaml, repeated"
    )
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    import os

    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.experiment.systems import FORMS, plan, read_mixture, read_systems, split_mixture
    from espnet_llmvq.sequence.interleaved import Interleaving

    wanted = {}
    for phase in plan(read_systems(args.conf_dir, args.systems.split())):
        _, name = split_mixture(read_config(phase.config), phase.config, args.conf_dir)
        if name is not None:
            wanted[name] = read_mixture(args.conf_dir, name, args.sets.split(), args.texts.split())
    for form in sorted({form for shares in wanted.values() for _, form in shares} - set(FORMS)):
        Interleaving.read(os.path.join(args.conf_dir, "interleave", f"{form}.yaml"), args.override)
    for name, shares in wanted.items():
        print(f"{name}|" + " ".join(f"{data}/{form}={share}" for (data, form), share in shares.items()))
