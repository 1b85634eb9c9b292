/* Arguments of the kernels: numbers in range, arrays that fit. */

#include "boundary.h"

#include <math.h>
#include <string.h>

struct element {
    const char *name;
    const char *formats; /* struct-module characters, any of them */
    Py_ssize_t itemsize;
};

static const struct element elements[] = {
    [FL_FLOAT32] = {"float32", "f", sizeof(float)},
    /* The itemsize decides whether long is meant. */
    [FL_INT64] = {"int64", "lq", sizeof(int64_t)},
    [FL_INT8] = {"int8", "b", sizeof(int8_t)},
    [FL_UINT8] = {"uint8", "B", sizeof(uint8_t)},
};

int
fl_check_count(const char *function, Py_ssize_t expected, Py_ssize_t count)
{
    if (count != expected) {
        PyErr_Format(PyExc_TypeError, "%s: expected %zd arguments, got %zd", function, expected,
                     count);
        return -1;
    }
    return 0;
}

int
fl_parse_positive(const char *function, const char *name, PyObject *arg, double *number)
{
    *number = PyFloat_AsDouble(arg);
    if (*number == -1.0 && PyErr_Occurred() != NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        *number = INFINITY; /* an integer that no double is near to */
    }
    if (!(*number > 0.0 && *number <= DBL_MAX)) {
        PyErr_Format(PyExc_ValueError, "%s: %s must be a finite number above 0, got %R",
                     function, name, arg);
        return -1;
    }
    return 0;
}

int
fl_parse_finite(const char *function, const char *name, PyObject *arg, double *number)
{
    *number = PyFloat_AsDouble(arg);
    if (*number == -1.0 && PyErr_Occurred() != NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        *number = INFINITY;
    }
    if (!(fabs(*number) <= DBL_MAX)) {
        PyErr_Format(PyExc_ValueError, "%s: %s must be a finite number, got %R", function, name,
                     arg);
        return -1;
    }
    return 0;
}

int
fl_parse_integer(const char *function, const char *name, PyObject *arg, const int64_t range[2],
                 int64_t *number)
{
    int overflow = 0;
    const long long parsed = PyLong_AsLongLongAndOverflow(arg, &overflow);

    if (parsed == -1 && PyErr_Occurred() != NULL) {
        return -1;
    }
    if (overflow != 0 || parsed < range[0] || parsed > range[1]) {
        PyErr_Format(PyExc_ValueError, "%s: %s must be from %lld to %lld, got %R", function,
                     name, (long long)range[0], (long long)range[1], arg);
        return -1;
    }
    *number = (int64_t)parsed;
    return 0;
}

int
fl_parse_bound(const char *function, PyObject *arg, int64_t *bound)
{
    const int64_t range[2] = {1, fl_max_bound};

    return fl_parse_integer(function, "bound", arg, range, bound);
}

/* Bytes are what an exporter without a format means. */
static const char *
format_of(const Py_buffer *view)
{
    return view->format != NULL ? view->format : "B";
}

/* Native order, however it is spelt: NumPy writes '=f' for an unaligned array of floats. */
static bool
has_elements(const Py_buffer *view, const struct element *element)
{
    const char *format = format_of(view);

    if (format[0] == '@' || format[0] == '=' || (PY_LITTLE_ENDIAN && format[0] == '<')) {
        format++;
    }
    return format[0] != '\0' && format[1] == '\0' &&
           strchr(element->formats, format[0]) != NULL && view->itemsize == element->itemsize;
}

/* Turns the exporter's refusal (read-only, strided) into a KernelMismatch that quotes it. */
static void
quote_refusal(PyObject *mismatch, const struct fl_parameter *parameter)
{
    const char *writable = (parameter->access & PyBUF_WRITABLE) != 0 ? ", writable" : "";
    PyObject *type = NULL;
    PyObject *reason = NULL;
    PyObject *traceback = NULL;

    PyErr_Fetch(&type, &reason, &traceback);
    PyErr_Format(mismatch, "%s: %s must be a C-contiguous%s array of %s: %S",
                 parameter->function, parameter->name, writable,
                 elements[parameter->element].name, reason != NULL ? reason : type);
    Py_XDECREF(type);
    Py_XDECREF(reason);
    Py_XDECREF(traceback);
}

int
fl_acquire_array(PyObject *mismatch, const struct fl_parameter *parameter, PyObject *arg,
                 Py_buffer *view)
{
    const struct element *element = &elements[parameter->element];

    if (PyObject_GetBuffer(arg, view, (int)parameter->access) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError) ||
            PyErr_ExceptionMatches(PyExc_ValueError)) {
            quote_refusal(mismatch, parameter);
        }
        return -1;
    }
    if (view->ndim != 1 || !has_elements(view, element)) {
        PyErr_Format(mismatch,
                     "%s: %s must be an array of %s with 1 dimension, "
                     "got format '%s', itemsize %zd, %d dimension(s)",
                     parameter->function, parameter->name, element->name, format_of(view),
                     view->itemsize, view->ndim);
        goto release;
    }
    return 0;

release:
    PyBuffer_Release(view);
    return -1;
}

