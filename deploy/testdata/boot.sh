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
exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal
