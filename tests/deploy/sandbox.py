"""Where root's programs run: whatever they write to the machine, and whatever they start, is gone when they end.

systemd-nspawn, podman and mmdebstrap keep files in ``/run``, ``/var/lib`` and ``/dev/shm``, and netavark changes the
network. In a sandbox these are the sandbox's own. All processes in it die with its first, and that dies with the test
process, even if that is killed.
"""

from typing import Final

from tests.cache import CACHE

_PRIVATE: Final = """\
set -e
cache="$1"
shift
mount -t tmpfs tmpfs /dev/shm
mkdir /dev/shm/cache
mount --bind "$cache" /dev/shm/cache
for folder in run var/lib; do
    own="/dev/shm/$folder"
    mkdir -p "$own/upper" "$own/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$own/upper,workdir=$own/work" overlay "/$folder"
done
mount --bind /dev/shm/cache "$cache"
exec "$@"
"""
"""The cache is the machine's own in there too, wherever it is."""


def sandboxed(*command: str, network: bool = True) -> list[str]:
    """*command* in a sandbox, with the machine's *network* or none at all."""
    CACHE.mkdir(parents=True, exist_ok=True)
    spaces = ["--mount", "--mount-proc", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "sh", "-c", _PRIVATE, "sh", str(CACHE), *command]
