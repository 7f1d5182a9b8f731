#!/usr/bin/env bash
# Installs and uninstalls what `make build` made. Called by `make install` and `make
# uninstall`; deploy/README.md says what goes where.
#
#   DESTDIR=      a scratch root in front of every path
#   PREFIX=       default /usr/local
#   SYSCONFDIR=   default /etc
#   BUILD=        where the binaries are, default bin
#   COMPONENTS=   default "agent collector detector nats cli"; a GPU host needs agent alone
#
# A list of what was installed, with digests, lies in PREFIX/lib/flopwatch/installed. A
# configuration file that differs from what was installed is somebody's work: install
# writes FILE.new beside it, uninstall leaves it.
set -euo pipefail
umask 022
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
SYSCONFDIR=${SYSCONFDIR:-/etc}
BUILD=${BUILD:-$here/../bin}
COMPONENTS=${COMPONENTS:-agent collector detector nats cli}
say() { printf '%s\n' "$*"; }
die() { printf 'flopwatch install: %s\n' "$*" >&2; exit 1; }
digest() { sha256sum < "$1" | cut -d' ' -f1; }

PREFIX=${PREFIX%/} SYSCONFDIR=${SYSCONFDIR%/}
for path in "$PREFIX" "$SYSCONFDIR"; do
	case $path in "" | /*) ;; *) die "$path: PREFIX and SYSCONFDIR are paths from the root on" ;; esac
	case $path in *[!A-Za-z0-9/_.+-]*) die "$path: letters, digits and / _ . + - alone: units name it" ;; esac
done

ROOM=$PREFIX/lib/flopwatch
LIST=$ROOM/installed
UNITS=$PREFIX/lib/systemd/system

# Relative to where the caller stands, as elsewhere.
if [ -n "$DESTDIR" ]; then
	mkdir -p "$DESTDIR"
	DESTDIR=$(cd "$DESTDIR" && pwd)
	[ "$DESTDIR" != / ] || DESTDIR=
fi
case $BUILD in /*) ;; *) BUILD=$PWD/$BUILD ;; esac
cd "$here"

# recorded TYPE PATH prints the digest that the list of the last install has.
recorded() {
	[ -f "$DESTDIR$LIST" ] || return 0
	awk -F '\t' -v type="$1" -v path="$2" '$1 == type && $3 == path { print $2 }' "$DESTDIR$LIST"
}

# live reports whether this is the machine's own root with systemd running on it.
live() { [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; }

# --- install ---

declare -a entries=()
note() { entries+=("$1"$'\t'"$2"$'\t'"$3"); } # TYPE DIGEST PATH

directory() { # directory PATH: made, and noted if it was not there, parents first
	local dir=$1
	[ -d "$DESTDIR$dir" ] && { [ -z "$(recorded d "$dir")" ] || note d - "$dir"; return 0; }
	[ "$dir" = / ] || directory "$(dirname "$dir")"
	mkdir -m 0755 "$DESTDIR$dir"
	note d - "$dir"
}

place() { # place MODE SOURCE PATH: in one step, also over a program that runs
	directory "$(dirname "$3")"
	install -m "$1" "$2" "$DESTDIR$3.installing"
	mv -f "$DESTDIR$3.installing" "$DESTDIR$3"
}

file() { # file MODE SOURCE PATH
	place "$1" "$2" "$3"
	note f "$(digest "$2")" "$3"
}

text() { # text MODE SOURCE PATH: with the paths of this installation put in
	sed -e '/^# Template: /d' -e "s|@bindir@|$PREFIX/bin|g; s|@sysconfdir@|$SYSCONFDIR|g; s|@room@|$ROOM|g" "$2" > "$scratch/text"
	file "$1" "$scratch/text" "$3"
}

program() { # program NAME: the file in a folder of its own, where they find each other
	file 0755 "$BUILD/$1" "$ROOM/$1"
}

command_link() { # command_link NAME
	directory "$PREFIX/bin"
	ln -sfn "../lib/flopwatch/$1" "$DESTDIR$PREFIX/bin/$1"
	note l "../lib/flopwatch/$1" "$PREFIX/bin/$1"
}

configuration() { # configuration SOURCE PATH
	local new old=
	new=$(digest "$1")
	[ ! -f "$DESTDIR$2" ] || old=$(digest "$DESTDIR$2")
	if [ -z "$old" ] || [ "$old" = "$(recorded c "$2")" ]; then
		[ "$old" = "$new" ] || place 0640 "$1" "$2"
		rm -f "$DESTDIR$2.new"
	elif [ "$old" != "$new" ]; then
		file 0640 "$1" "$2.new"
		say "kept     $2, which was edited; what is new is in $2.new"
	fi
	directory "$(dirname "$2")"
	note c "$new" "$2"
}

unit() { # unit NAME
	text 0644 "systemd/flopwatch-$1.service" "$UNITS/flopwatch-$1.service"
	text 0644 systemd/restart.conf "$UNITS/flopwatch-$1.service.d/restart.conf"
	text 0644 "systemd/sysusers.d/flopwatch-$1.conf" "$PREFIX/lib/sysusers.d/flopwatch-$1.conf"
	text 0644 "systemd/tmpfiles.d/flopwatch-$1.conf" "$PREFIX/lib/tmpfiles.d/flopwatch-$1.conf"
}

daemon() { # daemon NAME
	command_link "flopwatch-$1"
	unit "$1"
	configuration "config/flopwatch-$1.toml" "$SYSCONFDIR/flopwatch/flopwatch-$1.toml"
}

# Beside the programs, in force nowhere until somebody puts them to use.
agent_extras() {
	local script
	text 0644 systemd/kernel.conf "$ROOM/kernel.conf"
	text 0644 systemd/mig.conf "$ROOM/mig.conf"
	for script in slurm/*.sh; do
		[ ! -f "$script" ] || file 0755 "$script" "$ROOM/$script"
	done
}

install_all() {
	local c need=()
	for c in $COMPONENTS; do
		case $c in
		agent) need+=(flopwatch-agent flopwatch-nvml) ;;
		collector | detector) need+=("flopwatch-$c") ;;
		nats) need+=(flopwatch) ;;
		cli) need+=(flopwatch engine/libchdb.so) ;;
		*) die "component $c: there are agent, collector, detector, nats and cli" ;;
		esac
	done
	for c in "${need[@]}"; do
		[ -f "$BUILD/$c" ] || die "$BUILD/$c is not there: run make build first"
	done
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	directory "$ROOM"
	for c in "${need[@]}"; do program "$c"; done
	for c in $COMPONENTS; do
		case $c in
		cli) command_link flopwatch ;;
		nats) # its server and its users are flopwatch's; nats-user writes the configuration
			command_link flopwatch
			unit nats
			;;
		*) daemon "$c" ;;
		esac
	done
	case " $COMPONENTS " in *" agent "*) agent_extras ;; esac
	# What an earlier install put there and this one did not stays, and stays on the list.
	if [ -f "$DESTDIR$LIST" ]; then
		printf '%s\n' "${entries[@]}" | cut -f3 > "$scratch/now"
		while IFS= read -r line; do
			path=$(cut -f3 <<< "$line")
			grep -qxF -- "$path" "$scratch/now" && continue
			if [ -e "$DESTDIR$path" ] || [ -L "$DESTDIR$path" ]; then entries+=("$line"); fi
		done < "$DESTDIR$LIST"
	fi
	printf '%s\n' "${entries[@]}" | sort -u > "$scratch/list"
	install -m 0644 "$scratch/list" "$DESTDIR$LIST.installing"
	mv -f "$DESTDIR$LIST.installing" "$DESTDIR$LIST"
	say "installed $COMPONENTS under $DESTDIR$PREFIX, configuration in $DESTDIR$SYSCONFDIR/flopwatch"
	if live; then
		for c in $COMPONENTS; do
			[ "$c" = cli ] && continue
			systemd-sysusers "$PREFIX/lib/sysusers.d/flopwatch-$c.conf"
			systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/flopwatch-$c.conf"
		done
		systemctl daemon-reload
		say "nothing was started: edit the configuration, then systemctl enable --now flopwatch-..."
		say "what runs already goes on as it is until systemctl try-restart 'flopwatch-*'"
	fi
}

# --- uninstall ---

uninstall_all() {
	local type sum path kept=()
	[ -f "$DESTDIR$LIST" ] || die "$DESTDIR$LIST is not there: nothing is installed under this PREFIX and DESTDIR"
	if live; then
		while IFS=$'\t' read -r type sum path; do
			case $path in "$UNITS"/*.service) systemctl disable --now "$(basename "$path")" || kept+=("$(basename "$path"), which systemd could not stop") ;; esac
		done < "$LIST"
	fi
	while IFS=$'\t' read -r type sum path; do
		case $type in
		f) rm -f "$DESTDIR$path" ;;
		l) [ "$(readlink "$DESTDIR$path" || true)" != "$sum" ] || rm -f "$DESTDIR$path" ;;
		c)
			[ -f "$DESTDIR$path" ] || continue
			if [ "$(digest "$DESTDIR$path")" = "$sum" ]; then rm -f "$DESTDIR$path"; else kept+=("$path, which was edited"); fi
			;;
		esac
	done < "$DESTDIR$LIST"
	local dirs
	dirs=$(awk -F '\t' '$1 == "d" { print length($3) "\t" $3 }' "$DESTDIR$LIST" | sort -rn | cut -f2)
	rm -f "$DESTDIR$LIST"
	while IFS= read -r path; do
		# Only what install made, and only if nothing of others is in it.
		[ -z "$path" ] || [ ! -d "$DESTDIR$path" ] || rmdir "$DESTDIR$path" 2> /dev/null || kept+=("$path, which is not empty")
	done <<< "$dirs"
	if live; then systemctl daemon-reload; fi
	for path in /var/lib/flopwatch-agent /var/lib/flopwatch-detector /var/lib/nats/flopwatch; do
		[ ! -d "$DESTDIR$path" ] || kept+=("$path, the data")
	done
	path=$SYSCONFDIR/flopwatch/nats
	[ ! -d "$DESTDIR$path" ] || kept+=("$path, the users of the NATS server")
	for path in "${kept[@]+"${kept[@]}"}"; do say "kept     $path"; done
	if live; then say "kept     users and groups flopwatch-*, which own the data"; fi
	say "uninstalled from $DESTDIR$PREFIX"
}

case ${1:-} in
install) install_all ;;
uninstall) uninstall_all ;;
*) die "usage: install.sh install|uninstall" ;;
esac
