#!/usr/bin/env bash
# Installs what the tests need, builds, runs everything that needs no GPU, and ends with one line "N passed, N failed".
#   tests/run.sh [--long]     --long: the sanitizer presets and clang-tidy as well
# A second run takes no network and rebuilds nothing.
set -u
. "$(dirname "$0")/../deploy/lib.sh"
long=
case ${1:-} in
  '') ;;
  --long) long=1 ;;
  *) sed -n '2,4p' "$0"; exit 64 ;;
esac
cd "$KILN_ROOT" || exit 1
mkdir -p build

passed=0
failed=0
# note NAME STATUS: counts one test.
note() {
  if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}
finish() {
  printf '\nafter %d min %d s; logs are in build/*.log\n%d passed, %d failed\n' $((SECONDS / 60)) $((SECONDS % 60)) "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}

# Adds the counts that a runner's closing line gives; no such line, or a bad exit status without a failed test, is one failure.
#   add_counts NAME STATUS PASSED FAILED
add_counts() {
  [ -n "$3$4" ] || { note "$1 printed no summary" 1; return; }
  passed=$((passed + ${3:-0}))
  failed=$((failed + ${4:-0}))
  [ "$2" -eq 0 ] || [ "${4:-0}" -gt 0 ] || note "$1 exited with $2" 1
}
# run_ctest NAME CTEST-ARGUMENT...: the log is build/ctest-NAME.log.
run_ctest() {
  local name=$1 log=build/ctest-$1.log status line bad= total= ok=
  shift
  ctest "$@" -j "$(nproc)" --output-on-failure >"$log" 2>&1
  status=$?
  line=$(grep -E '[0-9]+% tests passed' "$log" | tail -n 1)
  if [ -n "$line" ]; then
    bad=$(sed -E 's/.* ([0-9]+) tests? failed out of ([0-9]+).*/\1/' <<<"$line")
    total=$(sed -E 's/.* ([0-9]+) tests? failed out of ([0-9]+).*/\2/' <<<"$line")
    ok=$((total - bad))
  fi
  grep -E '^ *[0-9]+/[0-9]+ Test' "$log" | grep -v ' Passed '
  sed -n '/The following tests FAILED/,$p' "$log"
  echo "$line"
  add_counts "ctest ($name)" $status "$ok" "$bad"
}
# pytest_counts LOG: p, f: how many passed, and how many failed or could not be set up.
pytest_counts() {
  local line e
  line=$(grep -E '[0-9]+ (passed|failed|errors?)\b.* in [0-9.]+s' "$1" | tail -n 1)
  p=$(grep -oE '[0-9]+ passed' <<<"$line" | grep -oE '[0-9]+')
  f=$(grep -oE '[0-9]+ failed' <<<"$line" | grep -oE '[0-9]+')
  e=$(grep -oE '[0-9]+ errors?' <<<"$line" | grep -oE '[0-9]+')
  [ -z "$f$e" ] || f=$((${f:-0} + ${e:-0}))
}
# run_pytest NAME ARGUMENT...: the log is build/pytest-NAME.log. The tests of a daemon depend on how quickly the machine
# answers, so up to three that failed run once more, alone; those that pass then are counted as passed and named. A runner
# that is killed (once, of some thirty runs, a client in it grew until memory was out) is started once more, too; where each
# thread is when a test takes two minutes stands in its log.
run_pytest() {
  local name=$1 log=build/pytest-$1.log again=build/pytest-$1-again.log status p f first
  shift
  local run=("$KILN_VENV/bin/python" -m pytest -q -o "cache_dir=$KILN_ROOT/build/pytest-$name-cache" -o faulthandler_timeout=120 "$@")
  rm -rf "build/pytest-$name-cache"
  "${run[@]}" >"$log" 2>&1
  status=$?
  if [ $status -gt 128 ]; then
    echo "RUN AGAIN: pytest ended with $status after $(grep -c '%\]' "$log") lines; its log is build/pytest-$name-killed.log"
    mv "$log" "build/pytest-$name-killed.log"
    "${run[@]}" >"$log" 2>&1
    status=$?
  fi
  tail -n 25 "$log"
  pytest_counts "$log"
  if [ "${f:-0}" -gt 0 ] && [ "$f" -le 3 ]; then
    first=${p:-0}
    "${run[@]}" -vv --last-failed --last-failed-no-failures none >"$again" 2>&1
    status=$?
    tail -n 25 "$again"
    pytest_counts "$again"
    grep -E ' PASSED ' "$again" | sed 's/ PASSED .*//; s/^/PASSED ONLY WHEN RUN AGAIN: /'
    p=$((first + ${p:-0}))
  fi
  add_counts "pytest ($name)" $status "$p" "$f"
}

say "packages"
install_packages "${BUILD_PACKAGES[@]}" "$(llvm_package)" libcmocka-dev g++ openssl clang-format-14 systemd strace libb64-0d redis-server haproxy iproute2 "${OPENCL_PACKAGES[@]}" || { note "installing packages" 1; finish; }
# Two versions are fixed: tests/model/onnx_not_passing.txt lists the tests of one onnx, and magika ships a model.
python_env tests numpy onnx==1.23.2 onnxruntime grpcio grpcio-tools grpcio-reflection grpcio-health-checking protobuf pytest magika==1.0.3 \
  "tritonclient[grpc]" perf-analyzer nvidia-cuda-runtime-cu12 pyyaml kubernetes-validate prometheus-client setuptools wheel ||
  { note "preparing the Python environment" 1; finish; }

python_files silero-vad==6.2.3 faster-whisper==1.2.1 basic-pitch==0.4.0 nudenet==3.4.2 rapidocr-onnxruntime==1.4.4 \
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-nvrtc==13.0.88 ||
  { note "installing the packages that ship models, ptxas and NVRTC" 1; finish; }

say "build"
build_kiln || { note "build" 1; finish; }
note "build" 0

say "C tests"
run_ctest release --test-dir "$KILN_BUILD"
ctest --test-dir "$KILN_BUILD" -N | grep -q ' unit/'
note "the unit tests are part of the build" $?

say "the relocatable package"
tests/install/package.sh "$KILN_ROOT/build/package-test" >build/package-test.log 2>&1
note "the relocatable package (build/package-test.log)" $?

unset KILN_SERVER
export KILN_BIN=$KILN_BUILD/bin PYTHONDONTWRITEBYTECODE=1
# One run per folder: each has a conftest.py of its own.
for part in daemon client style; do
  say "Python tests: $part"
  run_pytest $part tests/$part
done

say "ONNX backend tests (one test here: those that fail are exactly the ones that tests/model/onnx_not_passing.txt lists)"
"$KILN_VENV/bin/python" tests/model/onnx_suite.py >build/onnx.log 2>&1
note "ONNX node suite: $(tail -n 1 build/onnx.log)" $?
tail -n 3 build/onnx.log
# PoCL takes about a tenth of a second for each kernel: a sample here, all of them with --long.
"$KILN_VENV/bin/python" tests/model/onnx_suite.py --runner opencl --every "$([ -n "$long" ] && echo 1 || echo 40)" >build/onnx-opencl.log 2>&1
note "ONNX node suite on OpenCL: $(tail -n 1 build/onnx-opencl.log)" $?
tail -n 1 build/onnx-opencl.log
say "Kernels for NVIDIA GPUs, assembled without one"
"$KILN_VENV/bin/python" tests/gpu/ptx.py --every "$([ -n "$long" ] && echo 1 || echo 60)" ${long:+--arch sm_75,sm_80,sm_89,sm_90a,sm_100,sm_120} >build/ptx.log 2>&1
note "PTX for sm_75, sm_80, sm_90a and sm_120, by LLVM and by NVRTC (build/ptx.log)" $?
grep -E 'kernels(,| as)' build/ptx.log
say "Models"
run_pytest models tests/model

if [ -n "$long" ]; then
  install_packages clang-14 clang-tidy-14 libclang-rt-14-dev || { note "installing packages" 1; finish; }
  for preset in asan tsan; do
    say "$preset"
    cmake --preset $preset >build/$preset.log 2>&1 && cmake --build --preset $preset >>build/$preset.log 2>&1
    note "build ($preset)" $?
    run_ctest $preset --preset $preset
    KILN_BIN=$KILN_ROOT/build/$preset/bin run_pytest $preset tests/daemon
  done
  say "random graphs"
  KILN_RANDOM_GRAPHS=50000 KILN_RANDOM_OPENCL=2000 KILN_RANDOM_CUDA_C=500 KILN_RANDOM_SEED=100000 run_pytest random-graphs tests/model/test_random_graphs.py
  "$KILN_BUILD"/tests/test_plan_symbolic_random 100000 1000000 >build/symbolic.log 2>&1 &&
    "$KILN_BUILD"/tests/test_schedule_symbolic 20000 1000000 >>build/symbolic.log 2>&1
  note "random graphs with symbolic sizes" $?
  for set in sse2 avx2; do
    "$KILN_VENV/bin/python" tests/model/onnx_suite.py --runner $set >build/onnx-$set.log 2>&1
    note "ONNX node suite for $set: $(tail -n 1 build/onnx-$set.log)" $?
  done
  say "kill -9 of every kind of process, 100 times each"
  KILN_KILLS=100 run_pytest kills tests/daemon/test_kill.py
  grep ' kills, ' build/pytest-kills.log
  say "each of 100 allocations of a call fails"
  KILN_ALLOCATIONS=100 run_pytest allocations tests/daemon/test_resources.py -k allocations
  grep '^allocations: ' build/pytest-allocations.log
  say "half an hour of mixed traffic"
  "$KILN_VENV/bin/python" tests/bench/load.py --soak 1800 soak >build/soak.log 2>&1
  note "soak (build/soak.log)" $?
  tail -n 12 build/soak.log
  say "clang-tidy"
  find base cache compiler daemon devices proto client -name '*.c' -print | sort | xargs -P 2 -n 8 clang-tidy-14 -p "$KILN_BUILD" --quiet >build/tidy.log 2>&1
  note "clang-tidy (build/tidy.log)" $?
fi
finish
