/* fl_cluster._wire: FlatBuffers bytes -> message, checked and read in one walk.
 *
 * A Decoder is made once from the schema of all messages and never changes.  A message is
 * built while its bytes are checked and thrown away when they turn out to be flawed.  Arrays
 * are slices of one NumPy view of the whole body, which costs a third of a view each.
 *
 * Functions that return an object return NULL when the walk found a flaw, with no exception
 * set, or when Python failed, with one; decode tells them apart at the end.
 *
 * One file, though a long one: the structs below are shared by everything here, and by
 * nothing else. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "flat_verify.h"

struct module_state {
    PyObject *fault;      /* fl_cluster.errors.PeerProtocolError */
    PyObject *frombuffer; /* numpy.frombuffer */
    PyObject *float32;    /* numpy.dtype("<f4") */
    PyObject *int8;       /* numpy.dtype("i1") */
    PyTypeObject *decoder_type;
};

struct walk;
struct field;

typedef PyObject *(*reader)(struct walk *, const struct field *, size_t position);

/* How a field of one kind is read; `name` is the value of the Kind in wire/schema.py. */
struct kind {
    const char *name;
    size_t bytes; /* of the inline part */
    reader read;
};

/* What borrows from the schema lives as long as the Decoder that holds it. */
struct field {
    PyObject *name;
    PyObject *absent;
    const struct kind *kind;
    Py_ssize_t slot; /* -1: not in FlatBuffers */
    const struct table *nested;
};

struct table {
    PyTypeObject *cls;
    Py_ssize_t count;
    struct field *fields;
};

struct decoder {
    PyObject ob_base; /* PyObject_HEAD, spelt so that clang-format can read it */
    PyObject *schema;
    struct fl_flat_limits limits;
    Py_ssize_t count;
    struct table *tables;
};

/* One call of decode. */
struct walk {
    struct fl_flat_walk flat;
    const struct module_state *state;
    PyObject *body;            /* or a read-only view of it */
    PyObject *floats;          /* the body as float32, made when first needed */
    PyObject *int8s;           /* the body as int8, likewise */
    const struct table *table; /* where the flaw was found, innermost */
    const struct field *field;
};

static PyObject *read_message(struct walk *walk, const struct table *table, size_t position);

/* Fields */

static PyObject *
read_bool(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    return PyBool_FromLong(walk->flat.data[position]);
}

static PyObject *
read_enum(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    const int byte = walk->flat.data[position];

    return PyLong_FromLong(byte < 128 ? byte : byte - 256);
}

static PyObject *
read_int(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    return PyLong_FromLong(fl_flat_int32(&walk->flat, position));
}

static PyObject *
read_float(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    return PyFloat_FromDouble((double)fl_flat_float(&walk->flat, position));
}

static PyObject *
read_string_at(struct walk *walk, const struct field *Py_UNUSED(field), size_t target)
{
    struct fl_flat_span span;

    if (!fl_flat_string(&walk->flat, target, &span) ||
        !fl_flat_charge(&walk->flat, FL_FLAT_OFFSET_BYTES + span.count, target)) {
        return NULL;
    }
    return PyUnicode_DecodeUTF8((const char *)walk->flat.data + span.start,
                                (Py_ssize_t)span.count, "surrogateescape");
}

static PyObject *
read_string(struct walk *walk, const struct field *field, size_t position)
{
    size_t target = 0;

    return fl_flat_follow(&walk->flat, position, &target) ? read_string_at(walk, field, target)
                                                          : NULL;
}

static PyObject *
read_table_at(struct walk *walk, const struct field *field, size_t target)
{
    return read_message(walk, field->nested, target);
}

static PyObject *
read_table(struct walk *walk, const struct field *field, size_t position)
{
    size_t target = 0;

    return fl_flat_follow(&walk->flat, position, &target) ? read_table_at(walk, field, target)
                                                          : NULL;
}

/* The vector that the field at `position` leads to; `copied` of each element's bytes are. */
static bool
open_vector(struct walk *walk, size_t position, size_t element, size_t copied,
            struct fl_flat_span *span)
{
    size_t target = 0;

    return fl_flat_follow(&walk->flat, position, &target) &&
           fl_flat_vector(&walk->flat, target, element, span) &&
           fl_flat_charge(&walk->flat, FL_FLAT_OFFSET_BYTES + span->count * copied, target);
}

