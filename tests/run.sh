#!/usr/bin/env bash
# Installs what the tests need, builds, runs everything that needs no GPU, and ends with one line "N passed, N failed".
#   tests/run.sh [--long]     --long: sanitizer presets, clang-tidy and the full random-graph count as well
# A second run takes no network and rebuilds nothing.
set -u
. "$(dirname "$0")/../deploy/lib.sh"
cd "$KILN_ROOT" || exit 1
mkdir -p build
long=
[ "${1:-}" = --long ] && long=1

passed=0
failed=0
# note NAME STATUS: counts one test.
note() {
  if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}
finish() { printf '\n%d passed, %d failed\n' "$passed" "$failed"; [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]; exit; }

# Adds the counts that ctest and pytest print in their closing lines; a run without such a line is one failure.
count_ctest() {
  local line bad total
  line=$(grep -E '[0-9]+% tests passed' "$1" | tail -n 1)
  [ -n "$line" ] || { note "ctest ($2) printed no summary" 1; return; }
  bad=$(sed -E 's/.* ([0-9]+) tests? failed out of ([0-9]+).*/\1/' <<<"$line")
  total=$(sed -E 's/.* ([0-9]+) tests? failed out of ([0-9]+).*/\2/' <<<"$line")
  passed=$((passed + total - bad))
  failed=$((failed + bad))
  sed -n '/The following tests FAILED/,$p' "$1"
}
count_pytest() {
  local line p f e
  line=$(tail -n 1 "$1")
  p=$(grep -oE '[0-9]+ passed' <<<"$line" | grep -oE '[0-9]+')
  f=$(grep -oE '[0-9]+ failed' <<<"$line" | grep -oE '[0-9]+')
  e=$(grep -oE '[0-9]+ errors?' <<<"$line" | grep -oE '[0-9]+')
  [ -n "$p$f$e" ] || { note "pytest ($2) printed no summary" 1; return; }
  passed=$((passed + ${p:-0}))
  failed=$((failed + ${f:-0} + ${e:-0}))
}

say "packages"
install_packages "${BUILD_PACKAGES[@]}" "$(llvm_package)" libcmocka-dev clang-format-14 || { note "installing packages" 1; finish; }
python_env tests numpy onnx onnxruntime grpcio grpcio-tools grpcio-reflection grpcio-health-checking protobuf pytest magika setuptools wheel ||
  { note "preparing the Python environment" 1; finish; }

say "build"
build_kiln || { note "build" 1; finish; }
note "build" 0

say "C tests"
ctest --test-dir "$KILN_BUILD" --output-on-failure >build/ctest.log 2>&1
count_ctest build/ctest.log release
grep -E '^\s*[0-9]+/[0-9]+ Test' build/ctest.log | grep -v Passed

export KILN_BIN=$KILN_BUILD/bin PYTHONDONTWRITEBYTECODE=1
# One run per folder: each has a conftest.py of its own.
for part in daemon client style; do
  say "Python tests: $part"
  "$KILN_VENV/bin/python" -m pytest -q -p no:cacheprovider tests/$part >build/pytest-$part.log 2>&1
  tail -n 15 build/pytest-$part.log
  count_pytest build/pytest-$part.log $part
done

say "ONNX backend tests and models"
"$KILN_VENV/bin/python" tests/model/onnx_suite.py >build/onnx.log 2>&1
note "ONNX node suite: $(tail -n 1 build/onnx.log)" $?
tail -n 3 build/onnx.log
"$KILN_VENV/bin/python" -m pytest -q -p no:cacheprovider tests/model >build/models.log 2>&1
tail -n 15 build/models.log
count_pytest build/models.log models

if [ -n "$long" ]; then
  install_packages clang-14 clang-tidy-14 libclang-rt-14-dev
  for preset in asan tsan; do
    say "$preset"
    cmake --preset $preset >build/$preset.log 2>&1 && cmake --build --preset $preset >>build/$preset.log 2>&1
    note "build ($preset)" $?
    ctest --preset $preset >build/ctest-$preset.log 2>&1
    count_ctest build/ctest-$preset.log $preset
    KILN_BIN=$KILN_ROOT/build/$preset/bin "$KILN_VENV/bin/python" -m pytest -q -p no:cacheprovider tests/daemon >build/pytest-$preset.log 2>&1
    count_pytest build/pytest-$preset.log $preset
  done
  say "random graphs"
  KILN_RANDOM_GRAPHS=5000 KILN_RANDOM_SEED=100000 "$KILN_VENV/bin/python" -m pytest -q -p no:cacheprovider tests/model/test_random_graphs.py >build/random-graphs.log 2>&1
  count_pytest build/random-graphs.log "random graphs"
  for set in sse2 avx2; do
    "$KILN_VENV/bin/python" tests/model/onnx_suite.py --runner $set >build/onnx-$set.log 2>&1
    note "ONNX node suite for $set: $(tail -n 1 build/onnx-$set.log)" $?
  done
  say "clang-tidy"
  git ls-files 'base/*.c' 'cache/*.c' 'compiler/*.c' 'daemon/*.c' 'devices/*.c' 'proto/*.c' 'client/*.c' |
    xargs -P 2 -n 8 clang-tidy-14 -p "$KILN_BUILD" --quiet >build/tidy.log 2>&1
  note "clang-tidy (build/tidy.log)" $?
fi
finish
