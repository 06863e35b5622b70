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
    from kernel_comparison import implementations

    try:
        device = jax.devices()[0]
    except RuntimeError as error:
        return f"make gpu needs a GPU, and JAX finds no device: {str(error).splitlines()[0]}"
    if device.platform != "gpu":
        return f"make gpu needs a GPU: JAX's first device here is {device.device_kind!r} ({device.platform})."
    if not implementations():
        return f"make gpu needs an NVIDIA GPU of compute capability 9.0 or newer, not {device.device_kind!r}."
    return None


if __name__ == "__main__":
    sys.exit(missing())  # which prints a reason and fails
