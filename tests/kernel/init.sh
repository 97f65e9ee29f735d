#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host /rw /new
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for parameter in $($b cat /proc/cmdline); do
    case $parameter in guest.lifetime_s=*) lifetime_s=${parameter#*=};; guest.path=*) path=${parameter#*=};; esac
done
# Whatever happens to the process that started QEMU, this guest ends. By then switch_root has removed every
# program here, so it takes what is open and built in; -no-reboot makes the restart an end.
($b sleep "$lifetime_s"; echo "guest: lifetime over"; echo b >&3) 3>/proc/sysrq-trigger &
for module in $($b cat /modules.order); do
    options=
    [ "$module" != bonding.ko ] || options=max_bonds=0
    $b insmod "/modules/$module" $options || echo "guest: insmod $module failed"
done
v9=trans=virtio,version=9p2000.L,msize=524288
$b mount -t 9p -o "ro,$v9,cache=loose" hostroot /host || echo "guest: no host root"
$b mount -t tmpfs -o size=60% tmpfs /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /new || echo "guest: no overlay"
for directory in proc sys dev run out; do $b mkdir -p "/new/$directory"; done
$b mount --move /proc /new/proc
$b mount --move /sys /new/sys
$b mount --move /dev /new/dev
$b mkdir -p /new/dev/shm
$b mount -t tmpfs tmpfs /new/dev/shm
$b mount -t tmpfs tmpfs /new/run
$b cp /unchanged/rdma_rxe.ko /new/run/rdma_rxe.ko
$b cp /modules/rdma_rxe.ko /new/run/rdma_rxe_with_v1.ko
$b mount -t 9p -o "rw,$v9,cache=none" out /new/out || echo "guest: no out"
export HOME=/root TERM=dumb LANG=C.UTF-8 PATH="$path"
# PID 1 itself changes root: the kernel's own modprobe calls would otherwise see the initramfs.
exec $b switch_root /new /bin/sh -c 'exec </dev/null; ip link set lo up; hostname guest
sh /out/job >/out/job.log 2>&1; echo $? >/out/job.rc; sync; exec busybox poweroff -f'
