/* Names, order and choice of the kernel sets: the only file that asks the processor. */

#include "fl_kernels.h"

#include <string.h>

const struct fl_kernel_set *const fl_kernel_sets[] = {
#ifdef FL_X86_64
    &fl_avx512,
    &fl_avx2,
#endif
    &fl_portable,
    NULL,
};

bool
fl_cpu_has_any(void)
{
    return true;
}

#ifdef FL_X86_64

/* __builtin_cpu_supports also checks that the system saves the registers (XGETBV). */

bool
fl_cpu_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

bool
fl_cpu_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

#endif

const struct fl_kernel_set *
fl_pick(const char *name)
{
    for (size_t i = 0; fl_kernel_sets[i] != NULL; i++) {
        const struct fl_kernel_set *set = fl_kernel_sets[i];
        if ((name == NULL || strcmp(name, set->name) == 0) && set->runs_here()) {
            return set;
        }
    }
    return NULL;
}
