# SPDX-License-Identifier: GPL-2.0-only
# Long steps: progress while they run, one line when they fail; sourced.

# with_progress LOG MEASURE COMMAND...: runs COMMAND with its output in LOG. Every few seconds the function
# MEASURE prints how far it is, and that is shown with the time it has taken.
with_progress() {
	local output=$1 measure=$2 start=$SECONDS pause=20 pid end='\n' status=0
	shift 2
	[ ! -t 2 ] || pause=1 end='\r'
	"$@" >"$output" 2>&1 &
	pid=$!
	while
		# Ends early when the command does.
		timeout "$pause" tail --pid="$pid" -f /dev/null || true
		kill -0 "$pid" 2>/dev/null
	do
		printf "vireo:   %s, %d:%02d$end" "$("$measure")" $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)) >&2
	done
	[ ! -t 2 ] || printf '\033[K' >&2
	wait "$pid" || status=$?
	return "$status"
}

# why LOG: the likely cause of a failed step and the remedy, in one line.
why() {
	local free
	if grep -qi 'no space left' "$1"; then
		free=$(df -h --output=avail "$cache" | tail -n 1 | tr -d ' ')
		echo "the disk is full ($free free where $cache is): free 6 GB, or set XDG_CACHE_HOME"
	elif grep -qiE 'could not resolve|temporary failure|connection (failed|refused|timed out)|network is unreachable|unable to connect|could not connect|failed to fetch|failed to download|spurious network error' "$1"; then
		echo "no network: check the connection and the proxy settings, then run this again (see $1)"
	elif grep -qiE 'permission denied' "$1"; then
		echo "a file cannot be written: $(grep -iE 'permission denied' "$1" | tail -n 1)"
	else
		echo "$(grep -iE '(^E: |error|\*\*\*)' "$1" | grep -v '^make' | tail -n 1) (see $1)"
	fi
}
