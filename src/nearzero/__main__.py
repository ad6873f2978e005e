"""`python -m nearzero` is `nearzero`."""

from nearzero.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
