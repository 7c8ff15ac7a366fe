/* Libraries that allocate while they are loaded and unloaded, again and again,
 * and from several threads.
 *
 * usage: dlopen PLUGIN DEEP */
#include "check.h"
#include <dlfcn.h>

static const char *plugin, *deep;

static void once(int i) {
    void *library = dlopen(plugin, i % 2 ? RTLD_NOW : RTLD_LAZY | RTLD_GLOBAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    void *(*make)(size_t) = (void *(*)(size_t))dlsym(library, "plugin_make");
    void (*plugin_free)(void *) = (void (*)(void *))dlsym(library, "plugin_free");
    int (*sum)(void) = (int (*)(void))dlsym(library, "plugin_sum");
    CHECK(make && plugin_free && sum);
    CHECK(dlsym(library, "no_such_name") == NULL && dlerror());
    CHECK(sum() == 404450);
    unsigned char *theirs = make(1000 + (size_t)i), *ours = malloc(2000);
    CHECK(theirs && ours && theirs[999] == 7);
    plugin_free(ours);
    CHECK(dlclose(library) == 0);
    free(theirs);
}

static void *often(void *argument) {
    for (int i = 0; i < 40; i++) once(i + (int)(uintptr_t)argument);
    return NULL;
}

static void deep_bound(void) {
    for (int i = 0; i < 50; i++) {
        void *library = dlopen(deep, RTLD_NOW | RTLD_DEEPBIND);
        CHECK(library);
        int (*churn)(int) = (int (*)(int))dlsym(library, "plugin_churn");
        CHECK(churn && churn(300) == 300);
        CHECK(dlclose(library) == 0);
    }
}

int main(int count, char **arguments) {
    CHECK(count == 3);
    plugin = arguments[1];
    deep = arguments[2];
    for (int i = 0; i < 200; i++) once(i);
    puts("200 times");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, often, (void *)(uintptr_t)i) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    puts("from four threads");
    deep_bound();
    puts("deeply bound");
    return 0;
}
