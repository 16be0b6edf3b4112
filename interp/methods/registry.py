"""The methods known by name."""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import InterpError
from interp.methods.agla import AGLA
from interp.methods.cgr import CGR
from interp.methods.direct import BASE, INST
from interp.methods.method import Method
from interp.methods.sink_redistribution import SINK_REDISTRIBUTION
from interp.methods.var import VAR
from interp.methods.vea import VEA
from interp.methods.vea_ablations import ALL_LAYERS, NO_DENOISE, NO_PROMPT, NO_SMOOTHING
from interp.methods.vea_controls import BOXES, SHIFTED, UNIFORM
from interp.methods.vea_star import VEA_STAR
from interp.methods.vicrop import VICROP

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


_ABLATIONS = (NO_DENOISE, NO_SMOOTHING, ALL_LAYERS, NO_PROMPT)
_RIVALS = (CGR, VAR, SINK_REDISTRIBUTION, AGLA, VICROP)
for _method in (BASE, INST, VEA, SHIFTED, UNIFORM, BOXES, *_ABLATIONS, VEA_STAR, *_RIVALS):
    register(_method)
