#!/bin/sh
# What `ssh HOST COMMAND…` is between machines: runs a command in the namespace of a host, under its
# name, with a folder of its own. mpirun calls it for the second host of two_hosts.sh.
host=$1 && shift
# shellcheck disable=SC2016 # the inner shell expands them
exec ip netns exec "$TWO_HOSTS$host" unshare --uts --mount sh -c '
  hostname "$1" && shift
  if [ -n "$TWO_HOSTS_OWN" ]; then mkdir -p "$TWO_HOSTS_OWN" && mount -t tmpfs none "$TWO_HOSTS_OWN"; fi
  exec sh -c "$*"' sh "$host" "$@"
