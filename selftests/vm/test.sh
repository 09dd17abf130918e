#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Tests of the harness itself, in TAP: what selftests/vm/run promises.
set -uo pipefail
. "$(dirname "$(readlink -f "$0")")/lib.sh"
. "$vm_dir/report.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work/tmp
mkdir "$TMPDIR"
number=0 failures=0

# check NAME COMMAND...: one result.
check() {
	local name=$1 result=ok
	shift
	number=$((number + 1))
	"$@" || {
		result='not ok'
		failures=$((failures + 1))
	}
	echo "$result $number $name"
}

# vm OPTION... -- COMMAND...: sets $status; output in $work/out, messages in $work/err.
vm() {
	status=0
	"$vm_dir/run" --no-module "$@" >"$work/out" 2>"$work/err" || status=$?
}
status_is() { [ "$status" -eq "$1" ] || { echo "# status $status, not $1" && tail -n 5 "$work/err" | sed 's/^/# /' && false; }; }
output_is() { [ "$(cat "$work/out")" = "$1" ] || { sed 's/^/# /' "$work/out" && false; }; }
says() { grep -aq "$1" "$work/err"; }
refuses() {
	vm "${@:2}"
	status_is 125 && says "$1" && [ "$(wc -l <"$work/err")" -eq 1 ]
}

mkdir -p "$work/folder/sub"
echo 'a file' >"$work/folder/sub/file"
printf 'two  words\n$HOME' >"$work/file"

echo "TAP version 13"
check "no command is refused" refuses "no COMMAND"
check "an unknown option is refused" refuses "unknown option" --wrong -- true
check "an unknown backend is refused" refuses "vmx, svm or none" --backend x -- true
check "a missing file is refused" refuses "there is no" --add "$work/none:/none" -- true
check "a number that is none is refused" refuses "positive number" --cpus none -- true

seq -f '[    1.000000] WARNING: CPU: 0 PID: %g at nowhere' 20000 >"$work/log"
reports() { kernel_report "$work/log" >"$work/report"; }
check "a log full of reports has some" reports
check "and 200 lines of them are shown" cmp -s "$work/report" <(head -n 200 "$work/log")
echo '[    1.000000] all is well' >"$work/log"
check "a log without a report has none" eval '! reports'

vm --backend svm --kvm --cpus 2 --add "$work/file:/etc/a file" --add "$work/folder:/opt/folder" \
	--add "/bin/bash:/opt/dynamic" -- sh -c '
	echo "to stderr" >&2
	cat "/etc/a file" && echo && cat /opt/folder/sub/file && /opt/dynamic --version >/dev/null && nproc &&
	[ -c /dev/kvm ] && printf "%s|" "$@" && printf "\001\r\n\377" | od -An -tx1 && exit 42' sh "it's" 'a "b"' ''
check "svm: the status is the command's" status_is 42
check "svm: the output is the command's and nothing else" output_is "two  words
\$HOME
a file
2
it's|a \"b\"|| 01 0d 0a ff"
check "svm: the command's messages go to stderr" says "to stderr"
check "svm: no line of the harness's own on stdout" eval '! grep -aq vm-status "$work/out"'

vm --backend svm -- sh -c 'printf "\000\001\r\n\377\n\004"; echo "<4>WARNING: CPU: 0 PID: 1 at nowhere" >/dev/kmsg'
check "svm: a kernel report makes it fail with 70" status_is 70
check "svm: and is shown" says "WARNING: CPU: 0 PID: 1 at nowhere"
check "svm: binary output arrives unchanged" eval '[ "$(od -An -tx1 <"$work/out")" = " 00 01 0d 0a ff 0a 04" ]'

"$vm_dir/run" --backend none -- true >"$work/out" 2>"$work/err"
check "neither: the module says what the CPU lacks" says "vireo: cannot load: the CPU has neither VMX nor SVM"

vm --backend svm --icount -- sh -c 'nproc; grep MHz /proc/cpuinfo'
check "svm: --icount gives one CPU whose ticks are nanoseconds" eval 'grep -q ": 100[0-9]\." "$work/out" && [ "$(head -n 1 "$work/out")" = 1 ]'

vm --backend svm --timeout 15 -- sh -c 'echo c >/proc/sysrq-trigger'
check "svm: a kernel panic ends it with 70" status_is 70

vm --backend svm --timeout 6 -- sh -c 'echo begun; exec sleep 100'
check "svm: 124 on time-out" status_is 124
check "svm: output before the time-out arrives" output_is begun

vm --backend svm --timeout 60 -- sh -c 'echo begun; reboot -f'
check "svm: a reboot ends the nested VM" status_is 125

start=$SECONDS
vm --backend vmx --kvm -- sh -c 'grep -c "^flags.* vmx " /proc/cpuinfo; seq 1 2000 | md5sum; [ -c /dev/kvm ] && exit 7'
took=$((SECONDS - start))
check "vmx: the status is the command's" status_is 7
check "vmx: the output is the command's and nothing else" output_is "1
$(seq 1 2000 | md5sum)"
vm --backend vmx --timeout 60 -- true
check "vmx: a command without output ends" status_is 0
vm --backend vmx --timeout 60 -- sh -c 'echo begun; reboot -f'
check "vmx: a reboot ends the nested VM" status_is 125
# The debug flavour's modules that do wrong. Lockdep is first: it goes off at the first report of another kind.
if [ -z "${KDIR:-}" ]; then
	export FLAVOUR=debug
	debug=$("$vm_dir/kernel.sh") || exit
	vm --backend svm --cpus 2 --timeout 300 --add "$debug/drivers/misc/lkdtm/lkdtm.ko:/lkdtm.ko" \
		--add "$debug/samples/kmemleak/kmemleak-test.ko:/kmemleak-test.ko" -- sh -c '
		insmod /lkdtm.ko && insmod /kmemleak-test.ko
		for crime in SPINLOCKUP WRITE_AFTER_FREE ARRAY_BOUNDS; do
			(echo $crime >/sys/kernel/debug/provoke-crash/DIRECT)
		done'
	unset FLAVOUR
	check "debug: mistakes make it fail with 70" status_is 70
	check "debug: lockdep" says "WARNING: lock held when returning to user space"
	check "debug: sleep in atomic context" says "BUG: \(sleeping function called from invalid\|scheduling while atomic\)"
	check "debug: KASAN" says "BUG: KASAN: slab-use-after-free in lkdtm_WRITE_AFTER_FREE"
	check "debug: UBSAN" says "UBSAN: array-index-out-of-bounds"
	check "debug: kmemleak" says "kmemleak: [1-9].* new suspected memory leaks, after the command"
fi
check "no files are left" rmdir "$TMPDIR"
echo "1..$number"
echo "# the nested VM with VT-x took $took s, start to end"
[ "$failures" -eq 0 ]
