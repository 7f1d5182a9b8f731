// Calls functions of a library by name, as a line on stdin says, and answers with a line:
// what it returned, and what it left in each buffer, in hexadecimal.
//   call NAME ARG...    ARG: iN a number, sTEXT a string, bN[:HEX] a buffer of N bytes with a beginning
//   threads N NAME ARG...  the same call from N threads at once; all use the same buffers
//   has NAME            1 or 0
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 8
typedef int (*any)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);

struct job {
    any f;
    uintptr_t *v;
    int code;
};

static void *run(void *arg) {
    struct job *j = arg;
    j->code = j->f(j->v[0], j->v[1], j->v[2], j->v[3], j->v[4], j->v[5], j->v[6], j->v[7]);
    return NULL;
}

int main(int argc, char **argv) {
    void *lib = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (lib == NULL) {
        fprintf(stderr, "load: %s\n", dlerror());
        return 2;
    }
    static char line[1 << 20];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        char *next = line, *word = strsep(&next, " ");
        int threads = strcmp(word, "threads") == 0 ? atoi(strsep(&next, " ")) : 1;
        char *name = strsep(&next, " ");
        void *f = name == NULL ? NULL : dlsym(lib, name);
        if (strcmp(word, "has") == 0) {
            printf("%d\n", f != NULL);
        } else if (f == NULL) {
            printf("missing\n");
        } else {
            uintptr_t v[MOST] = {0};
            unsigned char *buffer[MOST] = {0};
            size_t size[MOST] = {0};
            int n = 0;
            for (char *arg; n < MOST && (arg = strsep(&next, " ")) != NULL; n++) {
                if (arg[0] == 'i') v[n] = (uintptr_t)strtoull(arg + 1, NULL, 0);
                if (arg[0] == 's') v[n] = (uintptr_t)(arg + 1);
                if (arg[0] != 'b') continue;
                size[n] = strtoull(arg + 1, NULL, 10);
                buffer[n] = calloc(1, size[n] + 1);
                char *hex = strchr(arg, ':');
                for (size_t i = 0; hex != NULL && i < size[n] && sscanf(hex + 1 + 2 * i, "%2hhx", &buffer[n][i]) == 1; i++) {
                }
                v[n] = (uintptr_t)buffer[n];
            }
            struct job jobs[MOST] = {0};
            pthread_t id[MOST];
            for (int i = 0; i < threads && i < MOST; i++) {
                jobs[i] = (struct job){(any)(uintptr_t)f, v, 0};
                if (threads > 1 && pthread_create(&id[i], NULL, run, &jobs[i]) != 0) return 2;
            }
            if (threads == 1) run(&jobs[0]);
            for (int i = 0; threads > 1 && i < threads && i < MOST; i++) pthread_join(id[i], NULL);
            printf("%d", jobs[0].code);
            for (int i = 0; i < n; i++) {
                if (buffer[i] == NULL) continue;
                putchar(' ');
                for (size_t k = 0; k < size[i]; k++) printf("%02x", buffer[i][k]);
                free(buffer[i]);
            }
            putchar('\n');
        }
        fflush(stdout);
    }
    return 0;
}
