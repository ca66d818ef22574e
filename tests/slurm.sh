#!/usr/bin/env bash
# A study on a cluster: SLURM for one node is started here, one of its jobs is cancelled in the middle, and the same
# command, given again, ends with the models and tables of a run without a cluster. `make test-slurm` calls it.
#
# It needs the Debian packages slurm-wlm and munge, and writes to a temporary folder only. The node claims GPUs, cores and
# memory that it may not have, so that the command is the one of docs/train.md; nothing here is limited to what it asks for.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$repository/.venv/bin:$PATH:/usr/sbin:/sbin"
unset BSRNN_ROOT
folder=$(mktemp -d --tmpdir slurm.XXXXXX)
cancelled=multitask-generic-drums+bass+other+vocals-0

clean_up() {
    if [ "$?" != 0 ]; then
        find "$folder" -name '*.log' -exec tail -n 20 {} + || true
    fi
    scancel --user "$(id -un)" 2>/dev/null && while [ -n "$(squeue --noheader 2>/dev/null)" ]; do sleep 1; done
    jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap clean_up EXIT

said() {
    printf '%4d s  %s\n' "$SECONDS" "$1"
}

for program in munged slurmctld slurmd sbatch; do
    command -v $program >/dev/null || { echo "no $program: apt-get install slurm-wlm munge"; exit 2; }
done

# --- the cluster
export SLURM_CONF="$folder/slurm.conf"
host=$(hostname -s)
read -r controller_port node_port < <(python - <<'PYTHON'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in sockets))
PYTHON
)
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=12 RealMemory=64000 Gres=gpu:2
PartitionName=gpu Nodes=ALL Default=YES
CONF
printf '%s\n' AutoDetect=off 'Name=gpu File=/dev/null' 'Name=gpu File=/dev/zero' >"$folder/gres.conf"
mkdir "$folder/state" "$folder/spool" "$folder/bin"
# Snakemake's plugin starts srun without SLURM_CONF, as a cluster has its configuration in /etc
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$folder/bin/srun"
chmod +x "$folder/bin/srun"
export PATH="$folder/bin:$PATH"
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --foreground --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
    --pid-file "$folder/munged.pid" --seed-file "$folder/munge.seed" 2>"$folder/munged.log" &
while [ ! -S "$folder/munge.socket" ]; do sleep 0.1; done
slurmctld -D 2>"$folder/slurmctld.log" &
slurmd -D 2>"$folder/slurmd.log" &
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format %t 2>/dev/null)" != idle ] || break
    sleep 1
done
[ "$(sinfo --noheader --format %t)" = idle ]
said "$(sinfo --version) has a node of $(sinfo --noheader --format '%c cores, %m MB and %G')"

# --- the study: the demo's grid with smaller models, fewer songs and fewer steps, in two copies of the repository
mkdir "$folder/cluster"
cp -r "$repository"/{Snakefile,bsrnn,notebooks,profiles,study} "$folder/cluster"
python - "$repository/profiles/demo.yaml" "$folder/cluster/profiles/tiny.yaml" <<'PYTHON'
import sys
from pathlib import Path

import yaml

settings = yaml.safe_load(Path(sys.argv[1]).read_text())
settings |= {"profile": "tiny", "seeds": [0]}
settings["model_config"] |= {"feature_dim": 16, "hidden_dim": 16, "num_blstm_layers": 1, "mlp_dim": 16}
settings["training_config"] |= {"max_epochs": 3, "epoch_size": 60, "lr": 0.01}
Path(sys.argv[2]).write_text(yaml.safe_dump(settings))
PYTHON
python - "$folder/songs" <<'PYTHON'
import sys
from pathlib import Path

from bsrnn import demo

demo.generate(Path(sys.argv[1]), train=6, test=2, seconds=6)
PYTHON
cp -r "$folder/cluster" "$folder/local"
said "songs are generated"

without_cluster() {
    cd "$folder/local"
    snakemake --cores 1 --config profile=tiny data="$folder/songs"
}

# as in docs/train.md, but for the last line: this cluster keeps no accounts of jobs, and is asked more often
on_cluster() {
    cd "$folder/cluster"
    snakemake --executor slurm --jobs 8 --nolock --rerun-incomplete --rerun-triggers mtime \
        --default-resources slurm_partition=gpu gpu=1 cpus_per_task=6 mem_mb=32000 \
        --config profile=tiny data="$folder/songs" \
        --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5
}

(without_cluster) &>"$folder/local.log" &
local=$!
(on_cluster) &>"$folder/first.log" &
first=$!
run="$folder/cluster/runs/tiny/$cancelled"
while [ ! -f "$run/history.csv" ]; do
    kill -0 $first
    sleep 0.1
done
job=$(squeue --noheader --states running --format '%i %k' | grep -F "multitask-generic" | cut -d' ' -f1)
scancel "$job"
said "on the cluster: job $job, $cancelled, is cancelled after $(($(wc -l <"$run/history.csv") - 1)) of 3 epochs"
if wait $first; then
    echo "a study of which a job was cancelled has to fail"
    exit 1
fi
[ ! -f "$run/record.json" ]
said "on the cluster: the command has ended with an error, $(ls "$folder/cluster/runs/tiny/notebooks" | wc -l) notebooks are done"

(on_cluster) &>"$folder/second.log"
grep -q 'going on after epoch' "$folder/cluster/runs/tiny/notebooks/$cancelled.ipynb"
submitted=$(cat "$folder"/{first,second}.log | grep -c 'has been submitted with SLURM jobid')
said "on the cluster: the same command has ended well; it took $submitted jobs in all"

# --- the same results
wait $local
said "without the cluster: done"
cd "$folder/local/runs/tiny"
compared=0
for file in bands.csv comparisons.csv summary.csv scores/*.csv checkpoints/*/model.safetensors; do
    cmp "$file" "$folder/cluster/runs/tiny/$file"
    compared=$((compared + 1))
done
trained=$(ls runs/*.json | wc -l)  # a model and a table of scores each; beside them the baselines' and three more tables
[ "$trained" -gt 1 ] && [ "$compared" = $((2 * trained + 4)) ] || { echo "compared $compared files"; exit 1; }
said "the same $((compared - trained)) tables and $trained models, byte for byte"
