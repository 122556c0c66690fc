"""Where a path leads, what kind of file that is, and to whom files next to it belong."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


_KERNEL_FILES: Final = frozenset(
    (
        *("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "pstore", "efivarfs"),
        *("bpf", "devpts", "mqueue", "nsfs", "selinuxfs", "binfmt_misc", "fusectl", "rpc_pipefs"),
    )
)
"""File systems whose files are a way to talk to the kernel, although many call themselves regular."""


class Inode(NamedTuple):
    """What identifies a file under any of its paths: its device and its number there."""

    device: int
    number: int


def real_path(path: Path) -> Path:
    """*path* without symbolic links; SQLite puts its other files next to that one."""
    return Path(os.path.realpath(path))


def kind_of(path: Path) -> str:
    """What *path* leads to if that is no regular file, such as ``a FIFO``; else, and if nothing is there, empty.

    Nothing is opened: opening a device may already have an effect, and opening a FIFO waits.

    Raises:
        OSError: it cannot be found out.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return _kernel_file(_device_of_folder(path))
    if stat.S_ISREG(found.st_mode):
        if inode_at(real_path(path)) != inode_of(found):
            return "a deleted file that is still open"  # as /proc/self/fd/3, of which the name alone is left
        return _kernel_file(found.st_dev)
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a special file")


def _device_of_folder(path: Path) -> int | None:
    """The device that *path*, which does not exist, would be created on; None if that cannot be found out."""
    for folder in real_path(path).parents:
        with suppress(FileNotFoundError):
            return folder.stat().st_dev
    return None


def _kernel_file(device: int | None) -> str:
    """What a file on this *device* is if the kernel makes its text up, such as ``a file of the kernel (proc)``."""
    if device is None:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux, or no /proc
        return ""
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind = after.partition(" ")[0]
        if before.split(" ")[2:3] == [number] and kind in _KERNEL_FILES:
            return f"a file of the kernel ({kind})"
    return ""


def inode_at(path: Path) -> Inode | None:
    """The file at *path*; None if there is none, or it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return inode_of(found)


def holds_something(path: Path) -> bool:
    """Whether there is a file at *path* that can be seen and is not empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def is_gone(path: Path, inode: Inode) -> bool:
    """Whether there is no file at *path*, or another one than *inode*; false if its folder cannot be read."""
    try:
        return inode_of(path.stat()) != inode
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def inode_of(found: os.stat_result) -> Inode:
    """The file that *found* describes."""
    return Inode(found.st_dev, found.st_ino)


def give_to_owner(descriptor: int, file: Path) -> None:
    """If this process is root, give an open file to the owner of *file*, or of its folder if root owns *file* too.

    A command that root runs would otherwise leave files behind that the daemon may not open.
    """
    if os.geteuid() != 0:
        return
    for each in (file, file.parent):
        try:
            owner = each.stat()
        except OSError:
            continue
        if owner.st_uid != 0:
            with suppress(OSError):  # a container's root may lack the capability
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            return
