#!/usr/bin/env bash
# cuda_cmd of cmd.sh under the name by which ESPnet's launcher (espnet2.bin.launch) knows Slurm: it then starts one
# process on each node with srun. Arguments are those that the launcher gives: options, log, command.
# shellcheck disable=SC2086,SC2154
exec ${cuda_cmd} "$@"
