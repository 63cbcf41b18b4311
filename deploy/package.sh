#!/usr/bin/env bash
# One relocatable archive for machines that have nothing of Kiln's installed: kilnd, its workers, kiln, libkiln, the Python wheel and every
# library that they load, LLVM's included, except glibc's own (2.36 or newer, as on Debian 12 and Ubuntu 24.04).
#   deploy/package.sh [--tree] [OUT]    writes OUT/kiln-VERSION-linux-ARCH.tar.xz (OUT: build/package); --tree: only the unpacked folder
# The programs find the libraries beside them ($ORIGIN/../lib), so the folder may be unpacked anywhere.
set -eu
. "$(dirname "$0")/lib.sh"
tree=
out=$KILN_ROOT/build/package
for arg in "$@"; do
  case $arg in
    --tree) tree=1 ;;
    -h|--help) sed -n '2,5p' "$0"; exit 0 ;;
    -*) echo "unknown option $arg; see --help" >&2; exit 64 ;;
    *) out=$(realpath -m "$arg") ;;
  esac
done

# The wheel's generated code runs with this grpcio and protobuf and later ones, so they are not the newest.
KILN_VENV=$KILN_ROOT/build/package-venv
install_packages "${BUILD_PACKAGES[@]}" "$(llvm_package)" patchelf xz-utils
build_kiln kilnd kiln-worker kiln kiln_shared kiln_static_lib
python_env package setuptools wheel grpcio-tools==1.76.0
version=$(sed -n 's/^project(kiln VERSION \([0-9.]*\).*/\1/p' "$KILN_ROOT/CMakeLists.txt")
name=kiln-$version-linux-$(uname -m)
root=$out/$name
rm -rf "$root"
mkdir -p "$root/lib"
cmake --install "$KILN_BUILD" --prefix "$root" --strip >"$KILN_ROOT/build/package.log"
"$KILN_VENV/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$root/python" \
  "$KILN_ROOT/client/python"
rm -rf "$KILN_ROOT/client/python/build" "$KILN_ROOT/client/python/"*.egg-info
cp "$KILN_ROOT/LICENSE" "$KILN_ROOT/README.md" "$KILN_ROOT/deploy/kiln.conf" "$root/"
cp "$KILN_ROOT"/deploy/{kilnd.service,kilnd.socket,kilnd-metrics.socket,kilnd-gpu.conf,grafana.json,prometheus-rules.yaml} "$root/"

# glibc's own stay the target system's: they belong to its kernel interface and its loader.
glibc='^(ld-linux.*|linux-vdso|libc|libm|libdl|libpthread|librt|libresolv|libutil)\.so'
ldd "$root"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u | while read -r soname path; do
  if ! [[ $soname =~ $glibc ]]; then cp -L "$path" "$root/lib/$soname"; fi
done
chmod u+w "$root"/lib/*.so*
for program in "$root"/bin/*; do patchelf --set-rpath '$ORIGIN/../lib' "$program"; done
for library in $(find "$root/lib" -maxdepth 1 -type f -name '*.so*'); do patchelf --set-rpath '$ORIGIN' "$library"; done
missing=$(env -u LD_LIBRARY_PATH ldd "$root"/bin/* | awk -v root="$root/" -v keep="$glibc" \
  '$2 == "=>" && index($3, root) != 1 && $1 !~ keep { print $1 }' | sort -u)
[ -z "$missing" ] || { echo "not in the package:" $missing >&2; exit 1; }
if [ -n "$tree" ]; then echo "$root"; exit; fi
tar -C "$out" -c "$name" | xz -T0 -6 >"$out/$name.tar.xz"
echo "$out/$name.tar.xz: $(stat -c %s "$out/$name.tar.xz") bytes"
