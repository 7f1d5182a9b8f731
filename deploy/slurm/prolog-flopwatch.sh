#!/bin/sh
# Prolog of Slurm (slurm.conf: Prolog=) that writes which GPUs a job is given on this host, so
# that flopwatch-agent sees GPUs that are allocated and not used. It asks no daemon, writes
# one small file, and always succeeds: a prolog that fails drains the node.
#
# Set PrologFlags=Alloc,Contain, or the prolog runs at a job's first step alone and what is allocated
# before stays unseen. epilog-flopwatch.sh removes the file. README.md says more.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 022

dir=${FLOPWATCH_SLURM_DIR:-/run/flopwatch/slurm}
proc=${FLOPWATCH_PROC:-/proc}

# number and plain say whether a value is what it has to be; the agent refuses a file that
# holds anything else.
number() {
  case $1 in
  '' | *[!0-9]*) return 1 ;;
  esac
}
plain() {
  case $1 in
  '' | *[!A-Za-z0-9._@:+=-]*) return 1 ;;
  esac
}

# uuid_of_minor N prints the UUID of /dev/nvidiaN as the driver tells it. Slurm counts GPUs
# by that number, NVML by the order of buses: they differ on some hosts.
uuid_of_minor() {
  for info in "$proc"/driver/nvidia/gpus/*/information; do
    [ -r "$info" ] || continue
    uuid='' minor=''
    while IFS=: read -r key value; do
      value=${value#"${value%%[!	 ]*}"}
      value=${value%"${value##*[!	 ]}"}
      case $key in
      'GPU UUID'*) uuid=$value ;;
      'Device Minor'*) minor=$value ;;
      esac
    done < "$info"
    if [ "$minor" = "$1" ]; then
      case $uuid in
      GPU-*'?'*) ;; # the driver is not at work yet
      GPU-*) printf '%s' "$uuid" && return 0 ;;
      esac
    fi
  done
  return 1
}

# gpus prints the job's GPUs by UUID; nothing if one of them is not known.
gpus() {
  case ${CUDA_VISIBLE_DEVICES-} in
  *[!A-Za-z0-9,/-]*) ;;
  GPU-* | MIG-*) # Slurm 25.11 and later, and MIG devices always
    printf '%s' "$CUDA_VISIBLE_DEVICES"
    return 0
    ;;
  esac
  list=''
  rest=${SLURM_JOB_GPUS-},
  while [ -n "$rest" ]; do
    one=${rest%%,*}
    rest=${rest#*,}
    [ -n "$one" ] || continue
    number "$one" && one=$(uuid_of_minor "$one") || return 1
    list=${list:+$list,}$one
  done
  printf '%s' "$list"
}

# contents prints the file. Its last line shows that it is whole.
contents() {
  printf 'flopwatch-slurm 1\n'
  printf 'job_id %s\n' "$SLURM_JOB_ID"
  printf 'boot_id %s\n' "$boot"
  sluid=${SLURM_JOB_SLUID:-${SLURM_SLUID-}} # since Slurm 26.05; the other name is an earlier one
  plain "$sluid" && printf 'sluid %s\n' "$sluid"
  plain "${SLURMD_NODENAME-}" && printf 'node %s\n' "$SLURMD_NODENAME"
  number "${SLURM_JOB_UID-}" && printf 'uid %s\n' "$SLURM_JOB_UID"
  plain "${SLURM_JOB_USER-}" && printf 'user %s\n' "$SLURM_JOB_USER"
  plain "${SLURM_JOB_ACCOUNT-}" && printf 'account %s\n' "$SLURM_JOB_ACCOUNT"
  uuids=$(gpus) && plain_list "$uuids" && printf 'gpus %s\n' "$uuids"
  plain_list "${SLURM_JOB_GPUS-}" && printf 'minors %s\n' "$SLURM_JOB_GPUS"
  nodes=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES-}}
  number "$nodes" && printf 'nodes %s\n' "$nodes"
  restarts=${SLURM_JOB_RESTART_COUNT:-${SLURM_RESTART_COUNT-}} # slurmd sets the first
  number "$restarts" && printf 'restarts %s\n' "$restarts"
  start=${SLURM_JOB_START_TIME-}
  number "$start" || start=$(date +%s)
  printf 'start %s\n' "$start"
  printf 'end\n'
}
plain_list() {
  case $1 in
  '' | *[!A-Za-z0-9,/-]*) return 1 ;;
  esac
}

main() {
  number "${SLURM_JOB_ID-}" || return 0
  [ -n "${SLURM_JOB_GPUS-}${CUDA_VISIBLE_DEVICES-}" ] || return 0 # no GPU, nothing to say
  IFS= read -r boot < "$proc/sys/kernel/random/boot_id" || return 0
  mkdir -p "$dir" || return 0
  # A host may run several slurmd, each of which has a part of the job.
  name=$SLURM_JOB_ID
  plain "${SLURMD_NODENAME-}" && name=$SLURM_JOB_ID.$SLURMD_NODENAME
  tmp=$dir/.$name.$$
  if contents > "$tmp"; then
    mv -f "$tmp" "$dir/$name" || rm -f "$tmp"
  else
    rm -f "$tmp"
  fi
}

main 2> /dev/null
exit 0
