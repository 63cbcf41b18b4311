# Shared by quickstart.sh and tests/run.sh: installing what is missing and building. Sourced, not run.
# Everything is done only when needed, so a second run takes no network and rebuilds nothing. Logs are in build/*.log.

KILN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
KILN_BUILD=${KILN_BUILD:-$KILN_ROOT/build/release}
KILN_VENV=${KILN_VENV:-$KILN_ROOT/build/venv}

say() { printf '== %s\n' "$*"; }

# A command as root: apt-get needs it.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else echo "'$*' has to run as root, and there is no sudo here" >&2; return 1; fi
}

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# install_packages NAME...: Debian packages that are not installed yet. What apt-get says is in build/packages.log.
install_packages() {
  local missing=() p log=$KILN_ROOT/build/packages.log
  for p in "$@"; do
    installed "$p" || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing ${missing[*]}"
  mkdir -p "$KILN_ROOT/build"
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null ||
    { tail -n 20 "$log"; return 1; }
}

# The LLVM development package: 19 where the distribution has it, else the newest of 18 and 17.
llvm_package() {
  local v
  for v in 19 18 17; do
    if installed "llvm-$v-dev"; then echo "llvm-$v-dev"; return; fi
  done
  # A fresh system has no package lists, and then nothing is known to exist.
  apt-cache show gcc >/dev/null 2>&1 || as_root apt-get update -qq >&2
  for v in 19 18 17; do
    if apt-cache show "llvm-$v-dev" >/dev/null 2>&1; then echo "llvm-$v-dev"; return; fi
  done
  echo llvm-19-dev
}

BUILD_PACKAGES=(gcc libc6-dev cmake ninja-build pkg-config libuv1-dev libnghttp2-dev libprotobuf-c-dev protobuf-c-compiler
  protobuf-compiler libsqlite3-dev libssl-dev libzstd-dev libseccomp-dev libinih-dev libcjson-dev libhiredis-dev python3 python3-venv)

# An OpenCL device without a GPU, for the tests.
OPENCL_PACKAGES=(ocl-icd-libopencl1 pocl-opencl-icd)

# build_kiln TARGET...: configures, which finds what was installed since the last time, then builds what changed.
build_kiln() {
  local logs=$KILN_ROOT/build
  mkdir -p "$logs"
  cmake -S "$KILN_ROOT" -B "$KILN_BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$logs/configure.log" 2>&1 ||
    { cat "$logs/configure.log"; return 1; }
  ninja -C "$KILN_BUILD" "$@" >"$logs/build.log" 2>&1 || { tail -n 60 "$logs/build.log"; return 1; }
}

# python_files PACKAGE...: packages whose files are read but that are never imported: without what they depend on.
python_files() {
  local stamp=$KILN_VENV/files.stamp want
  want=$(printf '%s\n' "$@")
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return 0
  "$KILN_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$@" || return 1
  printf '%s\n' "$want" >"$stamp"
}
# python_env STAMP PACKAGE...: a virtual environment with the packages and the kiln client; redone when the list, the client or the protos change.
python_env() {
  local stamp=$KILN_VENV/$1.stamp want
  shift
  want=$(printf '%s\n' "$@"; cd "$KILN_ROOT" && find client/python proto/kiln -name '*.p*' -type f -not -path '*/build/*' -print0 | sort -z | xargs -0 sha256sum)
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return 0
  say "preparing the Python environment"
  # pip is what venv makes last: without it an earlier attempt was cut short.
  [ -x "$KILN_VENV/bin/pip" ] || python3 -m venv --clear "$KILN_VENV" || return 1
  "$KILN_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || return 1
  "$KILN_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps --no-build-isolation \
    "$KILN_ROOT/client/python" || return 1
  rm -rf "$KILN_ROOT/client/python/build" "$KILN_ROOT/client/python/"*.egg-info
  printf '%s\n' "$want" >"$stamp"
}
