"""Can `make gpu` run here? Exit status 1 and one line that says why not, before anything else is imported."""

import importlib.util
import sys

NEEDED = ("jax", "numpy", "pytest", "hypothesis", "scipy")
"""jax and numpy by the package itself, the others by its tests."""


def missing() -> str | None:
    """Why nothing can run here, or None."""
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return f"make gpu needs {', '.join(absent)} for {sys.executable}, installed or in GPU_PATH=.:FOLDER."
    import jax

    try:
        device = jax.devices()[0]
    except RuntimeError as error:
        return f"make gpu needs a GPU, and JAX finds no device: {str(error).splitlines()[0]}"
    if device.platform != "gpu":
        return f"make gpu needs a GPU: JAX's first device here is {device.device_kind!r} ({device.platform})."
    from sweeps import implementations

    if not implementations():
        return f"make gpu needs an NVIDIA GPU of compute capability 8.0 or newer, not {device.device_kind!r}."
    return None


def main() -> int:
    """Check."""
    if (reason := missing()) is not None:
        print(reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
