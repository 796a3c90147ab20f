# Becomes the first process of a Debian of its own: `boot.sh DEBIAN DIRECTORY CGROUP COMMAND...`, in new namespaces for
# mounts and processes, in the network namespace that it is to have. DEBIAN stays as it is: what is written goes into
# memory, and with the last process.
set -eu
debian=$1 directory=$2 cgroup=$3
shift 3
mount --make-rprivate /
mount -t tmpfs tmpfs "$directory"
cd "$directory"
mkdir upper work root cgroup
mount -t cgroup2 none cgroup
mkdir -p "cgroup/$cgroup"
echo 0 >"cgroup/$cgroup/cgroup.procs"
mount -t overlay -o "lowerdir=$debian,upperdir=upper,workdir=work" overlay root
cd root
mount -t proc proc proc
# Kernel parameters are the machine's, but for those of the network namespace.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind "/proc/sys/net" proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t bpf -o mode=0700 bpf sys/fs/bpf
mount -t tmpfs -o mode=0755 tmpfs dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 0666 "dev/${device%:*}" c 1 "${device#*:}"
done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
echo 0123456789abcdef0123456789abcdef >etc/machine-id
exec unshare --cgroup sh -euc '
    mount -t cgroup2 none sys/fs/cgroup
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=detector-test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
' boot "$@"
