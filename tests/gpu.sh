#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command; on a machine without one it says so and succeeds.
#   tests/gpu.sh [--package FOLDER] [--long]    --package: the programs of an unpacked archive of deploy/package.sh (with bin/kiln-eval and
#                                               bin/test_device beside them) instead of a build of this tree
# The device conformance suite, faults under load, no tenant's bytes in another's hands, the ONNX node suite, random graphs, compute-sanitizer
# over the conformance suite if it is installed, and kernels and whole models beside PyTorch if that is. Ends with one line "N passed, N
# failed". Logs are in build/gpu-*.log, the kernels of each model in build/gpu-models.
set -u
cd "$(dirname "$0")/.." || exit 1
package= long=
while [ $# -gt 0 ]; do
  case $1 in
    --package) package=$(realpath "$2"); shift 2 ;;
    --long) long=1; shift ;;
    *) sed -n '2,6p' "$0"; exit 64 ;;
  esac
done
if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' || ! [ -e /dev/nvidiactl ]; then
  echo "skipped: no NVIDIA driver on this machine"
  printf '0 passed, 0 failed\n'
  exit 0
fi
mkdir -p build
export KILN_BIN=${package:+$package/bin}
export KILN_BIN=${KILN_BIN:-$PWD/build/release/bin} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PYTHONPATH=tests:tests/model:${PYTHONPATH:-}
python=${KILN_PYTHON:-python3}
device_suite=$KILN_BIN/test_device
[ -x "$device_suite" ] || device_suite=build/release/tests/test_device
passed=0 failed=0
# step NAME COMMAND...: the log is build/gpu-NAME.log.
step() {
  local name=$1 log=build/gpu-$1.log
  shift
  if timeout 1800 "$@" >"$log" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $name"; tail -n 15 "$log"; fi
  echo "$name: $(tail -n 1 "$log" | cut -c1-200)"
}
step conformance "$device_suite"
if "$python" -c 'import grpc_health' 2>/dev/null; then
  step faults "$python" tests/gpu/faults.py
else
  echo "skipped: faults, because grpcio-health-checking is not installed"
fi
if "$python" -c 'import pytest, grpc_tools' 2>/dev/null; then
  step isolation "$python" -m pytest -q tests/daemon/test_isolation.py -k memory_of_its_own
else
  echo "skipped: isolation, because pytest or grpcio-tools is not installed"
fi
step onnx "$python" tests/model/onnx_suite.py --runner cuda --eval "$KILN_BIN/kiln-eval" --every "$([ -n "$long" ] && echo 1 || echo 4)"
step random "$python" tests/model/random_graphs.py --set cuda --seeds "0:$([ -n "$long" ] && echo 5000 || echo 1000)" --jobs "$(nproc)"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    # what the suite makes the driver refuse is no error of the program
    step "sanitizer-$tool" compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 "$device_suite"
  done
else
  echo "skipped: compute-sanitizer is not installed"
fi
if "$python" -c 'import torch' 2>/dev/null; then
  step bench "$python" tests/bench/gpu.py
  mkdir -p build/gpu-models
  step models "$python" tests/bench/gpu_models.py --profile build/gpu-models
  cat build/gpu-bench.log build/gpu-models.log
else
  echo "skipped: the bench, because PyTorch is not installed"
fi
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
