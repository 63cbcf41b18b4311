#!/usr/bin/env bash
# Builds the fuzz targets with libFuzzer and runs each for a while from its seed corpus.
#   tests/fuzz/run.sh [SECONDS] [TARGET...]      default: 300 seconds, every target, two at a time
# New inputs stay in build/fuzz/corpus; a crash leaves its input in build/fuzz/crashes and makes the exit status 1.
set -u
. "$(dirname "$0")/../../deploy/lib.sh"
cd "$KILN_ROOT" || exit 1
seconds=${1:-300}
shift || true
mkdir -p build
install_packages "${BUILD_PACKAGES[@]}" "$(llvm_package)" clang-14 libclang-rt-14-dev || exit 1
cmake --preset fuzz >build/fuzz-configure.log 2>&1 || { tail -n 20 build/fuzz-configure.log; exit 1; }
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//')
ninja -C build/fuzz "${targets[@]}" >build/fuzz-build.log 2>&1 || { tail -n 40 build/fuzz-build.log; exit 1; }
mkdir -p build/fuzz/corpus build/fuzz/crashes

fuzz_one() {
  local t=$1
  mkdir -p "build/fuzz/corpus/$t"
  "build/fuzz/tests/$t" -max_total_time="$2" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/crashes/$t-" "build/fuzz/corpus/$t" "tests/fuzz/corpus/$t" >"build/fuzz/$t.log" 2>&1
  local rc=$?
  printf '%-24s rc=%d %s cov=%s\n' "$t" $rc \
    "$(grep -o 'stat::number_of_executed_units: *[0-9]*' "build/fuzz/$t.log" | sed 's/.*: */runs=/')" \
    "$(grep -o 'cov: [0-9]*' "build/fuzz/$t.log" | tail -n 1 | cut -d' ' -f2)"
  return $rc
}
export -f fuzz_one
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz_one {} '"$seconds"
