"""Look into trained systems (stage 14): the gap between speech and text, nearest tokens, state of the bridge.

For each system with a bridge and each set, on at most --utterances utterances, writes to EXPDIR/analysis analysis.json,
analysis.tsv and ANALYSIS.md (numbers, warnings), tsne_SET.png and .tsv, nearest.html and .tsv. docs/analysis.md
explains them.
"""

from espnet_llmvq.cli.parser import add_nj, experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, systems=True)
    parser.add_argument("--utterances", type=int, default=200, help="most utterances of a set")
    parser.add_argument("--examples", type=int, default=3, help="utterances of a set with nearest tokens")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--draw_seed", type=int, default=1, help="of utterances, bootstrap and t-SNE")
    add_nj(parser, "systems analysed at once, in processes of their own (CPU)", default=1)
    parser.add_argument("--ngpu", type=int, default=0, help="1 to run the bridge on a GPU")
    parser.add_argument("--redo", action="store_true", help="analyse again what is analysed")
    args = parser.parse_args(argv)
    from espnet_llmvq.analyse.run import LEAST, Analysis
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.analyse import analyse

    experiment = read_experiment(args.exp)
    options = Analysis(**{name: getattr(args, name) for name in (*LEAST, "draw_seed")})
    analyse(experiment, experiment.select(args.systems), options, nj=args.nj, ngpu=args.ngpu, redo=args.redo)
