"""Run npm for nearzero, and clean up if nearzero is killed: `python npm_keeper.py FOLDER COMMAND...`.

This is a program of its own, which `nearzero.datasets.npm` starts. Its standard input is a pipe that ends when nearzero
does, however that happens; then npm and its children are ended, and the folder is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

__all__ = ["CANT_START", "main"]

CANT_START = 126
"""The exit code if npm can't be started; the reason is printed then."""


def main(folder: str, *command: str) -> int:
    """Run the command in the folder, and return its exit code; end it when standard input ends."""
    try:
        npm = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    except OSError as error:
        print(error.strerror or error)
        return CANT_START

    alone = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        alone.set()
        if hasattr(os, "killpg"):
            os.killpg(npm.pid, signal.SIGKILL)
        else:
            npm.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = npm.wait()
    if alone.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code % 256)  # without waiting for the thread
