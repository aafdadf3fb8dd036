# shellcheck shell=bash
# Prometheus's programs: prometheus_ensure PROGRAM… finds or fetches them. To be sourced after common.sh.

prometheus_bin='' # set by prometheus_ensure: the directory of programs that are not on the PATH

# shellcheck disable=SC2034 # read by the scripts that source this file
readonly PROMETHEUS_BY_HAND="install Prometheus (Debian, Ubuntu: 'apt-get install prometheus prometheus-alertmanager', which also starts it; or unpack a release of prometheus.io) and put prometheus, promtool and amtool on the PATH"

# prometheus_program NAME: its path, if it is there.
prometheus_program() {
  if [[ -x $prometheus_bin/$1 ]]; then
    printf '%s\n' "$prometheus_bin/$1"
  else
    command -v "$1"
  fi
}

# Debian's packages are unpacked into the build folder rather than installed: installing them makes a user and starts a server on the
# machine. They need nothing but the C library.
prometheus_fetch() (
  local folder=$1 work
  have apt-get && have dpkg-deb || return 1
  work=$(mktemp -d "${TMPDIR:-/tmp}/trueup-prometheus.XXXXXX") || return 1
  trap 'rm -rf "$work"' EXIT
  # apt fetches as a user of its own, who must be able to write here.
  chmod 755 "$work"
  ((EUID != 0)) || ! id _apt >/dev/null 2>&1 || chown _apt "$work"
  cd "$work"
  complain "fetching Debian's prometheus and prometheus-alertmanager"
  # The list of packages may be missing or old, so a failure is tried again with a fresh one where this may be fetched.
  apt-get -qq download prometheus prometheus-alertmanager >&2 ||
    { can_install && apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 && apt-get -qq download prometheus prometheus-alertmanager >&2; } || return 1
  local package
  for package in ./*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --wildcards './usr/bin/*' || return 1
  done
  mkdir -p "${folder%/*}"
  # Whoever is first wins; the programs of two runs are the same.
  mv -T usr/bin "$folder" 2>/dev/null || [[ -d $folder ]]
)

# prometheus_ensure FOLDER PROGRAM…: on the PATH, or in FOLDER, or fetched into it.
prometheus_ensure() {
  local folder=$1 program
  shift
  [[ ! -d $folder ]] || prometheus_bin=$folder
  for program in "$@"; do
    if ! prometheus_program "$program" >/dev/null; then
      [[ ! -d $folder ]] || return 1
      prometheus_fetch "$folder" || return 1
      prometheus_bin=$folder
    fi
    prometheus_program "$program" >/dev/null || return 1
  done
}
