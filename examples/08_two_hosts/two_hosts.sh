#!/bin/sh
# Runs perilune on two hosts that one machine makes: two network namespaces and a cable between them.
#
#   examples/08_two_hosts/two_hosts.sh [OPTION…] COMMAND…      as `perilune COMMAND…` on 2 + 2 ranks
#
#   --ranks N         ranks on each host (2)
#   --delay TIME      every packet is late by so much, `2ms`
#   --rate RATE       the cable carries so much, `100mbit`
#   --own DIR         a folder that the hosts do not share; what the second one writes there is lost
#
# Needs root, iproute2, util-linux and Open MPI. PERILUNE names the program (target/release/perilune).
# Where the machine does not allow what is asked for, it says why and ends with exit code 77.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
perilune=${PERILUNE:-$here/../../target/release/perilune}
ranks=2 delay='' rate='' own=''
while [ $# -gt 0 ]; do
  case $1 in
    --ranks) ranks=$2 && shift 2 ;;
    --delay) delay=$2 && shift 2 ;;
    --rate) rate=$2 && shift 2 ;;
    --own) own=$2 && shift 2 ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || { sed -n 's/^# \{0,1\}//p' "$0" >&2; exit 2; }

# Names of namespaces are the machine's; those of the hosts are `one` and `two` in every run.
export TWO_HOSTS="perilune-$$-" TWO_HOSTS_OWN="$own"

not_here() {
  echo "not here: $*" >&2
  exit 77
}
clean() {
  ip netns del "${TWO_HOSTS}one" 2>/dev/null || :
  ip netns del "${TWO_HOSTS}two" 2>/dev/null || :
}
on() { # on HOST COMMAND…
  namespace=$TWO_HOSTS$1 && shift
  ip netns exec "$namespace" "$@"
}

for tool in ip tc unshare mpirun; do
  command -v $tool >/dev/null || not_here "no $tool"
done
trap clean EXIT
trap 'exit 130' INT TERM
for host in one two; do
  said=$(ip netns add "$TWO_HOSTS$host" 2>&1) || not_here "no network namespaces: $said"
done

# The cable, and an address at each end.
said=$(ip link add h1 netns "${TWO_HOSTS}one" type veth peer name h2 netns "${TWO_HOSTS}two" 2>&1) ||
  not_here "no pair of network devices: $said"
number=0
for host in one two; do
  number=$((number + 1))
  on $host ip addr add 10.77.0.$number/24 dev h$number
  on $host ip link set lo up
  on $host ip link set h$number up
  if [ -n "$delay" ]; then
    said=$(on $host tc qdisc add dev h$number root netem delay "$delay" 2>&1) ||
      not_here "no delay (netem): $said"
  elif [ -n "$rate" ]; then
    said=$(on $host tc qdisc add dev h$number root tbf rate "$rate" burst 64kb latency 400ms 2>&1) ||
      not_here "no limit of the rate (tbf): $said"
  fi
done

# What follows is what one would type on the first of two machines, but that the agent is `ssh` there: the
# addresses say which network to take, and --oversubscribe that there are more ranks than processors.
# shellcheck disable=SC2016 # the inner shell expands them
on one unshare --uts sh -c 'hostname one && exec "$@"' sh \
  mpirun --allow-run-as-root --oversubscribe --bind-to none \
  --mca plm_rsh_agent "$here/agent.sh" --mca pml ob1 --mca btl self,vader,tcp \
  --mca btl_vader_single_copy_mechanism none \
  --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 \
  --host "one:$ranks,two:$ranks" "$perilune" "$@"
