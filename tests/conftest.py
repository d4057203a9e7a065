"Small matrices on few cores: one thread each, also where pytest is started by hand. The same examples in every run."
import os
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")
