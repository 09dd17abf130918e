# SPDX-License-Identifier: GPL-2.0-only
# Debian packages from suites that the machine has not enabled: private apt state, no root; sourced.
# The mirror is the one that the machine's own configuration names for its release.

# Sets $mirror.
find_mirror() {
	local release
	release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
		awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }')
	[ -n "$mirror" ] ||
		die "apt has no source for Debian ${release:-(unknown release)}: add one under /etc/apt, run apt-get update, then this again"
}

# open_suite SUITE: fetches the suite's index; sets $apt_options for apt-get and apt-cache. Fails when the
# mirror lacks the suite or cannot be reached; $apt_log then says why.
open_suite() {
	local state=$cache/apt/$1
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	find_mirror
	mkdir -p "$state/lists/partial" "$state/archives/partial"
	apt_log=$state/log
	echo "deb [signed-by=$keyring] $mirror $1 main" >"$state/sources.list"
	apt_options=(-o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state" -o "Dir::Etc::sourcelist=$state/sources.list"
		-o Dir::Etc::sourceparts=- -o APT::Sandbox::User= -o Acquire::Retries=3 -o Acquire::Languages=none
		-o APT::Update::Error-Mode=any)
	apt-get "${apt_options[@]}" -q update >"$apt_log" 2>&1
}

# newest PACKAGE: its newest version in the opened suite, or nothing.
newest() {
	apt-cache "${apt_options[@]}" madison "$1" 2>/dev/null | awk 'NR == 1 { print $3 }'
}

# download PACKAGE VERSION FOLDER: fetches the package, checked against the suite's signature.
download() {
	local size folder=$3
	size=$(apt-cache "${apt_options[@]}" show "$1=$2" | awk '$1 == "Size:" { print $2; exit }')
	measure_download() {
		local bytes
		bytes=$(cat "$folder"/*.deb "$folder"/*.FAILED 2>/dev/null | wc -c)
		echo "$((bytes * 100 / size))% of $((size / 1000000)) MB"
	}
	mkdir -p "$folder"
	(cd "$folder" && with_progress "$apt_log" measure_download apt-get "${apt_options[@]}" -q download "$1=$2")
}
