"""Train with ESPnet's trainer: the encoder (stage 7), or all phases of the systems (stage 11)."""

from espnet_llmvq.cli.parser import add_nj, experiment_parser

# Options of ESPnet's trainer by which the processes of several GPUs and machines find each other.
DISTRIBUTED = (
    "ngpu", "multiprocessing_distributed", "dist_launcher", "dist_backend", "dist_init_method", "dist_world_size",
    "dist_rank", "local_rank", "dist_master_addr", "dist_master_port",
)  # fmt: skip


def main(argv=None):
    parser = experiment_parser(__doc__)
    parser.add_argument("--encoder", action="store_true", help="the speech encoder instead of the systems")
    add_nj(parser, "phases trained at once", default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--check", action="store_true", help="only check names and keys, read no data")
    parser.add_argument("--dry_run", action="store_true", help="check, and say what would be trained and how")
    parser.add_argument("--json", help="with --dry_run: write the same to this file")
    group = parser.add_argument_group("given by ESPnet's launcher (espnet2.bin.launch), see its help")
    for name in DISTRIBUTED:
        group.add_argument(f"--{name}", help="as ESPnet's trainer has it")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.train import check, dry_run, train

    experiment = read_experiment(args.exp)
    if args.check:
        check(experiment)
    elif args.dry_run:
        from espnet_llmvq.base.files import write_json

        facts = dry_run(experiment)
        if args.json:
            write_json(args.json, facts)
    else:
        distributed = {name: getattr(args, name) for name in DISTRIBUTED[1:] if getattr(args, name) is not None}
        train(experiment, args.encoder, args.nj, args.threads, distributed)
