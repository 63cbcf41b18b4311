#!/usr/bin/env bash
# The relocatable package runs where it is unpacked, with an empty environment: a daemon of its own compiles and runs a graph.
#   tests/install/package.sh WORK
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$1
rm -rf "$work"
mkdir -p "$work"
tree=$("$here/../../deploy/package.sh" --tree "$work/made" | tail -n 1)
mv "$tree" "$work/elsewhere"
cd "$work"
cat >graph.kgraph <<'G'
params { name: "x" dtype: DTYPE_F32 dims { size: 4 } }
nodes { op: PARAM ints: 0 }
nodes { op: EXP src: 0 }
outputs { name: "y" node: 1 }
G
run() { env -i HOME="$work" "$work/elsewhere/bin/$1" "${@:2}"; }
# no function in the background: $! would be a shell around it
env -i HOME="$work" "$work/elsewhere/bin/kilnd" --listen "unix:$work/k.sock" --cache "$work/cache.db" >kilnd.log 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null || true' EXIT
for _ in $(seq 100); do
  run kiln --server "unix:$work/k.sock" health >/dev/null 2>&1 && break
  sleep 0.1
done
run kiln --server "unix:$work/k.sock" run graph.kgraph --random 1 --out "$work/out"
[ -s "$work/out/y.npy" ]
