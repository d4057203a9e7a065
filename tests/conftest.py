"Small matrices on few cores: one thread each, also where pytest is started by hand."
import os
os.environ.setdefault("OMP_NUM_THREADS", "1")