static PyObject *
read_bytes(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    struct fl_flat_span span;

    if (!open_vector(walk, position, 1, 1, &span)) {
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)walk->flat.data + span.start,
                                     (Py_ssize_t)span.count);
}

/* A slice of the whole body as an array of `dtype`; *whole is that array, made here once. */
static PyObject *
slice_body(struct walk *walk, PyObject *dtype, size_t itemsize, PyObject **whole,
           const struct fl_flat_span *span)
{
    const Py_ssize_t start = (Py_ssize_t)(span->start / itemsize);

    if (*whole == NULL) {
        const Py_ssize_t count = (Py_ssize_t)(walk->flat.size / itemsize);
        PyObject *length = PyLong_FromSsize_t(count);
        if (length == NULL) {
            return NULL;
        }
        PyObject *arguments[] = {walk->body, dtype, length};
        *whole = PyObject_Vectorcall(walk->state->frombuffer, arguments, 3, NULL);
        Py_DECREF(length);
        if (*whole == NULL) {
            return NULL;
        }
    }
    return PySequence_GetSlice(*whole, start, start + (Py_ssize_t)span->count);
}

static PyObject *
read_floats(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    struct fl_flat_span span;

    return open_vector(walk, position, sizeof(float), 0, &span)
               ? slice_body(walk, walk->state->float32, sizeof(float), &walk->floats, &span)
               : NULL;
}

static PyObject *
read_int8s(struct walk *walk, const struct field *Py_UNUSED(field), size_t position)
{
    struct fl_flat_span span;

    return open_vector(walk, position, 1, 0, &span)
               ? slice_body(walk, walk->state->int8, 1, &walk->int8s, &span)
               : NULL;
}

/* A tuple of what `read` makes of each element; offsets are followed first. */
static PyObject *
read_each(struct walk *walk, const struct field *field, size_t position, size_t element,
          bool follow, reader read)
{
    struct fl_flat_span span;
    PyObject *items = NULL;

    if (!open_vector(walk, position, element, element, &span)) {
        return NULL;
    }
    items = PyTuple_New((Py_ssize_t)span.count);
    if (items == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < span.count; i++) {
        const size_t at = span.start + i * element;
        PyObject *item = read(walk, field, follow ? fl_flat_element(&walk->flat, at) : at);
        if (item == NULL) {
            Py_DECREF(items);
            return NULL;
        }
        PyTuple_SET_ITEM(items, (Py_ssize_t)i, item);
    }
    return items;
}

static PyObject *
read_ints(struct walk *walk, const struct field *field, size_t position)
{
    return read_each(walk, field, position, sizeof(int32_t), false, read_int);
}

static PyObject *
read_enums(struct walk *walk, const struct field *field, size_t position)
{
    return read_each(walk, field, position, 1, false, read_enum);
}

static PyObject *
read_strings(struct walk *walk, const struct field *field, size_t position)
{
    return read_each(walk, field, position, FL_FLAT_OFFSET_BYTES, true, read_string_at);
}

static PyObject *
read_tables(struct walk *walk, const struct field *field, size_t position)
{
    return read_each(walk, field, position, FL_FLAT_OFFSET_BYTES, true, read_table_at);
}

static const struct kind kinds[] = {
    {"bool", 1, read_bool},
    {"enum", 1, read_enum},
    {"int", sizeof(int32_t), read_int},
    {"float", sizeof(float), read_float},
    {"string", FL_FLAT_OFFSET_BYTES, read_string},
    {"table", FL_FLAT_OFFSET_BYTES, read_table},
    {"[float]", FL_FLAT_OFFSET_BYTES, read_floats},
    {"[int]", FL_FLAT_OFFSET_BYTES, read_ints},
    {"[ubyte]", FL_FLAT_OFFSET_BYTES, read_bytes},
    {"[byte]", FL_FLAT_OFFSET_BYTES, read_int8s},
    {"[enum]", FL_FLAT_OFFSET_BYTES, read_enums},
    {"[string]", FL_FLAT_OFFSET_BYTES, read_strings},
    {"[table]", FL_FLAT_OFFSET_BYTES, read_tables},
};

/* Messages */

