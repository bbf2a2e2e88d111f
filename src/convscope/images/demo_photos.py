"""The demonstration's photographs: those that scikit-image and scikit-learn install with themselves."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from convscope.errors import ConvscopeError

_SCIKIT_IMAGE, _SCIKIT_LEARN = "skimage", "sklearn"
# In the order of the film strip: first those that ImageNet has a class for.
_PHOTOS = (
    (_SCIKIT_IMAGE, "data/chelsea.png"),
    (_SCIKIT_IMAGE, "data/coffee.png"),
    (_SCIKIT_LEARN, "datasets/images/flower.jpg"),
    (_SCIKIT_LEARN, "datasets/images/china.jpg"),
    (_SCIKIT_IMAGE, "data/rocket.jpg"),
    (_SCIKIT_IMAGE, "data/motorcycle_left.png"),
    (_SCIKIT_IMAGE, "data/camera.png"),
    (_SCIKIT_IMAGE, "data/astronaut.png"),
    (_SCIKIT_IMAGE, "data/clock_motion.png"),
    (_SCIKIT_IMAGE, "data/coins.png"),
    (_SCIKIT_IMAGE, "data/retina.jpg"),
    (_SCIKIT_IMAGE, "data/hubble_deep_field.jpg"),
)


def demo_photos() -> list[Path]:
    """The photographs' files; neither package is imported, which would take longer than opening the network."""
    folders = {package: _folder(package) for package in (_SCIKIT_IMAGE, _SCIKIT_LEARN)}
    found = [folder / path for package, path in _PHOTOS if (folder := folders[package]) and (folder / path).is_file()]
    if not found:
        raise ConvscopeError(
            "the demonstration's photographs aren't installed",
            where="packages scikit-image and scikit-learn",
            next_step="run `pip install 'convscope[demo]'`, or give a folder of your own images",
        )
    return found


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
