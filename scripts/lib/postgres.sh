# shellcheck shell=bash
# A throwaway PostgreSQL of its own directory, port and user: postgres_ensure, postgres_start, postgres_stop.
# To be sourced after common.sh. Never touches a cluster of the system.

postgres_bin=''  # directory of initdb, postgres and pg_ctl
postgres_dir=''  # what postgres_stop removes
postgres_url=''  # set by postgres_start
postgres_user='' # whom the server runs as when this script runs as root

# shellcheck disable=SC2034 # read by the scripts that source this file
readonly POSTGRES_BY_HAND="install PostgreSQL's server programs (Debian, Ubuntu: 'apt-get install postgresql'; Fedora: 'dnf install postgresql-server'; macOS: 'brew install postgresql'), or put initdb, pg_ctl and postgres on the PATH"

postgres_find() {
  local candidate
  while IFS= read -r candidate; do
    if [[ -x $candidate/initdb && -x $candidate/pg_ctl && -x $candidate/postgres ]]; then
      postgres_bin=$candidate
      return 0
    fi
  done < <(
    pg_config --bindir 2>/dev/null || true
    printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV
    dirname "$(command -v initdb || echo /nowhere/initdb)"
  )
  return 1
}

# Debian's package makes and starts a cluster when it is installed; a drop-in, there only meanwhile, keeps it from that.
postgres_install() {
  can_install || return 1
  local drop_in=/etc/postgresql-common/createcluster.d/trueup-throwaway.conf status=0
  mkdir -p "${drop_in%/*}"
  printf 'create_main_cluster = false\n' >"$drop_in"
  install_packages postgresql || status=$?
  rm -f "$drop_in"
  return "$status"
}

# Finds the server programs, or installs them where that is possible.
postgres_ensure() {
  postgres_find || { postgres_install && postgres_find; } || return 1
  ((EUID != 0)) || have setpriv || { complain "initdb refuses to run as root, and setpriv (util-linux) is missing"; return 1; }
}

# initdb and postgres refuse to run as root.
postgres_as_user() (
  # The server's user may not be allowed into the directory that this script runs in.
  cd /
  if ((EUID == 0)); then
    exec setpriv --reuid="$postgres_user" --regid="$(id -g "$postgres_user")" --clear-groups -- "$@"
  fi
  exec "$@"
)

postgres_make_dir() {
  local base
  # The path of a Unix socket is short, and the server's user must be able to reach the directory.
  for base in "${TMPDIR:-/tmp}" /tmp; do
    ((${#base} <= 60)) || continue
    postgres_dir=$(mktemp -d "${base%/}/trueup-pg.XXXXXX") || continue
    ((EUID != 0)) || chown "$postgres_user" "$postgres_dir"
    if postgres_as_user test -w "$postgres_dir"; then
      return 0
    fi
    rm -rf "$postgres_dir"
  done
  postgres_dir=''
  complain "no directory for temporary files that the user ${postgres_user:-$(id -un)} can write to"
  return 1
}

postgres_settings() {
  # `listen_addresses` is an address, not a name, so that no resolver is asked.
  cat <<EOF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$postgres_dir'
max_connections = 300
logging_collector = off
timezone = 'UTC'
EOF
  if [[ ${TRUEUP_PG_DURABLE:-} == 1 ]]; then
    cat <<EOF
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 1GB
wal_compression = on
max_wal_size = 4GB
EOF
  else
    cat <<EOF
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 128MB
EOF
  fi
}

# Starts the server and sets postgres_url. The caller has arranged that postgres_stop is called whatever happens.
postgres_start() {
  if ((EUID == 0)); then
    postgres_user=nobody
    ! id postgres >/dev/null 2>&1 || postgres_user=postgres
  fi
  postgres_make_dir || return 1
  local data=$postgres_dir/data log=$postgres_dir/log init=(--auth=trust --username=postgres --encoding=UTF8 --locale=C)
  [[ ${TRUEUP_PG_DURABLE:-} == 1 ]] || init+=(--no-sync)
  if ! undisturbed postgres_as_user "$postgres_bin/initdb" "${init[@]}" -D "$data" >"$postgres_dir/initdb.log" 2>&1; then
    complain "initdb failed:"
    cat "$postgres_dir/initdb.log" >&2
    return 1
  fi
  postgres_settings >>"$data/postgresql.conf"
  local try port
  for try in 1 2 3 4 5 6 7 8; do
    # Below the ports that the kernel gives to outgoing connections. Whether it is free is for the server's bind to find
    # out, so no other process can come in between.
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    # pg_ctl waits until the server takes connections. Interrupted halfway it would leave a server without a pid file.
    if undisturbed postgres_as_user "$postgres_bin/pg_ctl" start -w -t 60 -s -D "$data" -l "$log" -o "-p $port" \
      >>"$postgres_dir/pg_ctl.log" 2>&1; then
      # shellcheck disable=SC2034 # for the script that sources this file
      postgres_url=postgres://postgres@127.0.0.1:$port/postgres
      return 0
    fi
    grep -q 'could not bind' "$log" 2>/dev/null || break
  done
  complain "PostgreSQL did not start (try $try):"
  cat "$postgres_dir/pg_ctl.log" "$log" >&2 || true
  return 1
}

# Stops the server, if it runs, and removes its directory.
postgres_stop() {
  [[ -n $postgres_dir ]] || return 0
  local pid_file=$postgres_dir/data/postmaster.pid pid
  if [[ -f $pid_file ]] &&
    ! undisturbed postgres_as_user "$postgres_bin/pg_ctl" stop -m immediate -w -t 30 -s -D "$postgres_dir/data" >/dev/null 2>&1 &&
    read -r pid <"$pid_file"; then
    kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -rf "$postgres_dir" || complain "left behind: $postgres_dir"
  postgres_dir=''
}
