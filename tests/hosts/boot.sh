#!/usr/bin/env bash
# Boot a pretend machine: give it a name and disks of its own, then become its sshd.
#
# Runs as process 1 of fresh mount, uts, ipc, pid and net namespaces. From the environment:
#   NAME        host name
#   DISK        directory that holds root/ and tmp/, the machine's own home and /tmp, and etc/
#   SHARED      directory that every machine sees as /mnt/shared, in place of NFS
#   REPOSITORY  the checkout, hidden from every machine that CHECKOUT does not show it to
#   CHECKOUT    "shown" on the laptop, else "hidden"
#   VENV        virtual environment; the machine may install into it, which nobody else sees
#   PYTHON      the installation that the virtual environment was made of
set -euo pipefail

hostname "$NAME"

# What the next step covers stays reachable under /mnt.
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/{disk,shared,repository,python,venv,changes/upper,changes/work}
mount --bind "$DISK" /mnt/disk
mount --bind "$SHARED" /mnt/shared
mount --bind "$REPOSITORY" /mnt/repository
mount --bind "$PYTHON" /mnt/python
mount -t overlay overlay /mnt/venv \
    -o "lowerdir=$VENV,upperdir=/mnt/changes/upper,workdir=/mnt/changes/work"

# The machine's own disks.
mount --bind /mnt/disk/root /root
mount --bind /mnt/disk/tmp /tmp
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
for file in hosts nsswitch.conf; do mount --bind "/mnt/disk/etc/$file" "/etc/$file"; done

mkdir -p "$REPOSITORY"
if [ "$CHECKOUT" = shown ]; then
    mount --bind /mnt/repository "$REPOSITORY"
else
    mount -t tmpfs tmpfs "$REPOSITORY"
fi
umount /mnt/repository

# The environment that stands for an installation, at the path its scripts were made for.
[ -x "$PYTHON/bin/python3" ] || { mkdir -p "$PYTHON"; mount --bind /mnt/python "$PYTHON"; }
mkdir -p "$VENV"
mount --bind /mnt/venv "$VENV"

mkdir -p /run/sshd
exec "$(command -v sshd)" -D -e -f /mnt/disk/etc/sshd_config
