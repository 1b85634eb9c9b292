#include "flat_verify.h"

#include <string.h>

static bool
fail(struct fl_flat_walk *walk, const char *reason, size_t position)
{
    walk->flaw.reason = reason;
    walk->flaw.position = position;
    return false;
}

static uint16_t
read_uint16(const struct fl_flat_walk *walk, size_t position)
{
    const uint8_t *byte = walk->data + position;

    return (uint16_t)(byte[0] | byte[1] << 8);
}

static uint32_t
read_uint32(const struct fl_flat_walk *walk, size_t position)
{
    const uint8_t *byte = walk->data + position;

    return (uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 |
           (uint32_t)byte[3] << 24;
}

/* A part may not be as large as the whole: the official verifier has it so. */
static bool
check(struct fl_flat_walk *walk, size_t position, size_t bytes, size_t alignment)
{
    if (position % alignment != 0) {
        return fail(walk,
                    alignment == 4 ? "not at a multiple of 4 bytes"
                                   : "not at a multiple of 2 bytes",
                    position);
    }
    if (bytes >= walk->size || position > walk->size - bytes) {
        return fail(walk, "reaches outside the body", position);
    }
    return true;
}

struct fl_flat_walk
fl_flat_begin(const uint8_t *data, size_t size, const struct fl_flat_limits *limits)
{
    const struct fl_flat_walk walk = {
        .data = data,
        .size = size,
        .limits = limits,
        .allowance = size,
    };

    return walk;
}

bool
fl_flat_charge(struct fl_flat_walk *walk, size_t bytes, size_t position)
{
    if (bytes > walk->allowance) {
        return fail(walk, "the body refers to the same parts again and again", position);
    }
    walk->allowance -= bytes;
    return true;
}

bool
fl_flat_root(struct fl_flat_walk *walk, size_t *target)
{
    if (walk->size > walk->limits->most_bytes) {
        return fail(walk, "larger than a FlatBuffer can be", 0);
    }
    if (walk->size < walk->limits->least_bytes) {
        return fail(walk, "too small to hold a table", 0);
    }
    return fl_flat_follow(walk, 0, target);
}

bool
fl_flat_follow(struct fl_flat_walk *walk, size_t position, size_t *target)
{
    uint32_t offset = 0;

    if (!check(walk, position, FL_FLAT_OFFSET_BYTES, FL_FLAT_OFFSET_BYTES)) {
        return false;
    }
    offset = read_uint32(walk, position);
    if (offset == 0) {
        return fail(walk, "an offset leads to itself", position);
    }
    if (offset > INT32_MAX) {
        return fail(walk, "an offset is negative", position);
    }
    *target = position + offset; /* both are below 2**31 */
    return check(walk, *target, 1, 1);
}

bool
fl_flat_enter(struct fl_flat_walk *walk, size_t position, struct fl_flat_table *table)
{
    int64_t vtable = 0;

    if (!check(walk, position, FL_FLAT_OFFSET_BYTES, FL_FLAT_OFFSET_BYTES)) {
        return false;
    }
    walk->depth++;
    walk->tables++;
    if (walk->depth > walk->limits->most_depth) {
        return fail(walk, "tables nest too deep", position);
    }
    if (walk->tables > walk->limits->most_tables) {
        return fail(walk, "too many tables", position);
    }
    if (!fl_flat_charge(walk, FL_FLAT_OFFSET_BYTES, position)) {
        return false;
    }
    vtable = (int64_t)position - fl_flat_int32(walk, position);
    if (vtable < 0) {
        return fail(walk, "reaches outside the body", position);
    }
    table->position = position;
    table->vtable = (size_t)vtable;
    if (!check(walk, table->vtable, sizeof(uint16_t), sizeof(uint16_t))) {
        return false;
    }
    table->vtable_size = read_uint16(walk, table->vtable);
    if (table->vtable_size % sizeof(uint16_t) != 0) {
        return fail(walk, "a vtable has an odd size", table->vtable);
    }
    return check(walk, table->vtable, table->vtable_size, sizeof(uint16_t));
}

void
fl_flat_leave(struct fl_flat_walk *walk)
{
    walk->depth--;
}

bool
fl_flat_locate(struct fl_flat_walk *walk, const struct fl_flat_table *table, size_t slot,
               size_t bytes, size_t *position)
{
    /* A vtable begins with its own size and the table's. */
    const size_t entry = (2 + slot) * sizeof(uint16_t);
    uint16_t offset = 0;

    *position = FL_FLAT_ABSENT;
    if (entry >= table->vtable_size) {
        return true;
    }
    offset = read_uint16(walk, table->vtable + entry);
    if (offset == 0) {
        return true;
    }
    *position = table->position + offset;
    return check(walk, *position, bytes, bytes);
}

bool
fl_flat_vector(struct fl_flat_walk *walk, size_t position, size_t element,
               struct fl_flat_span *span)
{
    if (!check(walk, position, FL_FLAT_OFFSET_BYTES, FL_FLAT_OFFSET_BYTES)) {
        return false;
    }
    span->start = position + FL_FLAT_OFFSET_BYTES;
    span->count = read_uint32(walk, position);
    if (span->count >= walk->limits->most_bytes / element) {
        return fail(walk, "a vector is too long", position);
    }
    return check(walk, position, FL_FLAT_OFFSET_BYTES + span->count * element,
                 FL_FLAT_OFFSET_BYTES);
}

bool
fl_flat_string(struct fl_flat_walk *walk, size_t position, struct fl_flat_span *span)
{
    size_t end = 0;

    if (!fl_flat_vector(walk, position, 1, span)) {
        return false;
    }
    end = span->start + span->count;
    if (!check(walk, end, 1, 1)) {
        return false;
    }
    if (walk->data[end] != 0) {
        return fail(walk, "a string does not end in a zero byte", end);
    }
    return true;
}

int32_t
fl_flat_int32(const struct fl_flat_walk *walk, size_t position)
{
    const uint32_t bits = read_uint32(walk, position);
    int32_t number = 0;

    memcpy(&number, &bits, sizeof number);
    return number;
}

float
fl_flat_float(const struct fl_flat_walk *walk, size_t position)
{
    const uint32_t bits = read_uint32(walk, position);
    float number = 0.0f;

    memcpy(&number, &bits, sizeof number);
    return number;
}

size_t
fl_flat_element(const struct fl_flat_walk *walk, size_t position)
{
    return position + read_uint32(walk, position);
}
