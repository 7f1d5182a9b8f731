set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$2"
mkdir -p "$2/up" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$2/up,workdir=$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount --bind "$1" mnt
mkdir -p tmp oldroot
mount -t tmpfs tmpfs tmp
export container=flopwatch-test
# Not chroot: PrivateUsers= does not work in one.
pivot_root . oldroot
cd /
umount -l /oldroot
case ${3:-} in
user)
	# A manager of root's own, which needs no process namespace: it only asks whether systemd runs.
	mkdir -p run/systemd/system run/user/0
	# What a system's manager makes to cover closed paths with.
	for base in run run/user/0; do
		mkdir -p $base/systemd/inaccessible/dir
		: > $base/systemd/inaccessible/reg
		mknod $base/systemd/inaccessible/chr c 0 0
		chmod 000 $base/systemd/inaccessible/*
	done
	exec env XDG_RUNTIME_DIR=/run/user/0 XDG_CONFIG_HOME=/run/config /lib/systemd/systemd --user --unit=basic.target --log-target=console
	;;
esac
exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal
