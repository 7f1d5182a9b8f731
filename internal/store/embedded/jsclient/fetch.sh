#!/bin/sh
# Fetch ClickHouse's official JavaScript client for the tests: an npm package of pinned version and digest, unpacked and not installed.
# usage: fetch.sh [DIRECTORY]      (default: .cache/jsclient at the repository's root)
# Does nothing when the directory holds them already.
set -eu

version='1.23.1'
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../../../../.cache/jsclient}
stamp="@clickhouse/client@$version"

fail() {
	echo "fetch JavaScript client: $*" >&2
	exit 1
}

[ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
for tool in npm sha512sum base64 tar; do
	command -v "$tool" >/dev/null 2>&1 || fail "$tool is not installed"
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
tmp=$(mktemp -d "$dir/.fetch-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

get() { # get NAME DIGEST (npm's integrity, without its prefix)
	mkdir -p "$tmp/pack" "$tmp/node_modules/@clickhouse/$1"
	(cd "$tmp/pack" && npm pack --silent "@clickhouse/$1@$version" >/dev/null) || fail "npm could not fetch @clickhouse/$1@$version"
	set -- "$1" "$2" "$tmp"/pack/*.tgz
	[ -f "$3" ] || fail "npm left no package behind"
	got=$(sha512sum <"$3" | cut -d' ' -f1)
	want=$(printf %s "$2" | base64 -d | od -An -v -tx1 | tr -d ' \n')
	[ "$got" = "$want" ] || fail "@clickhouse/$1 has sha512 $got, expected $want: nothing was kept"
	tar -xzf "$3" -C "$tmp/node_modules/@clickhouse/$1" --strip-components=1
	rm -rf "$tmp/pack"
}
get client 'vs3/Zc1dHvT171btW5nMoPsPCJ6QVJ5pp7obxzO5sjqwFx/jjz9wwCAqcFOdc2DhprugDBaVn+4dVY8hG3A9nw=='
rm -rf "$dir/node_modules" "$dir/stamp"
mv "$tmp/node_modules" "$dir/node_modules"
printf '%s\n' "$stamp" >"$tmp/stamp"
mv "$tmp/stamp" "$dir/stamp"
