"""Run the command line: `python -m nearzero` does what `nearzero` does."""

from nearzero.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