static PyObject *
read_field(struct walk *walk, const struct field *field, const struct fl_flat_table *table)
{
    size_t position = FL_FLAT_ABSENT;

    if (field->slot < 0) {
        return Py_NewRef(field->absent);
    }
    if (!fl_flat_locate(&walk->flat, table, (size_t)field->slot, field->kind->bytes,
                        &position)) {
        return NULL;
    }
    return position == FL_FLAT_ABSENT ? Py_NewRef(field->absent)
                                      : field->kind->read(walk, field, position);
}

/* A NamedTuple is a tuple of another type: allocated and filled as tuple.__new__ does it. */
static PyObject *
read_message(struct walk *walk, const struct table *table, size_t position)
{
    struct fl_flat_table entered;
    PyObject *message = NULL;

    if (!fl_flat_enter(&walk->flat, position, &entered)) {
        return NULL;
    }
    message = table->cls->tp_alloc(table->cls, table->count);
    if (message == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < table->count; i++) {
        PyObject *value = read_field(walk, &table->fields[i], &entered);
        if (value == NULL) {
            if (walk->table == NULL) {
                walk->table = table;
                walk->field = &table->fields[i];
            }
            Py_DECREF(message);
            return NULL;
        }
        PyTuple_SET_ITEM(message, i, value);
    }
    fl_flat_leave(&walk->flat);
    return message;
}

static void
raise_flaw(const struct walk *walk, const struct table *root)
{
    const struct fl_flat_flaw *flaw = &walk->flat.flaw;

    if (walk->table == NULL) {
        PyErr_Format(walk->state->fault, "%s: %s, at byte %zu of %zu", root->cls->tp_name,
                     flaw->reason, flaw->position, walk->flat.size);
    } else {
        PyErr_Format(walk->state->fault, "%s.%U: %s, at byte %zu of %zu",
                     walk->table->cls->tp_name, walk->field->name, flaw->reason, flaw->position,
                     walk->flat.size);
    }
}

/* Decoder.decode */

/* What NumPy makes read-only arrays of: the body, or a view that hides that it is writable. */
static PyObject *
read_only(PyObject *body, const Py_buffer *view)
{
    PyObject *memory = NULL;
    PyObject *result = NULL;

    if (view->readonly != 0) {
        return Py_NewRef(body);
    }
    memory = PyMemoryView_FromObject(body);
    if (memory != NULL) {
        result = PyObject_CallMethod(memory, "toreadonly", NULL);
        Py_DECREF(memory);
    }
    return result;
}

static PyObject *
decode_view(struct decoder *self, const struct table *table, PyObject *body,
            const Py_buffer *view)
{
    struct walk walk = {
        .flat = fl_flat_begin(view->buf, (size_t)view->len, &self->limits),
        .state = PyType_GetModuleState(Py_TYPE(self)),
    };
    size_t root = 0;
    PyObject *message = NULL;

    walk.body = read_only(body, view);
    if (walk.body == NULL) {
        return NULL;
    }
    if (fl_flat_root(&walk.flat, &root)) {
        message = read_message(&walk, table, root);
    }
    if (message == NULL && walk.flat.flaw.reason != NULL) {
        raise_flaw(&walk, table);
    }
    Py_XDECREF(walk.int8s);
    Py_XDECREF(walk.floats);
    Py_DECREF(walk.body);
    return message;
}

/* Arrays of float32 need a body that begins at a multiple of 4; a copy always does. */
static PyObject *
decode_body(struct decoder *self, const struct table *table, PyObject *body)
{
    Py_buffer view;
    PyObject *copy = NULL;
    PyObject *message = NULL;

    if (PyObject_GetBuffer(body, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if ((uintptr_t)view.buf % sizeof(float) == 0) {
        message = decode_view(self, table, body, &view);
        goto release;
    }
    copy = PyBytes_FromStringAndSize(view.buf, view.len);
    if (copy != NULL) {
        message = decode_body(self, table, copy);
        Py_DECREF(copy);
    }
release:
    PyBuffer_Release(&view);
    return message;
}

static const struct table *
find_table(const struct decoder *self, const PyObject *cls)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if ((const PyObject *)self->tables[i].cls == cls) {
            return &self->tables[i];
        }
    }
    return NULL;
}

PyDoc_STRVAR(decode_doc, "decode(cls, body, /)\n--\n\n"
                         "The message of class cls at the start of body.");

static PyObject *
decode(struct decoder *self, PyObject *const *args, Py_ssize_t count)
{
    const struct table *table = NULL;

    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "decode: expected 2 arguments, got %zd", count);
        return NULL;
    }
    table = find_table(self, args[0]);
    if (table == NULL) {
        PyErr_Format(PyExc_TypeError, "decode: %R is not in the schema", args[0]);
        return NULL;
    }
    return decode_body(self, table, args[1]);
}

