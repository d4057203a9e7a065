"Small matrices on few cores: one thread each, also where pytest is started by hand. The same examples in every run."
import os
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")

LONGEST = ["test_train_large", "test_model", "test_real", "test_share"] # files that take minutes each

def pytest_collection_modifyitems(items):
    "The longest files begin first: else one worker waits for them at the end."
    def turn(item): return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
    items.sort(key=turn)
