"""Runner of commands that see a folder on a read-only file system, even if root runs them."""

import shutil
import subprocess
from pathlib import Path


def run_read_only(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `command` with `folder` mounted read-only. The word FOLDER in the command is replaced by the folder's path.

    The mount is private to the command. Some containers forbid mounts; they mount /sys read-only, so there FOLDER is
    replaced by a path under /sys, and the content of `folder` is not visible.
    """
    unshare = ["unshare", "--mount", "sh", "-ec"]
    mounted = 'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"'
    allowed = (
        shutil.which("unshare")
        and not subprocess.run([*unshare, mounted, folder, "true"], capture_output=True).returncode
    )
    place = str(folder) if allowed else "/sys/psychocounsel"
    given = [text.replace("FOLDER", place) for text in command]
    whole = [*unshare, mounted, place, *given] if allowed else given
    return subprocess.run(whole, env=environment, capture_output=True, text=True)
