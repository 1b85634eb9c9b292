/* KernelSet: the operations of one kernel set, as methods. */

#include "boundary.h"

struct set_object {
    PyObject ob_base; /* PyObject_HEAD, spelt so that clang-format can read it */
    const struct fl_kernel_set *set;
    PyObject *mismatch;
};

/* Without the lock a kernel still may use its buffers: holding them keeps them in place. */
static PyThreadState *
give_lock(const Py_buffer *view)
{
    return view->len < FL_GIL_RELEASE_BYTES ? NULL : PyEval_SaveThread();
}

static void
take_lock(PyThreadState *thread)
{
    if (thread != NULL) {
        PyEval_RestoreThread(thread);
    }
}

PyDoc_STRVAR(find_unfit_doc,
             "find_unfit(x, multiplier, bound, /)\n--\n\n"
             "The index of the first element of x, an array of float32, that is NaN,\n"
             "infinite or has |x * multiplier| > bound; -1 when all fit.");

static PyObject *
find_unfit(struct set_object *self, PyObject *const *args, Py_ssize_t count)
{
    static const struct fl_parameter parameter = {"find_unfit", "x", FL_FLOAT32, FL_READ};
    double multiplier = 0.0;
    int64_t bound = 0;
    float limit = 0.0F;
    Py_buffer x;
    size_t n = 0;
    size_t index = 0;
    PyThreadState *thread = NULL;

    if (fl_check_count("find_unfit", 3, count) < 0 ||
        fl_parse_positive("find_unfit", "multiplier", args[1], &multiplier) < 0 ||
        fl_parse_bound("find_unfit", args[2], &bound) < 0 ||
        fl_acquire_array(self->mismatch, &parameter, args[0], &x) < 0) {
        return NULL;
    }
    limit = fl_fit_limit(multiplier, bound);
    n = (size_t)x.shape[0];
    thread = give_lock(&x);
    index = self->set->find_unfit(x.buf, limit, n);
    take_lock(thread);
    PyBuffer_Release(&x);
    return PyLong_FromSsize_t(index < n ? (Py_ssize_t)index : -1);
}

PyDoc_STRVAR(fold_doc,
             "fold(acc, x, multiplier, /)\n--\n\n"
             "acc[i] += round_half_even(float64(x[i]) * multiplier), for acc of int64 and x\n"
             "of float32; x was checked by find_unfit.");

