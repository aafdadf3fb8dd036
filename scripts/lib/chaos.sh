# shellcheck shell=bash
# What the proofs in scripts/proof.d/chaos share. To be sourced by a script that has set -euo pipefail, with `root` and `name` set.

source "$root/scripts/lib/common.sh"
source "$root/scripts/lib/postgres.sh"
source "$root/scripts/lib/build.sh"

# chaos_run ARGUMENT…: builds what is missing, starts a PostgreSQL with the durability of production, and runs the program of this name.
chaos_run() {
  have python3 || install_packages python3 || { complain "python3 (3.11 or newer) is missing: 'apt-get install python3'"; exit "$EXIT_NOT_RUN"; }
  local target=${CARGO_TARGET_DIR:-$root/target}/release
  if [[ -z ${TRUEUP_BIN:-} || -z ${TRUEUP_INGEST_BIN:-} ]]; then
    build_release "$root"
  fi
  export TRUEUP_BIN=${TRUEUP_BIN:-$target/trueup} TRUEUP_INGEST_BIN=${TRUEUP_INGEST_BIN:-$target/ingest}
  clean_up_with postgres_stop
  if ! postgres_ensure; then
    complain "PostgreSQL is missing and cannot be installed from here: $POSTGRES_BY_HAND"
    exit "$EXIT_NOT_RUN"
  fi
  TRUEUP_PG_DURABLE=1 postgres_start
  export TRUEUP_TEST_POSTGRES=$postgres_url
  export TRUEUP_POSTGRES_BIN=$postgres_bin TRUEUP_POSTGRES_DIR=$postgres_dir TRUEUP_POSTGRES_USER=$postgres_user
  PYTHONDONTWRITEBYTECODE=1 run_in_group python3 "$root/scripts/proof.d/chaos/$name.py" "$@"
}
