# Shared by quickstart.sh and tests/run.sh: installing what is missing and building. Sourced, not run.
# Everything is done only when needed, so a second run takes no network and rebuilds nothing.

KILN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
KILN_BUILD=${KILN_BUILD:-$KILN_ROOT/build/release}
KILN_VENV=${KILN_VENV:-$KILN_ROOT/build/venv}

say() { printf '== %s\n' "$*"; }

# install_packages NAME...: Debian packages that are not installed yet.
install_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing ${missing[*]}"
  local sudo=
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# The LLVM development package: 19 where the distribution has it, else the newest of 18 and 17.
llvm_package() {
  local v
  for v in 19 18 17; do
    if dpkg-query -W -f='${Status}' "llvm-$v-dev" 2>/dev/null | grep -q 'ok installed'; then echo "llvm-$v-dev"; return; fi
  done
  [ -n "$(ls /var/lib/apt/lists/*Packages* 2>/dev/null)" ] ||
    { [ "$(id -u)" -eq 0 ] && apt-get update -qq >&2 || sudo apt-get update -qq >&2; }
  for v in 19 18 17; do
    if apt-cache show "llvm-$v-dev" >/dev/null 2>&1; then echo "llvm-$v-dev"; return; fi
  done
  echo llvm-19-dev
}

BUILD_PACKAGES=(gcc libc6-dev cmake ninja-build pkg-config libuv1-dev libnghttp2-dev libprotobuf-c-dev protobuf-c-compiler
  protobuf-compiler libsqlite3-dev libssl-dev libzstd-dev libseccomp-dev libinih-dev libcjson-dev python3 python3-venv)

# build_kiln: configures when there is no build folder, then builds what changed.
build_kiln() {
  [ -f "$KILN_BUILD/build.ninja" ] ||
    cmake -S "$KILN_ROOT" -B "$KILN_BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$KILN_ROOT/build/configure.log" 2>&1 ||
    { cat "$KILN_ROOT/build/configure.log"; return 1; }
  ninja -C "$KILN_BUILD" "$@" >"$KILN_ROOT/build/build.log" 2>&1 || { tail -n 60 "$KILN_ROOT/build/build.log"; return 1; }
}

# python_env STAMP PACKAGE...: a virtual environment with the packages and the kiln client; redone when the list, the client or the protos change.
python_env() {
  local stamp=$KILN_VENV/$1.stamp want
  shift
  want=$(printf '%s\n' "$@"; cd "$KILN_ROOT" && find client/python proto/kiln -name '*.p*' -type f -not -path '*/build/*' -print0 | sort -z | xargs -0 sha256sum)
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return 0
  say "preparing the Python environment"
  [ -x "$KILN_VENV/bin/python" ] || python3 -m venv "$KILN_VENV" || return 1
  "$KILN_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || return 1
  "$KILN_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$KILN_ROOT/client/python" || return 1
  rm -rf "$KILN_ROOT/client/python/build" "$KILN_ROOT/client/python/"*.egg-info
  printf '%s\n' "$want" >"$stamp"
}
