/* Binary trees on a collected heap: `trees DEPTH THREADS`. A tree that stays, one larger that goes at once, and many small
   ones, shared out among the threads. */
#include <stdio.h>
#include <stdlib.h>
#define GC_THREADS
#include <gc/gc.h>
#include <pthread.h>

enum { SHALLOWEST = 4, MOST_THREADS = 64 };

struct node {
    struct node *left, *right;
};

static int depth;
static long threads;

static struct node *grow(int levels)
{
    struct node *node = GC_MALLOC(sizeof *node);
    if (levels > 0) {
        node->left = grow(levels - 1);
        node->right = grow(levels - 1);
    }
    return node;
}

static long count(const struct node *node)
{
    return node->left ? 1 + count(node->left) + count(node->right) : 1;
}

static void *work(void *nodes)
{
    for (int levels = SHALLOWEST; levels <= depth; levels += 2)
        for (long left = (1L << (depth - levels + SHALLOWEST)) / threads; left > 0; left--)
            *(long *)nodes += count(grow(levels));
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t workers[MOST_THREADS];
    long nodes[MOST_THREADS] = { 0 }, all = 0;
    if (argc != 3 || (depth = atoi(argv[1])) < SHALLOWEST || (threads = atol(argv[2])) < 1 || threads > MOST_THREADS) {
        fprintf(stderr, "usage: trees DEPTH THREADS (4 or more, 1 to 64)\n");
        return 2;
    }
    GC_INIT();
    printf("stretch %ld\n", count(grow(depth + 1)));
    struct node *stays = grow(depth);
    if (threads == 1)
        work(&nodes[0]);
    else {
        for (long at = 0; at < threads; at++)
            pthread_create(&workers[at], NULL, work, &nodes[at]);
        for (long at = 0; at < threads; at++)
            pthread_join(workers[at], NULL);
    }
    for (long at = 0; at < threads; at++)
        all += nodes[at];
    printf("short %ld, long %ld\n", all, count(stays));
    return 0;
}
