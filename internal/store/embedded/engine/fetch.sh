#!/bin/sh
# Fetch the embedded ClickHouse engine: libchdb.so of a pinned npm package, checked against a pinned digest.
# usage: fetch.sh [DIRECTORY]      (default: bin/engine at the repository's root)
# Does nothing when the directory already holds that very library.
set -eu

package='@chdb/lib-linux-x64-gnu'
version='26.7.3-stable.1'
tarball_sha512='5cff7b98caa7739b59a4a432c11f0dedc2d3b073624e61ebdf4a42e66ce8de35a6ba48ca9f62016bad1cd81fe059435cb858ce3235a8a2b408082a81563e70a7'
library_sha256='36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5'

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../../../../bin/engine}
stamp="$package@$version sha256:$library_sha256"

fail() {
	echo "fetch engine: $*" >&2
	exit 1
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ -f "$dir/libchdb.so" ] && [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp $(stat -c %s "$dir/libchdb.so")" ]; then
	exit 0
fi

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) ;;
*) fail "there is an engine for Linux on x86-64 only; configure a ClickHouse server instead" ;;
esac
for tool in npm sha512sum sha256sum tar; do
	command -v "$tool" >/dev/null 2>&1 || fail "$tool is not installed (Debian: npm comes with the package npm, the others with coreutils and tar)"
done

# Another run may be under way in the same directory; the work is done aside and the result put in place by rename.
tmp=$(mktemp -d "$dir/.fetch-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# A library that is there already, but without its stamp, need not be fetched again.
if [ -f "$dir/libchdb.so" ] && [ "$(sha256sum <"$dir/libchdb.so" | cut -d' ' -f1)" = "$library_sha256" ]; then
	echo "$stamp $(stat -c %s "$dir/libchdb.so")" >"$tmp/stamp"
	mv "$tmp/stamp" "$dir/stamp"
	exit 0
fi

echo "fetching the embedded ClickHouse engine ($package $version, 170 MB)"
(cd "$tmp" && npm pack --silent "$package@$version" >/dev/null) || fail "npm could not fetch $package@$version"
set -- "$tmp"/*.tgz
[ -f "$1" ] || fail "npm left no package behind"
got=$(sha512sum <"$1" | cut -d' ' -f1)
[ "$got" = "$tarball_sha512" ] || fail "the package's sha512 is $got, expected $tarball_sha512: it is not what was pinned, nothing was installed"
tar -xzf "$1" -C "$tmp" package/libchdb.so || fail "the package holds no libchdb.so"
got=$(sha256sum <"$tmp/package/libchdb.so" | cut -d' ' -f1)
[ "$got" = "$library_sha256" ] || fail "libchdb.so has sha256 $got, expected $library_sha256"
chmod 0755 "$tmp/package/libchdb.so"
mv "$tmp/package/libchdb.so" "$dir/libchdb.so"
echo "$stamp $(stat -c %s "$dir/libchdb.so")" >"$tmp/stamp"
mv "$tmp/stamp" "$dir/stamp"
