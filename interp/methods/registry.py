"""The methods known by name."""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import InterpError
from interp.methods.direct import BASE, INST
from interp.methods.method import Method
from interp.methods.vea import VEA
from interp.methods.vea_controls import BOXES, SHIFTED, UNIFORM

_KNOWN: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Make a method known by its name.

    Raises
    ------
    InterpError
        The name is taken.
    """
    if method.name in _KNOWN:
        raise InterpError(f"Method {method.name!r} is already known; give yours another name.")
    _KNOWN[method.name] = method
    return method


def names() -> tuple[str, ...]:
    """The names of all known methods."""
    return tuple(_KNOWN)


def find(methods: Sequence[str | Method]) -> list[Method]:
    """The methods by their names; one that is given as an object is taken as it is.

    Raises
    ------
    InterpError
        None is given, a name is unknown, or one occurs twice.
    """
    if isinstance(methods, str):
        methods = [methods]
    found: list[Method] = []
    for method in methods:
        if isinstance(method, str):
            if method not in _KNOWN:
                raise InterpError(f"Method {method!r} is unknown; use some of {', '.join(_KNOWN)}.")
            method = _KNOWN[method]
        if method.name in {other.name for other in found}:
            raise InterpError(f"Method {method.name!r} is asked for twice; name each method once.")
        found.append(method)
    if not found:
        raise InterpError(f"No method is given; use some of {', '.join(_KNOWN)}.")
    return found


for _method in (BASE, INST, VEA, SHIFTED, UNIFORM, BOXES):
    register(_method)
