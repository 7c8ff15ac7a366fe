# Many small objects of different lifetimes: a graph, a cache with replacement, text and sorting.
import collections
import hashlib


class Node:
    def __init__(self, key, parent):
        self.key, self.parent, self.children = key, parent, []


def number(state=[1]):
    state[0] = state[0] * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
    return state[0] >> 33


nodes = [Node("root", None)]
for i in range(50_000):
    parent = nodes[number() % len(nodes)]
    node = Node(f"node-{i:06}", parent)
    parent.children.append(node)
    nodes.append(node)

cache = collections.OrderedDict()
for i in range(70_000):
    key = number() % 60_000
    cache[key] = (i, str(number()), [number()] * (i % 9))
    if len(cache) > 20_000:
        cache.popitem(last=False)

counts = collections.Counter()
for node in nodes:
    depth, up = 0, node
    while up.parent is not None:
        up, depth = up.parent, depth + 1
    counts[depth] += 1

words = sorted(f"{number() % 50_000:x}" * (number() % 4 + 1) for _ in range(70_000))
joined = " ".join(words).replace("1", "one").split("a")
digest = hashlib.sha1(repr((sorted(counts.items()), len(joined), joined[:99], list(cache.items())[:99])).encode())
print(len(nodes), len(cache), digest.hexdigest())
