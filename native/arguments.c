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
fl_parse_bound(const char *function, PyObject *arg, int64_t *bound)
{
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(arg, &overflow);

    if (number == -1 && PyErr_Occurred() != NULL) {
        return -1;
    }
    if (overflow != 0 || number < 1 || number > fl_max_bound) {
        PyErr_Format(PyExc_ValueError, "%s: bound must be from 1 to %lld, got %R", function,
                     (long long)fl_max_bound, arg);
        return -1;
    }
    *bound = (int64_t)number;
    return 0;
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

static int
check_pair(PyObject *mismatch, const struct fl_parameter *parameters,
           const struct fl_pair *pair)
{
    const uintptr_t target = (uintptr_t)pair->target.buf;
    const uintptr_t source = (uintptr_t)pair->source.buf;

    if (pair->target.shape[0] != pair->source.shape[0]) {
        PyErr_Format(mismatch, "%s: %s has %zd elements, %s has %zd", parameters[0].function,
                     parameters[0].name, pair->target.shape[0], parameters[1].name,
                     pair->source.shape[0]);
        return -1;
    }
    if (target < source + (size_t)pair->source.len &&
        source < target + (size_t)pair->target.len) {
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
