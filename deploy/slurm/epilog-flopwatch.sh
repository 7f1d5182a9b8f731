#!/bin/sh
# Epilog of Slurm (slurm.conf: Epilog=) that removes what prolog-flopwatch.sh wrote: the job
# has given its GPUs back. It always succeeds: an epilog that fails drains the node.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

dir=${FLOPWATCH_SLURM_DIR:-/run/flopwatch/slurm}

case ${SLURM_JOB_ID-} in
'' | *[!0-9]*) exit 0 ;;
esac
case ${SLURMD_NODENAME-} in
'' | *[!A-Za-z0-9._@:+=-]*) name=$SLURM_JOB_ID ;;
*) name=$SLURM_JOB_ID.$SLURMD_NODENAME ;;
esac
rm -f "$dir/$name" 2> /dev/null
exit 0
