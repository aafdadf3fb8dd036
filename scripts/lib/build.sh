# shellcheck shell=bash
# The release build that benchmarks and proofs measure. To be sourced.

# build_release ROOT: server and tools together, always the same selection: cargo would build the libraries of another one anew.
build_release() {
  (cd "$1" && cargo build --release -p api -p bench)
}
