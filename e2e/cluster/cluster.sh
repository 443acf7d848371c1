# Functions of the scripts that deal with one cluster instance: its folder, its namespaces, its kubectl.
#
#   in:  MILLRACE_CLUSTER (millrace): the name of the instance; MILLRACE_CLUSTER_DIR: its folder
#   out: `instance`, `state`, addresses, and functions; nothing is started or written by sourcing it
#
# An instance is one process, `inside/init`, that is process 1 of a pid namespace and has its own mount, network and ipc
# namespaces; everything else of the cluster runs in these. So programs find their usual paths (/run, /var/lib, /var/log
# are the instance's own), two instances cannot meet, and when that process is killed the kernel ends every process and
# drops every mount, network namespace and iptables rule with it. Process ids below `pid/` are those of that namespace.
#
# shellcheck shell=bash source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

instance="${MILLRACE_CLUSTER:-millrace}"
[[ "$instance" =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || fail "\`MILLRACE_CLUSTER\` must be 1 to 31 of a-z, 0-9 and -; it is \`$instance\`"
state="$(realpath -m "${MILLRACE_CLUSTER_DIR:-$cache/run/$instance}")"
kubeconfig="$state/kubeconfig"

# The same in every instance: each has a network of its own.
# shellcheck disable=SC2034 # used by those that source this
{
  address=10.80.0.1
  node="node-1"
  pod_cidr=10.244.0.0/16
  node_pod_cidr=10.244.0.0/24
  service_cidr=10.96.0.0/16
  dns_address=10.96.0.10
  cgroup="/millrace-cluster-$instance"
  kafka_port=9092
  engine_port=8123
  postgres_port=5432
  redis_port=6379
}

need_root() { ((EUID == 0)) || fail "needs root: it makes namespaces, mounts and cgroups"; }

# One command at a time may start or end an instance.
lock_instance() {
  mkdir -p "$cache/cluster"
  exec 9>"$cache/cluster/instance-$instance.lock"
  flock -n 9 || {
    say "another command works on \`$instance\`; waiting for it"
    flock 9
  }
}

inside() { [[ "${MILLRACE_CLUSTER_INSIDE:-}" == "$instance" ]]; }

# The namespaces exist while their first process does.
exists() { inside || running "$state/init"; }
need_cluster() { exists || fail "the cluster \`$instance\` is not up; \`e2e/cluster/up\` starts it"; }
init_pid() { cut -d' ' -f1 "$state/init"; }

# enter CMD…: runs CMD in all namespaces of the instance.
enter() {
  if inside; then
    "$@"
  else
    nsenter --target "$(init_pid)" --mount --net --pid --ipc --wd=/ env MILLRACE_CLUSTER_INSIDE="$instance" \
      MILLRACE_CLUSTER="$instance" MILLRACE_CLUSTER_DIR="$state" MILLRACE_CACHE="$cache" "$@"
  fi
}

# in_network CMD…: runs CMD in the network of the instance only; files and processes are those of the caller.
in_network() {
  if inside; then
    "$@"
  else
    nsenter --net="/proc/$(init_pid)/ns/net" "$@"
  fi
}

kube() { in_network "$(tool_dir kubernetes)/kubectl" --kubeconfig "$kubeconfig" "$@"; }

# ensure NAME CMD…: starts CMD unless it runs; only inside.
ensure() {
  local name="$1"
  shift
  running "$state/pid/$name" || launch "$state/pid/$name" "$state/logs/$name.log" "$@"
}

# api_ready: whether the API server serves, asked as the admin.
api_ready() {
  in_network curl -sf --max-time 2 --cacert "$state/pki/ca.crt" --cert "$state/pki/admin.crt" --key "$state/pki/admin.key" \
    "https://$address:6443/readyz"
}
