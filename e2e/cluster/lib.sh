# Functions that the scripts of this folder share: where things are, processes by id, waiting.
#
#   in:  MILLRACE_CACHE (or XDG_CACHE_HOME): where built tools are kept
#   out: functions and the variables `here`, `repository`, `cache`; nothing is started or written by sourcing it
#
# shellcheck shell=bash

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck disable=SC2034 # used by those that source this
repository="$(cd "$here/../.." && pwd)"
cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"

say() { echo "${0##*/}: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Seconds since the epoch with three decimals, and the difference to an earlier one.
now() { echo "$EPOCHREALTIME"; }
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# The folder of a built tool: named after the content of its folder in `tools/`, so that another version is
# another folder. `install_version` changes when `install` builds the same sources differently.
install_version=1
tool_dir() {
  local key
  key="$({
    echo "$install_version"
    cat "$here/tools/$1/"*
  } | sha256sum)"
  echo "$cache/cluster/$1-${key:0:16}"
}

# The start time of a process in clock ticks since boot: with the id it names one process for good, so an id
# that was given to another process later is never signalled.
process_start() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat="${stat##*) }"
  # shellcheck disable=SC2086 # split on purpose: state is field 3, so start time (field 22) is word 20
  set -- $stat
  [[ "$1" != Z ]] && echo "${20}"
}

# running PIDFILE: whether the process recorded in it is alive.
running() {
  local pid start
  { read -r pid start <"$1"; } 2>/dev/null || return 1
  [[ -n "$start" && "$(process_start "$pid")" == "$start" ]]
}

# launch PIDFILE LOG CMD…: starts CMD in its own session, so that it outlives this shell; its output goes to LOG.
launch() {
  local pidfile="$1" log="$2" pid
  shift 2
  setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
  pid=$!
  echo "$pid $(process_start "$pid")" >"$pidfile"
  disown "$pid"
}

# signal NAME PIDFILE: sends it to the recorded process, if that is still the same process.
signal() {
  local pid
  running "$2" || return 0
  read -r pid _ <"$2"
  kill -"$1" "$pid" 2>/dev/null || true
}

# until_gone SECONDS PIDFILE: waits for the recorded process to end.
until_gone() {
  local deadline=$((SECONDS + $1))
  while running "$2"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# finish SECONDS PIDFILE: TERM, then KILL when it is not gone in time; removes the file.
finish() {
  signal TERM "$2"
  until_gone "$1" "$2" || {
    signal KILL "$2"
    until_gone 10 "$2" || fail "the process in \`$2\` does not end even by KILL"
  }
  rm -f "$2"
}

# until_true SECONDS CMD…: repeats CMD until it succeeds.
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# answers HOST PORT: whether something accepts connections there.
answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }
