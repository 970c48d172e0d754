"""A place that nothing can be written to, root or not."""

import shutil
import subprocess
from pathlib import Path


def run_read_only(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees `folder` as it is, on a read-only file system; every FOLDER in it stands for the folder.

    A mount of the command's own where that is allowed. A container in which it is not has /sys read-only, and FOLDER is
    a name there.
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
