"""Python at work: threads, processes, large objects, cycles, compression."""

import collections
import concurrent.futures
import gc
import hashlib
import json
import multiprocessing
import random
import zlib


def churn(seed):
    draw = random.Random(seed)
    kept = collections.deque(maxlen=500)
    total = 0
    for i in range(20000):
        kept.append(bytes(draw.randrange(1, 3000)) if i % 3 else {j: str(j) for j in range(i % 40)})
        total += len(kept[draw.randrange(len(kept))])
    return total


def cycles():
    for _ in range(20000):
        a, b = [], {}
        a.append(b)
        b["a"] = a
    return gc.collect() >= 0


def main():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        print(list(pool.map(churn, range(8))))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(churn, range(6)))
    print(cycles())
    big = bytearray()
    for i in range(300):
        big += bytes([i % 256]) * 100_000
    print(len(big), hashlib.sha256(big).hexdigest())
    packed = zlib.compress(big, 6)
    print(zlib.decompress(packed) == big)
    text = json.dumps([{"key": i, "text": "t" * (i % 100)} for i in range(20000)])
    print(len(text), sum(each["key"] for each in json.loads(text)))


if __name__ == "__main__":
    main()
