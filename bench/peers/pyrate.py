"""Drives PyPI pyrate-limiter with its Postgres bucket: all calls for one key, without a pause.

How it is spoken to: see bench/src/peer.rs. The file's name is not the module's, or it would import
itself.
"""

import sys
import time

from psycopg_pool import ConnectionPool
from pyrate_limiter import Duration, Limiter, PostgresBucket, Rate

# Where the server is stands in PGHOST and the like. One process has one connection: of several
# threads only one would run at a time.
pool = ConnectionPool("", min_size=1, max_size=1, open=True)
# The bucket reads all its rows at each call, and forgets those that are older than the window: the
# shortest window is the fastest.
bucket = PostgresBucket(pool, "bench", [Rate(1_000_000_000, Duration.SECOND)])
limiter = Limiter(bucket)
print("ready", flush=True)

for line in sys.stdin:
    begun = time.monotonic()
    end = begun + float(line)
    admitted = 0
    while time.monotonic() < end:
        # False where another holds the table's lock: then the app has to ask again.
        if limiter.try_acquire("user", blocking=False):
            admitted += 1
    print(admitted, time.monotonic() - begun, flush=True)

limiter.close()
pool.close()