static PyObject *
fold(struct set_object *self, PyObject *const *args, Py_ssize_t count)
{
    static const struct fl_parameter parameters[] = {
        {"fold", "acc", FL_INT64, FL_WRITE},
        {"fold", "x", FL_FLOAT32, FL_READ},
    };
    double multiplier = 0.0;
    struct fl_pair pair;
    PyThreadState *thread = NULL;

    if (fl_check_count("fold", 3, count) < 0 ||
        fl_parse_positive("fold", "multiplier", args[2], &multiplier) < 0 ||
        fl_acquire_pair(self->mismatch, parameters, args, &pair) < 0) {
        return NULL;
    }
    thread = give_lock(&pair.target);
    self->set->fold(pair.target.buf, pair.source.buf, multiplier, (size_t)pair.target.shape[0]);
    take_lock(thread);
    fl_release_pair(&pair);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(merge_doc, "merge(acc, other, /)\n--\n\n"
                        "acc[i] += other[i], for two arrays of int64, modulo 2**64.");

static PyObject *
merge(struct set_object *self, PyObject *const *args, Py_ssize_t count)
{
    static const struct fl_parameter parameters[] = {
        {"merge", "acc", FL_INT64, FL_WRITE},
        {"merge", "other", FL_INT64, FL_READ},
    };
    struct fl_pair pair;
    PyThreadState *thread = NULL;

    if (fl_check_count("merge", 2, count) < 0 ||
        fl_acquire_pair(self->mismatch, parameters, args, &pair) < 0) {
        return NULL;
    }
    thread = give_lock(&pair.target);
    self->set->merge(pair.target.buf, pair.source.buf, (size_t)pair.target.shape[0]);
    take_lock(thread);
    fl_release_pair(&pair);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(finalise_doc,
             "finalise(out, acc, divisor, /)\n--\n\n"
             "out[i] = float32(float64(acc[i]) / divisor), for out of float32 and acc of\n"
             "int64.");

static PyObject *
finalise(struct set_object *self, PyObject *const *args, Py_ssize_t count)
{
    static const struct fl_parameter parameters[] = {
        {"finalise", "out", FL_FLOAT32, FL_WRITE},
        {"finalise", "acc", FL_INT64, FL_READ},
    };
    double divisor = 0.0;
    struct fl_pair pair;
    PyThreadState *thread = NULL;

    if (fl_check_count("finalise", 3, count) < 0 ||
        fl_parse_positive("finalise", "divisor", args[2], &divisor) < 0 ||
        fl_acquire_pair(self->mismatch, parameters, args, &pair) < 0) {
        return NULL;
    }
    thread = give_lock(&pair.source);
    self->set->finalise(pair.target.buf, pair.source.buf, divisor,
                        (size_t)pair.target.shape[0]);
    take_lock(thread);
    fl_release_pair(&pair);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(
    fold_quantised_doc,
    "fold_quantised(acc, base, kept, quants, numbers, /)\n--\n\n"
    "acc[i] += round_half_even(float64(x) * multiplier), where, in float32,\n"
    "x = base[i] * data_size, plus (q + 128) * scale + minimum where bit i of kept is\n"
    "set and q is the next of quants; numbers is (minimum, scale, data_size,\n"
    "multiplier).");

static int
parse_numbers(PyObject *arg, struct fl_quantised *update)
{
    double minimum = 0.0;
    double scale = 0.0;
    double data_size = 0.0;

    if (!PyTuple_CheckExact(arg) || PyTuple_GET_SIZE(arg) != 4) {
        PyErr_SetString(PyExc_TypeError, "fold_quantised: numbers must be a tuple of 4");
        return -1;
    }
    if (fl_parse_finite("fold_quantised", "minimum", PyTuple_GET_ITEM(arg, 0), &minimum) < 0 ||
        fl_parse_finite("fold_quantised", "scale", PyTuple_GET_ITEM(arg, 1), &scale) < 0 ||
        fl_parse_positive("fold_quantised", "data_size", PyTuple_GET_ITEM(arg, 2), &data_size) <
            0 ||
        fl_parse_positive("fold_quantised", "multiplier", PyTuple_GET_ITEM(arg, 3),
                          &update->multiplier) < 0) {
        return -1;
    }
    update->minimum = (float)minimum;
    update->scale = (float)scale;
    update->data_size = (float)data_size;
    return 0;
}

static PyObject *
fold_quantised(struct set_object *self, PyObject *const *args, Py_ssize_t count)
{
    struct fl_compressed arrays;
    struct fl_quantised update;
    PyThreadState *thread = NULL;

    if (fl_check_count("fold_quantised", 5, count) < 0 || parse_numbers(args[4], &update) < 0 ||
        fl_acquire_compressed(self->mismatch, args, &arrays) < 0) {
        return NULL;
    }
    update.base = arrays.base.buf;
    update.kept = arrays.kept.buf;
    update.quants = arrays.quants.buf;
    update.quant_count = (size_t)arrays.quants.shape[0];
    thread = give_lock(&arrays.acc);
    self->set->fold_quantised(arrays.acc.buf, &update, (size_t)arrays.acc.shape[0]);
    take_lock(thread);
    fl_release_compressed(&arrays);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(choose_kept_doc,
             "choose_kept(flags, seed, kept, /)\n--\n\n"
             "flags[i] = 1 for the elements that the published generator keeps with this\n"
             "seed, `kept` of them, and 0 for the others; flags is an array of uint8.");

static PyObject *
choose_kept(struct set_object *self, PyObject *const *args, Py_ssize_t count)
{
    static const struct fl_parameter parameter = {"choose_kept", "flags", FL_UINT8, FL_WRITE};
    static const int64_t seeds[2] = {INT32_MIN, INT32_MAX};
    int64_t counts[2] = {0, 0};
    int64_t seed = 0;
    int64_t kept = 0;
    Py_buffer flags;
    PyObject *result = NULL;
    PyThreadState *thread = NULL;

    if (fl_check_count("choose_kept", 3, count) < 0 ||
        fl_parse_integer("choose_kept", "seed", args[1], seeds, &seed) < 0 ||
        fl_acquire_array(self->mismatch, &parameter, args[0], &flags) < 0) {
        return NULL;
    }
    counts[1] = (int64_t)flags.shape[0];
    if (fl_parse_integer("choose_kept", "kept", args[2], counts, &kept) < 0) {
        goto release;
    }
    thread = give_lock(&flags);
    self->set->choose_kept(flags.buf, (int32_t)seed, (size_t)kept, (size_t)counts[1]);
    take_lock(thread);
    result = Py_NewRef(Py_None);
release:
    PyBuffer_Release(&flags);
    return result;
}

static PyObject *
get_name(struct set_object *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(self->set->name);
}

static PyObject *
get_block(struct set_object *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(self->set->block);
}

static int
traverse_set(struct set_object *self, visitproc visit, void *arg)
{
    Py_VISIT(self->mismatch);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
dealloc_set(struct set_object *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    Py_DECREF(self->mismatch);
    type->tp_free(self);
    Py_DECREF(type);
}

/* PyCFunction is the declared type of every method; the flags tell how it is called. */
#define METHOD(function) ((PyCFunction)(void (*)(void))(function))

PyMethodDef fl_kernel_set_methods[] = {
    {"find_unfit", METHOD(find_unfit), METH_FASTCALL, find_unfit_doc},
    {"fold", METHOD(fold), METH_FASTCALL, fold_doc},
    {"merge", METHOD(merge), METH_FASTCALL, merge_doc},
    {"finalise", METHOD(finalise), METH_FASTCALL, finalise_doc},
    {"fold_quantised", METHOD(fold_quantised), METH_FASTCALL, fold_quantised_doc},
    {"choose_kept", METHOD(choose_kept), METH_FASTCALL, choose_kept_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef set_attributes[] = {
    {"name", (getter)get_name, NULL, "The instruction set it is written for.", NULL},
    {"block", (getter)get_block, NULL, "Elements per step of its longest loop.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot set_slots[] = {
    {Py_tp_doc, "The operations, written for one instruction set."},
    {Py_tp_methods, fl_kernel_set_methods},
    {Py_tp_getset, set_attributes},
    {Py_tp_traverse, FL_SLOT(traverse_set)},
    {Py_tp_dealloc, FL_SLOT(dealloc_set)},
    {0, NULL},
};

PyType_Spec fl_kernel_set_spec = {
    .name = "fl_cluster._native.KernelSet",
    .basicsize = sizeof(struct set_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = set_slots,
};

PyObject *
fl_kernel_set_new(PyTypeObject *type, PyObject *mismatch, const struct fl_kernel_set *set)
{
    struct set_object *self = PyObject_GC_New(struct set_object, type);

    if (self != NULL) {
        self->set = set;
        self->mismatch = Py_NewRef(mismatch);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}
