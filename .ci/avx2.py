"""Print the settings with which Numba compiles for a processor with AVX2 and without AVX-512: `make test-avx2`.

The name of such a processor, NUMBA_CPU_NAME=haswell, isn't enough: Numba would keep the features of this
processor.
"""

from __future__ import annotations

import llvmlite.binding

LATER = ("avx512", "avx10", "amx", "evex", "avxvnni", "avxifma", "vaes", "vpclmulqdq", "gfni")


def main() -> None:
    """Print the settings in the form that `env` takes."""
    host = llvmlite.binding.get_host_cpu_features()
    features = [
        ("+" if present and not name.startswith(LATER) else "-") + name
        for name, present in sorted(host.items())
    ]
    print("NUMBA_CPU_NAME=haswell", f"NUMBA_CPU_FEATURES={','.join(features)}")


if __name__ == "__main__":
    main()
