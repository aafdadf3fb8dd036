# shellcheck shell=bash
# What the scripts share. To be sourced by a script that has set -euo pipefail.

# Exit code of a script that could not run for want of a tool.
# shellcheck disable=SC2034 # read by the scripts that source this file
readonly EXIT_NOT_RUN=77

complain() { printf '%s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

can_install() { ((EUID == 0)) && have apt-get; }

# install_packages PACKAGE…: by name with apt-get, where this needs no question asked (root on a Debian-like system).
install_packages() {
  can_install || return 1
  complain "installing with apt-get: $*"
  local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
  export DEBIAN_FRONTEND=noninteractive
  # The list of packages may be missing or old, so a failure is tried again with a fresh one.
  "${apt[@]}" install -y --no-install-recommends "$@" >&2 </dev/null ||
    { "${apt[@]}" update >&2 && "${apt[@]}" install -y --no-install-recommends "$@" >&2 </dev/null; }
}

# Group of the command that run_in_group waits for.
running_group=''

# run_in_group COMMAND…: as a process group of its own, waited for in a way that a signal to this script interrupts at
# once. The script's EXIT trap calls end_group.
run_in_group() {
  local status=0
  set -m
  "$@" &
  running_group=$!
  set +m
  wait "$running_group" || status=$?
  running_group=''
  return "$status"
}

# Ends what run_in_group still waits for, with all its children.
end_group() {
  [[ -n $running_group ]] || return 0
  kill -TERM -- "-$running_group" 2>/dev/null || return 0
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    kill -0 -- "-$running_group" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$running_group" 2>/dev/null || true
}

# undisturbed COMMAND…: a signal to this script, or Ctrl-C, does not reach the command; it is acted upon when the command
# has ended. For short steps that leave a mess when they are interrupted halfway.
undisturbed() (
  trap '' INT TERM HUP
  set -m
  "$@" </dev/null &
  wait "$!"
)

# clean_up_with FUNCTION: is called once, however the script ends.
clean_up_with() {
  # shellcheck disable=SC2064 # the function's name is meant to be put in now
  trap "trap '' INT TERM HUP; end_group; $1" EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
