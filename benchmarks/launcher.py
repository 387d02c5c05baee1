"""Runs a command, then prints its wall seconds and its peak resident bytes on stderr.

python -I -S launcher.py PROGRAM ARGUMENT...
"""

import os
import sys
import time

started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - started
resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
sys.stderr.write(f"\n{seconds} {resident}\n")
sys.exit(os.waitstatus_to_exitcode(status) != 0)
