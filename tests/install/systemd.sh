#!/usr/bin/env bash
# The unit files under a real systemd: boots a minimal Debian in systemd-nspawn with the package of this tree in it, and does there what an
# operator does. Takes minutes and needs root, so no other test runs it.
#   tests/install/systemd.sh [ROOT]     ROOT: a folder for the system; made when it is not there, used again when it is. Default: build/systemd
# Exits with 0 when every check holds; prints each.
set -eu
. "$(dirname "$0")/../../deploy/lib.sh"
root=$(realpath -m "${1:-$KILN_ROOT/build/systemd}")

install_packages mmdebstrap systemd-container
[ -e "$root/etc/os-release" ] ||
  mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$root" >"$KILN_ROOT/build/systemd.log" 2>&1
package=$(ls -d "$KILN_ROOT"/build/package/kiln-*-linux-* 2>/dev/null | grep -v 'tar' | head -n 1 || true)
[ -n "$package" ] || package=$("$KILN_ROOT/deploy/package.sh" --tree | tail -n 1)
mkdir -p "$root/opt" "$root/etc/kiln" "$root/etc/systemd/system/multi-user.target.wants"
rm -rf "$root/opt/kiln" "$root/root/result" "$root/etc/systemd/system/kilnd.service.d"
cp -r "$package" "$root/opt/kiln"
for b in kilnd kiln kiln-worker; do ln -sf "../../opt/kiln/bin/$b" "$root/usr/bin/$b"; done
cp "$KILN_ROOT/deploy/kiln.conf" "$root/etc/kiln/kiln.conf"
cp "$KILN_ROOT"/deploy/{kilnd.service,kilnd.socket,kilnd-metrics.socket} "$root/etc/systemd/system/"
cp "$KILN_ROOT/deploy/kilnd-gpu.conf" "$root/root/"
: >"$root/etc/machine-id" # as an image has it: this is its first start

cat >"$root/etc/systemd/system/kiln-test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=idle
ExecStart=/bin/bash /root/checks.sh
UNIT
ln -sf ../kiln-test.service "$root/etc/systemd/system/multi-user.target.wants/"

cat >"$root/root/checks.sh" <<'CHECKS'
exec >/root/result 2>&1
export KILN_SERVER=unix:/run/kiln/kiln.sock
check() { local what=$1; shift; if "$@"; then echo "passed  $what"; else echo "FAILED  $what"; fi; }
pid() { systemctl show -p MainPID --value kilnd; }
logged() { journalctl -u kilnd --no-pager | grep -q "$1"; }
another() { for _ in $(seq "$2"); do sleep 0.1; kiln health >/dev/null 2>&1 && [ "$(pid)" != "$1" ] && return; done; return 1; }
answers() { kiln doctor | grep -q "the answer is right"; }

check "it is enabled and started" systemctl enable --now kilnd.socket kilnd-metrics.socket kilnd.service
check "a model is compiled and run" answers
check "systemctl status says how it is" sh -c 'systemctl status kilnd --no-pager | grep -q "1 of 1 devices up"'
check "it is nobody" sh -c "! grep -q '^Uid:.0' /proc/$(pid)/status && grep -q '^CapBnd:.0000000000000000' /proc/$(pid)/status"
check "others are kept out by the mode of the socket" sh -c "! setpriv --reuid 12345 --regid 12345 --clear-groups kiln health 2>/dev/null"
check "the metrics port answers" bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464; printf "GET /readyz HTTP/1.0\r\n\r\n" >&3; head -1 <&3 | grep -q 200'
check "systemctl reload" systemctl reload kilnd
sleep 1
check "the reload is audited" logged 'action="config.reload" code=OK'
sed -i 's/^; log_level = info/log_level = nonsense/' /etc/kiln/kiln.conf
systemctl reload kilnd
sleep 1
check "a reload of a mistake changes nothing" sh -c 'systemctl is-active -q kilnd && journalctl -u kilnd | grep -q "the configuration was not reloaded"'
sed -i 's/^log_level = nonsense/; log_level = info/' /etc/kiln/kiln.conf
(n=0; while [ ! -e /run/over ]; do n=$((n + 1)); kiln health >/dev/null 2>>/run/refused; done; echo $n >/run/calls) &
for _ in 1 2 3; do sleep 0.5; systemctl restart kilnd; done
sleep 0.5
touch /run/over
wait %1
echo "        $(cat /run/calls) calls during three restarts"
check "three restarts refuse nobody" test ! -s /run/refused
cat /run/refused
was=$(pid); kill -9 "$was"
check "kill -9: another one is there" another "$was" 100
check "which runs models" answers
was=$(pid); kill -STOP "$was"
check "one that hangs is replaced by the watchdog" another "$was" 600
systemctl stop kilnd 2>/dev/null
check "a stop ends well" test "$(systemctl show kilnd -p Result --value)$(systemctl show kilnd -p ExecMainStatus --value)" = success0
check "and a call starts it again" kiln health
mkdir -p /etc/systemd/system/kilnd.service.d
cp /root/kilnd-gpu.conf /etc/systemd/system/kilnd.service.d/
systemctl daemon-reload
check "the drop-in for a GPU, without one" systemctl restart kilnd
check "runs models too" answers
rm -r /etc/systemd/system/kilnd.service.d
systemctl daemon-reload
check "systemd-analyze verify" systemd-analyze verify /etc/systemd/system/kilnd.service
echo "        $(systemd-analyze security kilnd.service --no-pager | tail -n 1)"
check "nothing has failed" test -z "$(systemctl --failed --no-legend)"
systemctl disable -q kilnd.socket kilnd-metrics.socket kilnd.service
echo over
poweroff
CHECKS

timeout 300 systemd-nspawn -q -D "$root" --register=no --keep-unit -b >"$KILN_ROOT/build/systemd-boot.log" 2>&1 || true
[ -e "$root/root/result" ] || { tail -n 20 "$KILN_ROOT/build/systemd-boot.log"; exit 1; }
cat "$root/root/result"
failed=$(grep -c '^FAILED' "$root/root/result" || true)
grep -q '^over' "$root/root/result" || { echo "the checks did not come to their end"; exit 1; }
echo "$(grep -c '^passed' "$root/root/result") passed, $failed failed"
[ "$failed" = 0 ]
