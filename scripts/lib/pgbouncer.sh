# shellcheck shell=bash
# A throwaway PgBouncer in transaction mode before the PostgreSQL of postgres.sh: pgbouncer_ensure, pgbouncer_start, pgbouncer_stop.
# To be sourced after common.sh and postgres.sh. Never touches a pooler of the system.

pgbouncer_url='' # set by pgbouncer_start
pgbouncer_pid=''
pgbouncer_dir=''

# shellcheck disable=SC2034 # read by the scripts that source this file
readonly PGBOUNCER_BY_HAND="install PgBouncer (Debian, Ubuntu: 'apt-get install pgbouncer'; Fedora: 'dnf install pgbouncer'; macOS: 'brew install pgbouncer')"

pgbouncer_bin() {
  local candidate
  for candidate in "$(command -v pgbouncer || true)" /usr/sbin/pgbouncer /usr/local/sbin/pgbouncer; do
    [[ ! -x $candidate ]] || { printf '%s\n' "$candidate"; return 0; }
  done
  return 1
}

# Debian's package starts a service when it is installed; a policy, there only meanwhile, keeps it from that.
pgbouncer_install() {
  can_install || return 1
  local policy=/usr/sbin/policy-rc.d made='' status=0
  if [[ ! -e $policy ]]; then
    made=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  install_packages pgbouncer || status=$?
  [[ -z $made ]] || rm -f "$policy"
  return "$status"
}

pgbouncer_ensure() { pgbouncer_bin >/dev/null || { pgbouncer_install && pgbouncer_bin >/dev/null; }; }

# pgbouncer_start [SETTING…]: before $postgres_url; sets pgbouncer_url. The caller has arranged that pgbouncer_stop is called.
pgbouncer_start() {
  local bin server port try waited version
  bin=$(pgbouncer_bin)
  version=$("$bin" --version | sed -n 's/^PgBouncer \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  server=${postgres_url##*@}
  server=${server%%/*}
  pgbouncer_dir=$(mktemp -d "${TMPDIR:-/tmp}/trueup-pgb.XXXXXX")
  ((EUID != 0)) || chown "$postgres_user" "$pgbouncer_dir"
  printf '"postgres" ""\n' >"$pgbouncer_dir/users"
  for try in 1 2 3 4 5; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    {
      printf '[databases]\n* = host=%s port=%s\n' "${server%%:*}" "${server##*:}"
      printf '[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\npidfile = %s/pid\n' "$port" "$pgbouncer_dir"
      printf 'auth_type = trust\nauth_file = %s/users\nadmin_users = postgres\n' "$pgbouncer_dir"
      printf 'pool_mode = transaction\nmax_client_conn = 1000\nquery_wait_timeout = 60\nlog_connections = 0\nlog_disconnections = 0\n'
      # Tests make and drop hundreds of databases.
      printf 'server_idle_timeout = 5\nautodb_idle_timeout = 5\n'
      # As old ones are that know nothing of prepared statements; the setting came with 1.21.
      if ((${version% *} > 1 || ${version#* } >= 21)); then printf 'max_prepared_statements = 0\n'; fi
      printf '%s\n' "$@"
    } >"$pgbouncer_dir/ini"
    postgres_as_user "$bin" -q "$pgbouncer_dir/ini" </dev/null >>"$pgbouncer_dir/log" 2>&1 &
    pgbouncer_pid=$!
    for ((waited = 0; waited < 100; waited++)); do
      kill -0 "$pgbouncer_pid" 2>/dev/null || break
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        # shellcheck disable=SC2034 # for the script that sources this file
        pgbouncer_url=postgres://postgres@127.0.0.1:$port/postgres
        return 0
      fi
      sleep 0.1
    done
    kill -KILL "$pgbouncer_pid" 2>/dev/null || true
    wait "$pgbouncer_pid" 2>/dev/null || true
    pgbouncer_pid=''
  done
  complain "PgBouncer did not start (try $try):"
  cat "$pgbouncer_dir/log" >&2 || true
  return 1
}

pgbouncer_stop() {
  local own=''
  # As another user it is not the shell's own child, but a child of that.
  [[ ! -s $pgbouncer_dir/pid ]] || own=$(<"$pgbouncer_dir/pid")
  [[ -z $own ]] || kill -KILL "$own" 2>/dev/null || true
  if [[ -n $pgbouncer_pid ]]; then
    # Waited for, so that the shell does not tell of its end.
    { kill -KILL "$pgbouncer_pid" && wait "$pgbouncer_pid"; } 2>/dev/null || true
  fi
  [[ -z $pgbouncer_dir ]] || rm -rf "$pgbouncer_dir"
  pgbouncer_pid='' pgbouncer_dir=''
}
