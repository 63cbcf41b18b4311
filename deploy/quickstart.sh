#!/usr/bin/env bash
# From a clone to an answer: installs what is missing, builds, starts kilnd on a Unix socket with its embedded cache, compiles and
# runs a trained model that a Python package ships (magika's file-type model) on real files, and prints labels, times and
# the state of the cache.
#   deploy/quickstart.sh [--keep] [FILE...]     --keep: leave the daemon running
set -eu
. "$(dirname "$0")/lib.sh"
keep=
files=()
for arg in "$@"; do
  case $arg in
    --keep) keep=1 ;;
    -h|--help) sed -n '2,6p' "$0"; exit 0 ;;
    -*) echo "unknown option $arg; see --help" >&2; exit 64 ;;
    *)
      [ -f "$arg" ] && [ -r "$arg" ] || { echo "'$arg' is not a file that can be read" >&2; exit 66; }
      files+=("$(realpath "$arg")") ;;
  esac
done
cd "$KILN_ROOT"
mkdir -p build

install_packages "${BUILD_PACKAGES[@]}" "$(llvm_package)"
say "building"
build_kiln kilnd kiln-worker kiln
python_env quickstart numpy grpcio protobuf magika==1.0.3 setuptools wheel grpcio-tools

run=$KILN_ROOT/build/quickstart
mkdir -p "$run"
chmod 700 "$run"
socket=$run/kiln.sock
kiln() { "$KILN_BUILD/bin/kiln" --server "unix:$socket" --no-spawn "$@"; }
if kiln health >/dev/null 2>&1; then
  say "kilnd runs already, from an earlier --keep"
else
  say "starting kilnd on unix:$socket"
  # In a session of its own: with --keep it outlives the terminal.
  setsid "$KILN_BUILD/bin/kilnd" --listen "unix:$socket" --cache "$run/cache.db" >"$run/kilnd.log" 2>&1 </dev/null &
  pid=$!
  echo $pid >"$run/kilnd.pid"
  trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null || true; rm -f "$run/kilnd.pid"' EXIT
  for _ in $(seq 100); do
    kiln health >/dev/null 2>&1 && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.1
  done
  kiln health >/dev/null || { cat "$run/kilnd.log"; exit 1; }
fi
[ ${#files[@]} -gt 0 ] || files=(README.md CMakeLists.txt base/arena.c deploy/lib.sh proto/kiln/v1/kiln.proto
  client/python/kiln/client.py "${KILN_BUILD#"$KILN_ROOT"/}/bin/kiln" LICENSE)
"$KILN_VENV/bin/python" deploy/quickstart.py "unix:$socket" "${files[@]}"
say "the cache"
kiln cache stats
if [ -n "$keep" ]; then
  trap - EXIT
  say "kilnd keeps running (stop it with: kill $(cat "$run/kilnd.pid")); try"
  echo "   $KILN_BUILD/bin/kiln --server unix:$socket devices"
fi