/* Making a Decoder */

static int
refuse_schema(const char *what, PyObject *found)
{
    PyErr_Format(PyExc_TypeError, "Decoder: expected %s, got %R", what, found);
    return -1;
}

static int
parse_kind(PyObject *arg, struct field *field)
{
    const char *name = PyUnicode_AsUTF8(arg);

    if (name == NULL) {
        return -1;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            field->kind = &kinds[i];
            return 0;
        }
    }
    return refuse_schema("a known kind", arg);
}

static int
parse_slot(PyObject *arg, struct field *field)
{
    enum { MOST_SLOTS = (UINT16_MAX - 4) / 2 }; /* a vtable's size is 16 bits */

    if (arg == Py_None) {
        field->slot = -1;
        return 0;
    }
    field->slot = PyLong_AsSsize_t(arg);
    if (field->slot == -1 && PyErr_Occurred() != NULL) {
        return -1;
    }
    if (field->slot < 0 || field->slot >= MOST_SLOTS) {
        return refuse_schema("a slot", arg);
    }
    return 0;
}

static int
parse_nested(const struct decoder *self, PyObject *arg, struct field *field)
{
    const bool is_table = field->kind->read == read_table || field->kind->read == read_tables;

    if (arg != Py_None) {
        field->nested = find_table(self, arg);
    }
    if (is_table != (field->nested != NULL)) {
        return refuse_schema("the class of a nested message where there is one", arg);
    }
    return 0;
}

/* A wire.schema.Field: name, kind, slot, default, table. */
static int
parse_field(const struct decoder *self, PyObject *arg, struct field *field)
{
    if (!PyTuple_Check(arg) || PyTuple_GET_SIZE(arg) != 5 ||
        !PyUnicode_Check(PyTuple_GET_ITEM(arg, 0))) {
        return refuse_schema("a Field", arg);
    }
    field->name = PyTuple_GET_ITEM(arg, 0);
    field->absent = PyTuple_GET_ITEM(arg, 3);
    if (parse_kind(PyTuple_GET_ITEM(arg, 1), field) < 0 ||
        parse_slot(PyTuple_GET_ITEM(arg, 2), field) < 0) {
        return -1;
    }
    return parse_nested(self, PyTuple_GET_ITEM(arg, 4), field);
}

