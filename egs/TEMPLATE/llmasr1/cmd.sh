# Where jobs run. A copy of this file in a recipe's directory counts instead of it. docs/clusters.md has the details.
# On a cluster the toolkit, the recipe and its data must be on a file system that all machines share.

# local: this machine. slurm, sge, pbs: the queueing system. ssh: the machines listed in conf/machines.
cmd_backend=${cmd_backend:-local}

# Options of a job stand behind the back end: --mem 4G, --time 24:00:00, --max_jobs_run 20, --retries 1, and
# --config conf/slurm.conf for partitions, accounts and flags of a site.
# shellcheck disable=SC2154  # python is an option of llmasr.sh
launch="${python:-python3} -m espnet_llmvq launch ${cmd_backend}"
export train_cmd="${launch}"   # work of the CPU, one job or many
export cuda_cmd="${launch}"    # training and encoding; llmasr.sh adds --gpu and --num_threads
export decode_cmd="${launch}"  # decoding; llmasr.sh adds the same
