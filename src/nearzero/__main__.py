"""Run the command line: `python -m nearzero` does what `nearzero` does.

`python -m` puts the working folder first on the path; it is taken off, so that a user's torch.py or json.py
isn't imported in the place of the one that is meant. Files that the user names still import their neighbours.
What Python imports itself before that, to find this module, can still be taken from there: a user's types.py ends
`python -m nearzero` in an error of Python's. `nearzero` and `python -P -m nearzero` don't look there.
"""

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends in one line, too."""
    try:
        from nearzero.cli import main as run
    except KeyboardInterrupt:
        print("nearzero: interrupted before anything was done", file=sys.stderr)
        sys.exit(130)
    try:
        run()
    finally:
        gc.freeze()  # else the process would search PyTorch's objects for garbage at its end, for a second or more


if __name__ == "__main__":
    if not sys.flags.safe_path and __spec__ is not None:  # which it is for `python -m`
        del sys.path[0]
    main()
