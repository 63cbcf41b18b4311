#!/bin/sh
# Usage: check.sh CMAKE BUILD WORK CC [CXX]. Installs the component "client" into a fresh prefix and builds the same small
# program with pkg-config (shared and static), with find_package, and, as a header check, as C++.
set -eu
cmake=$1 build=$2 work=$3 cc=$4 cxx=${5:-}
here=$(cd "$(dirname "$0")" && pwd)
prefix=$work/prefix
rm -rf "$prefix" "$work/cmake" "$work"/program-*
"$cmake" --install "$build" --component client --prefix "$prefix" >/dev/null

pc=$(find "$prefix" -name kiln.pc)
libdir=$(dirname "$(dirname "$pc")")
# The file names the prefix chosen at configure time; this one is elsewhere.
pkg() { PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$prefix" "$@" kiln; }
run() { # the program, with a server that is not there, must say so
  out=$(LD_LIBRARY_PATH=$libdir "$1")
  [ "$out" = "$(pkg --modversion) UNAVAILABLE" ] || { echo "$1 printed '$out'"; exit 1; }
  echo "$(basename "$1"): $out"
}

$cc -Wall -Wextra -Wpedantic -Werror "$here/program.c" $(pkg --cflags --libs) -o "$work/program-shared"
run "$work/program-shared"
$cc "$here/program.c" $(pkg --cflags) "$libdir/libkiln.a" $(PKG_CONFIG_PATH= pkg-config --libs libnghttp2 libprotobuf-c libssl libcrypto) \
  -o "$work/program-static"
run "$work/program-static"
for lib in "$libdir/libkiln.a" "$libdir/libkiln.so"; do
  case $lib in *.so) flags=-D ;; *) flags= ;; esac
  other=$(nm -g --defined-only $flags "$lib" | awk 'NF == 3 && $3 !~ /^kiln_/ { print $3 }')
  [ -z "$other" ] || { echo "$lib exports more than kiln_*:" $other; exit 1; }
done
if [ -n "$cxx" ]; then
  $cxx -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only $(pkg --cflags) "$here/program.c"
  echo "header: valid C++"
fi
$cc -std=c90 -Wall -Wextra -Werror -fsyntax-only $(pkg --cflags) "$here/program.c"
for kind in kiln kiln_static; do
  "$cmake" -G Ninja -S "$here/project" -B "$work/cmake/$kind" -DKILN_KIND=$kind -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" >/dev/null
  "$cmake" --build "$work/cmake/$kind" >/dev/null
  run "$work/cmake/$kind/program"
done
