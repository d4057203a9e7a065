"What the documentation site needs of the library: signatures that can be read where they are written."
import importlib, inspect, pkgutil
import pytest
import microscopygpt

MODULES = [m.name for m in pkgutil.iter_modules(microscopygpt.__path__) if not m.name.startswith("_")]

@pytest.mark.parametrize("name", MODULES)
def test_annotations_name_what_the_module_knows(name):
    module = importlib.import_module(f"microscopygpt.{name}")
    public = [getattr(module, n) for n in getattr(module, "__all__", ())]
    methods = [f for c in public if inspect.isclass(c) for f in vars(c).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    for f in [f for f in public if inspect.isfunction(f)] + methods: inspect.signature(f, eval_str=True)
