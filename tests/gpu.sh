#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command; on a machine without one it says so and succeeds.
#   tests/gpu.sh [--package FOLDER] [--long] [--tune SECONDS]
#     --package: the programs of an unpacked archive of deploy/package.sh (with kiln-eval, test_device and test_kernels in its bin/) instead of a
#     build of this tree; --tune: of each product, attention and row, for the tuned column (about 90 of them)
# The device conformance suite; kernels of every kind with the heuristic's and ten random schedules; both under compute-sanitizer's four tools
# if it is installed; where NVRTC is, kernels by that compiler too; faults under load; no tenant's bytes in another's hands; the ONNX node suite; random graphs, one by one and through a
# daemon: all these at the same time, on as many processors as there are. Then, alone and if PyTorch is installed, kernels and whole models
# beside it. Prints a table for docs/devices.md and ends with one line "N passed, N failed". Logs are in build/gpu-*.log, the kernels of each
# model in build/gpu-models.
set -u
cd "$(dirname "$0")/.." || exit 1
package= long= tune=0
while [ $# -gt 0 ]; do
  case $1 in
    --package) package=$(realpath "$2"); shift 2 ;;
    --long) long=1; shift ;;
    --tune) tune=$2; shift 2 ;;
    *) sed -n '2,11p' "$0"; exit 64 ;;
  esac
done
if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' || ! [ -e /dev/nvidiactl ]; then
  echo "skipped: no NVIDIA driver on this machine"
  printf '0 passed, 0 failed\n'
  exit 0
fi
mkdir -p build/gpu-models
rm -f build/gpu-*.log build/gpu-*.rc
export KILN_BIN=${package:+$package/bin}
export KILN_BIN=${KILN_BIN:-$PWD/build/release/bin} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PYTHONPATH=tests:tests/model:${PYTHONPATH:-}
python=${KILN_PYTHON:-python3} jobs=$(nproc)
tests=$KILN_BIN
[ -x "$tests/test_device" ] || tests=build/release/tests
passed=0 failed=0 names= skipped=
# begin NAME COMMAND...: in the background; the log is build/gpu-NAME.log.
begin() {
  local name=$1
  shift
  names="$names $name"
  (timeout 1800 "$@" >"build/gpu-$name.log" 2>&1; echo $? >"build/gpu-$name.rc") &
}
# What was begun has ended: a row of the table for each.
finish() {
  local name rc what
  wait
  for name in $names; do
    rc=$(cat "build/gpu-$name.rc")
    what=$(grep -vE '^ *$|^\[  PASSED' "build/gpu-$name.log" | tail -n 1 | cut -c1-200)
    if [ "$rc" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) what="FAILED ($rc): $what"; fi
    echo "| $name | $what |"
    [ "$rc" -eq 0 ] || tail -n 15 "build/gpu-$name.log"
  done
  names=
}
# alone NAME PROGRAM...: nothing beside it; its output is shown.
alone() {
  local name=$1
  shift
  begin "$name" "$python" "$@"
  finish >/dev/null
  cat "build/gpu-$name.log"
}
skip() { skipped="$skipped; $1"; }
has() { "$python" -c "import $1" 2>/dev/null; }

# NVRTC, which Python packages bring: with it kernels are also made of CUDA C++.
nvrtc=$("$python" -c 'import glob, sysconfig; print(":".join({p.rsplit("/", 1)[0] for p in glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib/libnvrtc.so.*")}))')
[ -z "$nvrtc" ] || export LD_LIBRARY_PATH="$nvrtc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
[ -n "$nvrtc" ] || ldconfig -p | grep -q 'libnvrtc\.so' || skip "kernels as CUDA C++, because NVRTC is not installed"

echo "| $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1) | $(date -u +%F) |"
echo "|---|---|"
begin conformance "$tests/test_device"
begin kernels "$tests/test_kernels" cuda:0
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    # what the suite makes the driver refuse is no error of the program
    sanitizer="compute-sanitizer --tool $tool --report-api-errors no --show-backtrace no --error-exitcode 9"
    begin "$tool-conformance" $sanitizer "$tests/test_device" cuda
    begin "$tool-kernels" sh -c "seq 0 7 | xargs -P 8 -I K $sanitizer $tests/test_kernels cuda:0 10 K/8"
  done
else
  skip "compute-sanitizer is not installed"
fi
if has grpc_health; then begin faults "$python" tests/gpu/faults.py; else skip "faults, because grpcio-health-checking is not installed"; fi
if has pytest && has grpc_tools; then
  begin isolation "$python" -m pytest -q tests/daemon/test_isolation.py -k memory_of_its_own
else
  skip "isolation, because pytest or grpcio-tools is not installed"
fi
begin exhaustive "$python" tests/model/exhaustive.py
begin onnx "$python" tests/model/onnx_suite.py --runner cuda --eval "$KILN_BIN/kiln-eval" --jobs "$jobs" --every "$([ -n "$long" ] && echo 1 || echo 4)"
begin random "$python" tests/model/random_graphs.py --set cuda --seeds "0:$([ -n "$long" ] && echo 5000 || echo 1000)" --jobs "$jobs"
begin random-daemon "$python" tests/model/random_graphs.py --daemon --set cuda --seeds "0:$([ -n "$long" ] && echo 1000 || echo 200)" --jobs 4
finish
if has torch; then
  alone kernels-beside-torch tests/bench/gpu.py --tune "$tune"
  alone models-beside-torch tests/bench/gpu_models.py --profile build/gpu-models
else
  skip "the benches, because PyTorch is not installed"
fi
[ -z "$skipped" ] || echo "skipped:${skipped#;}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
