/* The Python side of the kernels: what arguments.c, kernel_set.c and module.c share.
 *
 * Every operation has one form: check the numbers, acquire the arrays and check them
 * against each other, run the kernel, release.  Nothing is changed before everything is
 * checked.  An array that does not fit is a KernelMismatch (of fl_cluster.errors, passed
 * in by the module); what is no array or no number is a TypeError; a number out of range
 * is a ValueError.
 *
 * Functions that return int return 0, or -1 with an exception set. */

#ifndef FL_BOUNDARY_H
#define FL_BOUNDARY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fl_kernels.h"

enum {
    /* From here on a kernel takes longer than giving the interpreter lock away and getting
     * it back, so other threads may have it meanwhile. */
    FL_GIL_RELEASE_BYTES = 32 * 1024,
};

enum fl_access {
    FL_READ = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT,
    FL_WRITE = FL_READ | PyBUF_WRITABLE,
};

enum fl_element { FL_FLOAT32, FL_INT64, FL_INT8, FL_UINT8 };

/* What one array argument has to be. */
struct fl_parameter {
    const char *function;
    const char *name;
    enum fl_element element;
    enum fl_access access;
};

/* The arrays of an operation: equally long, and nowhere the same memory. */
struct fl_pair {
    Py_buffer target;
    Py_buffer source;
};

int fl_check_count(const char *function, Py_ssize_t expected, Py_ssize_t count);

/* A factor or a divisor: a finite number above zero. */
int fl_parse_positive(const char *function, const char *name, PyObject *arg, double *number);

/* Any finite number. */
int fl_parse_finite(const char *function, const char *name, PyObject *arg, double *number);

/* From low to high. */
int fl_parse_integer(const char *function, const char *name, PyObject *arg,
                     const int64_t range[2], int64_t *number);

/* From 1 to fl_max_bound. */
int fl_parse_bound(const char *function, PyObject *arg, int64_t *bound);

/* One array of one dimension; the caller releases it with PyBuffer_Release. */
int fl_acquire_array(PyObject *mismatch, const struct fl_parameter *parameter, PyObject *arg,
                     Py_buffer *view);

/* Two arrays, by two parameters and two arguments, the target first. */
int fl_acquire_pair(PyObject *mismatch, const struct fl_parameter *parameters,
                    PyObject *const *args, struct fl_pair *pair);

void fl_release_pair(struct fl_pair *pair);

/* The arrays of fold_quantised: a target and three sources that fit it. */
struct fl_compressed {
    Py_buffer acc;
    Py_buffer base;
    Py_buffer kept;
    Py_buffer quants;
};

int fl_acquire_compressed(PyObject *mismatch, PyObject *const *args,
                          struct fl_compressed *arrays);

void fl_release_compressed(struct fl_compressed *arrays);

/* fl_cluster._native.KernelSet, and the methods that are its operations. */
extern PyType_Spec fl_kernel_set_spec;
extern PyMethodDef fl_kernel_set_methods[];

PyObject *fl_kernel_set_new(PyTypeObject *type, PyObject *mismatch,
                            const struct fl_kernel_set *set);

/* A slot is a void pointer, which ISO C does not let a function be; POSIX does. */
#define FL_SLOT(function) (__extension__(void *)(function))

#endif
