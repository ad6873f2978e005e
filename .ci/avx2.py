"""Print the settings by which Numba compiles as for a processor with AVX2 and without AVX-512: `make test-avx2`.

The name of such a processor, NUMBA_CPU_NAME=haswell, isn't enough: beside it Numba keeps the features of this one.
"""

from __future__ import annotations

import llvmlite.binding

LATER = ("avx512", "avx10", "amx", "evex", "avxvnni", "avxifma", "vaes", "vpclmulqdq", "gfni")


def main() -> None:
    """Print them, as `env` takes them."""
    known = llvmlite.binding.get_host_cpu_features()
    signs = [
        ("+" if has and not name.startswith(LATER) else "-") + name for name, has in sorted(known.items())
    ]
    print("NUMBA_CPU_NAME=haswell", f"NUMBA_CPU_FEATURES={','.join(signs)}")


if __name__ == "__main__":
    main()
