"""Run the command line: `python -m nearzero` does what `nearzero` does.

`python -m` puts the working folder first on the path; it is taken off, so that a user's torch.py or json.py
isn't imported in the place of the one that is meant. Files that the user names still import their neighbours.
"""

import os
import sys

__all__: list[str] = []

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():
        del sys.path[0]
    from nearzero.cli import main

    main()