static bool
overlap(const Py_buffer *one, const Py_buffer *other)
{
    const uintptr_t first = (uintptr_t)one->buf;
    const uintptr_t second = (uintptr_t)other->buf;

    return first < second + (size_t)other->len && second < first + (size_t)one->len;
}

static int
check_pair(PyObject *mismatch, const struct fl_parameter *parameters,
           const struct fl_pair *pair)
{
    if (pair->target.shape[0] != pair->source.shape[0]) {
        PyErr_Format(mismatch, "%s: %s has %zd elements, %s has %zd", parameters[0].function,
                     parameters[0].name, pair->target.shape[0], parameters[1].name,
                     pair->source.shape[0]);
        return -1;
    }
    if (overlap(&pair->target, &pair->source)) {
        PyErr_Format(mismatch, "%s: %s and %s overlap in memory", parameters[0].function,
                     parameters[0].name, parameters[1].name);
        return -1;
    }
    return 0;
}

int
fl_acquire_pair(PyObject *mismatch, const struct fl_parameter *parameters,
                PyObject *const *args, struct fl_pair *pair)
{
    if (fl_acquire_array(mismatch, &parameters[0], args[0], &pair->target) < 0) {
        return -1;
    }
    if (fl_acquire_array(mismatch, &parameters[1], args[1], &pair->source) < 0) {
        goto release_target;
    }
    if (check_pair(mismatch, parameters, pair) < 0) {
        goto release_source;
    }
    return 0;

release_source:
    PyBuffer_Release(&pair->source);
release_target:
    PyBuffer_Release(&pair->target);
    return -1;
}

void
fl_release_pair(struct fl_pair *pair)
{
    PyBuffer_Release(&pair->source);
    PyBuffer_Release(&pair->target);
}

/* How many of the first n bits are set; n + 1, which is never right, when a bit after them
 * is. */
static size_t
count_kept(const Py_buffer *kept, size_t n)
{
    const uint8_t *bytes = kept->buf;
    size_t count = 0;

    for (Py_ssize_t i = 0; i < kept->len; i++) {
        count += (size_t)__builtin_popcount(bytes[i]);
    }
    return n % 8 != 0 && bytes[n / 8] >> (n % 8) != 0 ? n + 1 : count;
}

static int
check_compressed(PyObject *mismatch, const struct fl_compressed *arrays)
{
    const Py_ssize_t n = arrays->acc.shape[0];
    const Py_buffer *sources[] = {&arrays->base, &arrays->kept, &arrays->quants};
    static const char *const names[] = {"base", "kept", "quants"};

    if (arrays->base.shape[0] != n) {
        PyErr_Format(mismatch, "fold_quantised: acc has %zd elements, base has %zd", n,
                     arrays->base.shape[0]);
        return -1;
    }
    if (arrays->kept.shape[0] != n / 8 + (n % 8 != 0)) {
        PyErr_Format(mismatch, "fold_quantised: acc has %zd elements, kept has %zd bytes", n,
                     arrays->kept.shape[0]);
        return -1;
    }
    if (count_kept(&arrays->kept, (size_t)n) != (size_t)arrays->quants.shape[0]) {
        PyErr_Format(mismatch,
                     "fold_quantised: quants has %zd elements, "
                     "which is not how many of the %zd elements are kept",
                     arrays->quants.shape[0], n);
        return -1;
    }
    for (size_t i = 0; i < 3; i++) {
        if (overlap(&arrays->acc, sources[i])) {
            PyErr_Format(mismatch, "fold_quantised: acc and %s overlap in memory", names[i]);
            return -1;
        }
    }
    return 0;
}

int
fl_acquire_compressed(PyObject *mismatch, PyObject *const *args, struct fl_compressed *arrays)
{
    static const struct fl_parameter parameters[] = {
        {"fold_quantised", "acc", FL_INT64, FL_WRITE},
        {"fold_quantised", "base", FL_FLOAT32, FL_READ},
        {"fold_quantised", "kept", FL_UINT8, FL_READ},
        {"fold_quantised", "quants", FL_INT8, FL_READ},
    };

    if (fl_acquire_array(mismatch, &parameters[0], args[0], &arrays->acc) < 0) {
        return -1;
    }
    if (fl_acquire_array(mismatch, &parameters[1], args[1], &arrays->base) < 0) {
        goto release_acc;
    }
    if (fl_acquire_array(mismatch, &parameters[2], args[2], &arrays->kept) < 0) {
        goto release_base;
    }
    if (fl_acquire_array(mismatch, &parameters[3], args[3], &arrays->quants) < 0) {
        goto release_kept;
    }
    if (check_compressed(mismatch, arrays) < 0) {
        goto release_quants;
    }
    return 0;

release_quants:
    PyBuffer_Release(&arrays->quants);
release_kept:
    PyBuffer_Release(&arrays->kept);
release_base:
    PyBuffer_Release(&arrays->base);
release_acc:
    PyBuffer_Release(&arrays->acc);
    return -1;
}

void
fl_release_compressed(struct fl_compressed *arrays)
{
    PyBuffer_Release(&arrays->quants);
    PyBuffer_Release(&arrays->kept);
    PyBuffer_Release(&arrays->base);
    PyBuffer_Release(&arrays->acc);
}
