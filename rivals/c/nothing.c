/* An allocator of three instructions: malloc is two, free is one. What a program counts under it is its own. */
#include <stddef.h>

static _Alignas(64) char block[1 << 16];

void *malloc(size_t size) { return block; }
void free(void *address) {}