static int
parse_fields(const struct decoder *self, PyObject *arg, struct table *table)
{
    table->count = PyTuple_GET_SIZE(arg);
    table->fields = PyMem_Calloc((size_t)table->count, sizeof *table->fields);
    if (table->fields == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < table->count; i++) {
        if (parse_field(self, PyTuple_GET_ITEM(arg, i), &table->fields[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Classes first, so that fields find the class of what is nested in them. */
static int
parse_schema(struct decoder *self)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyObject *entry = PyTuple_GET_ITEM(self->schema, i);
        if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 2 ||
            !PyType_Check(PyTuple_GET_ITEM(entry, 0)) ||
            !PyType_IsSubtype((PyTypeObject *)PyTuple_GET_ITEM(entry, 0), &PyTuple_Type) ||
            !PyTuple_Check(PyTuple_GET_ITEM(entry, 1))) {
            return refuse_schema("a subclass of tuple and its fields", entry);
        }
        self->tables[i].cls = (PyTypeObject *)PyTuple_GET_ITEM(entry, 0);
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyObject *entry = PyTuple_GET_ITEM(self->schema, i);
        if (parse_fields(self, PyTuple_GET_ITEM(entry, 1), &self->tables[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
parse_limits(struct fl_flat_limits *limits, const Py_ssize_t *given)
{
    if (given[0] < 4 || given[1] < given[0] || given[1] > INT32_MAX || given[2] < 1 ||
        given[3] < 1) {
        PyErr_SetString(PyExc_ValueError,
                        "Decoder: expected 4 <= least_bytes <= most_bytes < 2**31, "
                        "most_depth >= 1 and most_tables >= 1");
        return -1;
    }
    limits->least_bytes = (size_t)given[0];
    limits->most_bytes = (size_t)given[1];
    limits->most_depth = (size_t)given[2];
    limits->most_tables = (size_t)given[3];
    return 0;
}

PyDoc_STRVAR(decoder_doc,
             "Decoder(schema, least_bytes, most_bytes, most_depth, most_tables)\n--\n\n"
             "Decodes the messages of a schema: a tuple of pairs of class and Fields.");

static PyObject *
new_decoder(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"schema",     "least_bytes", "most_bytes",
                            "most_depth", "most_tables", NULL};
    PyObject *schema = NULL;
    Py_ssize_t given[4] = {0};
    struct decoder *self = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!nnnn", names, &PyTuple_Type, &schema,
                                     &given[0], &given[1], &given[2], &given[3])) {
        return NULL;
    }
    self = (struct decoder *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->schema = Py_NewRef(schema);
    self->tables = PyMem_Calloc((size_t)PyTuple_GET_SIZE(schema), sizeof *self->tables);
    if (self->tables == NULL) {
        PyErr_NoMemory();
        goto release_self;
    }
    self->count = PyTuple_GET_SIZE(schema);
    if (parse_limits(&self->limits, given) < 0 || parse_schema(self) < 0) {
        goto release_self;
    }
    return (PyObject *)self;

release_self:
    Py_DECREF(self);
    return NULL;
}

static int
traverse_decoder(struct decoder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->schema);
    return 0;
}

/* No tp_clear: a tuple cannot be made to point back here, so there is no cycle to break. */
static void
free_decoder(struct decoder *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyMem_Free(self->tables[i].fields);
    }
    PyMem_Free(self->tables);
    Py_XDECREF(self->schema);
    type->tp_free(self);
    Py_DECREF(type);
}

/* A slot is a void pointer, which ISO C does not let a function be; POSIX does. */
#define SLOT(function) (__extension__(void *)(function))

static PyMethodDef decoder_methods[] = {
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL, decode_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, (void *)decoder_doc},    {Py_tp_new, SLOT(new_decoder)},
    {Py_tp_dealloc, SLOT(free_decoder)}, {Py_tp_traverse, SLOT(traverse_decoder)},
    {Py_tp_methods, decoder_methods},    {0, NULL},
};

static PyType_Spec decoder_spec = {
    .name = "fl_cluster._wire.Decoder",
    .basicsize = sizeof(struct decoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = decoder_slots,
};

/* The module */

static int
import_fault(struct module_state *state)
{
    PyObject *errors = PyImport_ImportModule("fl_cluster.errors");

    if (errors != NULL) {
        state->fault = PyObject_GetAttrString(errors, "PeerProtocolError");
        Py_DECREF(errors);
    }
    return state->fault != NULL ? 0 : -1;
}

static int
import_numpy(struct module_state *state)
{
    PyObject *numpy = PyImport_ImportModule("numpy");

    if (numpy == NULL) {
        return -1;
    }
    state->frombuffer = PyObject_GetAttrString(numpy, "frombuffer");
    state->float32 = PyObject_CallMethod(numpy, "dtype", "s", "<f4");
    state->int8 = PyObject_CallMethod(numpy, "dtype", "s", "i1");
    Py_DECREF(numpy);
    return state->frombuffer != NULL && state->float32 != NULL && state->int8 != NULL ? 0 : -1;
}

static int
exec_module(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    if (import_fault(state) < 0 || import_numpy(state) < 0) {
        return -1;
    }
    state->decoder_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &decoder_spec, NULL);
    return state->decoder_type != NULL ? PyModule_AddType(module, state->decoder_type) : -1;
}

static int
traverse_module(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);

    Py_VISIT(state->fault);
    Py_VISIT(state->frombuffer);
    Py_VISIT(state->float32);
    Py_VISIT(state->int8);
    Py_VISIT(state->decoder_type);
    return 0;
}

static int
clear_module(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    Py_CLEAR(state->fault);
    Py_CLEAR(state->frombuffer);
    Py_CLEAR(state->float32);
    Py_CLEAR(state->int8);
    Py_CLEAR(state->decoder_type);
    return 0;
}

static void
free_module(void *module)
{
    (void)clear_module(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SLOT(exec_module)},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fl_cluster._wire",
    .m_doc = "FlatBuffers bytes to messages, checked and read in one walk.",
    .m_size = sizeof(struct module_state),
    .m_slots = module_slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
    .m_free = free_module,
};

PyMODINIT_FUNC
PyInit__wire(void)
{
    return PyModuleDef_Init(&module_def);
}
