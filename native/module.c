/* fl_cluster._native: chooses a kernel set and offers its operations.
 *
 * The choice is made once, when the module is executed; the module's operations are
 * the methods of the chosen KernelSet.  There are no globals: see module_state. */

#include "boundary.h"

#include <stdlib.h>

static const char kernel_variable[] = "FL_CLUSTER_KERNEL";

struct module_state {
    PyObject *mismatch; /* fl_cluster.errors.KernelMismatch */
    PyTypeObject *set_type;
    const struct fl_kernel_set *chosen;
};

static PyObject *
new_set(const struct module_state *state, const struct fl_kernel_set *set)
{
    return fl_kernel_set_new(state->set_type, state->mismatch, set);
}

PyDoc_STRVAR(available_doc, "available()\n--\n\n"
                            "The names of the kernel sets this machine can run, best first.");

static PyObject *
available(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    PyObject *names = PyList_New(0);
    PyObject *result = NULL;

    if (names == NULL) {
        goto done;
    }
    for (size_t i = 0; fl_kernel_sets[i] != NULL; i++) {
        if (fl_kernel_sets[i]->runs_here()) {
            PyObject *name = PyUnicode_FromString(fl_kernel_sets[i]->name);
            if (name == NULL || PyList_Append(names, name) < 0) {
                Py_XDECREF(name);
                goto release_names;
            }
            Py_DECREF(name);
        }
    }
    result = PyList_AsTuple(names);
release_names:
    Py_DECREF(names);
done:
    return result;
}

/* Raises exception: what was named, how, and what could have been. */
static void
refuse_name(PyObject *exception, const char *what, const char *name, const char *others)
{
    PyObject *names = available(NULL, NULL);

    if (names != NULL) {
        PyErr_Format(exception, "%s '%s' is not a kernel set that this machine can run: %R%s",
                     what, name, names, others);
        Py_DECREF(names);
    }
}

PyDoc_STRVAR(kernel_doc, "kernel()\n--\n\n"
                         "The name of the kernel set that was chosen.");

static PyObject *
kernel(PyObject *module, PyObject *Py_UNUSED(none))
{
    const struct module_state *state = PyModule_GetState(module);

    return PyUnicode_FromString(state->chosen->name);
}

PyDoc_STRVAR(kernel_set_doc, "kernel_set(name, /)\n--\n\n"
                             "The named kernel set; ValueError when it cannot run here.");

static PyObject *
kernel_set(PyObject *module, PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    const struct fl_kernel_set *set = NULL;

    if (name == NULL) {
        return NULL;
    }
    set = fl_pick(name);
    if (set == NULL) {
        refuse_name(PyExc_ValueError, "kernel_set:", name, "");
        return NULL;
    }
    return new_set(PyModule_GetState(module), set);
}

static PyMethodDef module_methods[] = {
    {"available", available, METH_NOARGS, available_doc},
    {"kernel", kernel, METH_NOARGS, kernel_doc},
    {"kernel_set", kernel_set, METH_O, kernel_set_doc},
    {NULL, NULL, 0, NULL},
};

static int
import_mismatch(struct module_state *state)
{
    PyObject *errors = PyImport_ImportModule("fl_cluster.errors");

    if (errors != NULL) {
        state->mismatch = PyObject_GetAttrString(errors, "KernelMismatch");
        Py_DECREF(errors);
    }
    return state->mismatch != NULL ? 0 : -1;
}

static int
choose_set(struct module_state *state)
{
    const char *name = getenv(kernel_variable);

    if (name != NULL && name[0] == '\0') {
        name = NULL; /* a variable set to nothing is how many tools write "unset" */
    }
    state->chosen = fl_pick(name);
    if (state->chosen == NULL) {
        /* Without this module there is one more, see kernels/native.py. */
        refuse_name(PyExc_ImportError, kernel_variable, name, ", or 'reference' for NumPy");
        return -1;
    }
    return 0;
}

/* The operations of the chosen set become the module's. */
static int
add_operations(PyObject *module, const struct module_state *state)
{
    PyObject *chosen = new_set(state, state->chosen);
    int status = -1;

    if (chosen == NULL) {
        goto done;
    }
    for (const PyMethodDef *method = fl_kernel_set_methods; method->ml_name != NULL; method++) {
        PyObject *operation = PyObject_GetAttrString(chosen, method->ml_name);
        if (PyModule_AddObjectRef(module, method->ml_name, operation) < 0) {
            Py_XDECREF(operation);
            goto release_chosen;
        }
        Py_DECREF(operation);
    }
    status = 0;
release_chosen:
    Py_DECREF(chosen);
done:
    return status;
}

static int
add_constants(PyObject *module)
{
    PyObject *bound = PyLong_FromLongLong((long long)fl_max_bound);
    const int status = PyModule_AddObjectRef(module, "MAX_BOUND", bound);

    Py_XDECREF(bound);
    return status < 0
               ? -1
               : PyModule_AddIntConstant(module, "GIL_RELEASE_BYTES", FL_GIL_RELEASE_BYTES);
}

static int
exec_module(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    if (import_mismatch(state) < 0 || choose_set(state) < 0) {
        return -1;
    }
    state->set_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &fl_kernel_set_spec, NULL);
    if (state->set_type == NULL || PyModule_AddType(module, state->set_type) < 0 ||
        add_operations(module, state) < 0) {
        return -1;
    }
    return add_constants(module);
}

static int
traverse_module(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);

    Py_VISIT(state->mismatch);
    Py_VISIT(state->set_type);
    return 0;
}

static int
clear_module(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    Py_CLEAR(state->mismatch);
    Py_CLEAR(state->set_type);
    return 0;
}

static void
free_module(void *module)
{
    (void)clear_module(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, FL_SLOT(exec_module)},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fl_cluster._native",
    .m_doc = "Exact integer aggregation of float32 arrays.",
    .m_size = sizeof(struct module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
    .m_free = free_module,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
