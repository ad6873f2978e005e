"""Run the command line: `python -m nearzero` does what `nearzero` does."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends in one line, too."""
    try:
        from nearzero.cli import main as run
    except KeyboardInterrupt:
        print("nearzero: interrupted before anything was done", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
