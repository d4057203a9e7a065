"""Crystal structures from STEM images of two-dimensional materials.

The names below are here for convenience, and are imported when they are first used: `import microscopygpt` costs nothing.
"""
__version__ = "0.2.0"

_HOMES = {"predict": "solve", "read_micrograph": "micrograph", "Micrograph": "micrograph", "simulate": "stem",
          "render": "noise", "measure_lattice": "lattice", "monolayer": "crystal", "load_model": "model",
          "evaluate": "evaluation", "score": "evaluation", "Explorer": "explore"}
__all__ = ["__version__", *_HOMES]

def __getattr__(name):
    if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value

def __dir__(): return sorted(__all__)
