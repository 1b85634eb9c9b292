/* Checked access to a FlatBuffer that nobody vouches for.  No Python, no allocation.
 *
 * Every function checks before it reads.  Those that return bool return false when the
 * buffer is not what it should be; flaw says why and where, and the walk is over.  The checks
 * are those of the official verifier with alignment and without file identifier, and one
 * more: fl_flat_charge.  The plain Python in wire/flat_reference.py is the definition. */

#ifndef FL_FLAT_VERIFY_H
#define FL_FLAT_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every maximum, given by the caller: wire/limits.py has them with their reasons. */
struct fl_flat_limits {
    size_t least_bytes;
    size_t most_bytes;
    size_t most_depth;
    size_t most_tables;
};

/* `reason` is NULL while all is well. */
struct fl_flat_flaw {
    const char *reason;
    size_t position;
};

struct fl_flat_walk {
    const uint8_t *data;
    size_t size;
    const struct fl_flat_limits *limits;
    size_t allowance;
    size_t tables;
    size_t depth;
    struct fl_flat_flaw flaw;
};

struct fl_flat_table {
    size_t position;
    size_t vtable;
    size_t vtable_size;
};

/* The elements of a vector or the bytes of a string. */
struct fl_flat_span {
    size_t start;
    size_t count;
};

enum {
    FL_FLAT_ABSENT = 0, /* no field lies at position 0: the root offset does */
    FL_FLAT_OFFSET_BYTES = 4,
};

struct fl_flat_walk fl_flat_begin(const uint8_t *data, size_t size,
                                  const struct fl_flat_limits *limits);

/* Where the root table is. */
bool fl_flat_root(struct fl_flat_walk *walk, size_t *target);

/* Where the offset at `position` leads. */
bool fl_flat_follow(struct fl_flat_walk *walk, size_t position, size_t *target);

/* The table at `position`; whoever enters it leaves it, by fl_flat_leave. */
bool fl_flat_enter(struct fl_flat_walk *walk, size_t position, struct fl_flat_table *table);

void fl_flat_leave(struct fl_flat_walk *walk);

/* Where the field is whose inline part takes `bytes`, or FL_FLAT_ABSENT. */
bool fl_flat_locate(struct fl_flat_walk *walk, const struct fl_flat_table *table, size_t slot,
                    size_t bytes, size_t *position);

/* The vector at `position`, of elements of `element` bytes. */
bool fl_flat_vector(struct fl_flat_walk *walk, size_t position, size_t element,
                    struct fl_flat_span *span);

/* The string at `position`, and its terminator. */
bool fl_flat_string(struct fl_flat_walk *walk, size_t position, struct fl_flat_span *span);

/* Counts `bytes` that are copied out of the buffer.  Offsets let a small buffer refer to one
 * part a million times; an honest one says nothing twice, so it never copies out more than
 * its own size. */
bool fl_flat_charge(struct fl_flat_walk *walk, size_t bytes, size_t position);

/* The numbers at a checked position, little-endian and perhaps unaligned in memory. */
int32_t fl_flat_int32(const struct fl_flat_walk *walk, size_t position);

float fl_flat_float(const struct fl_flat_walk *walk, size_t position);

/* Where an offset that is an element of a checked vector leads: unchecked, as the official
 * verifier leaves it to the check of what is there. */
size_t fl_flat_element(const struct fl_flat_walk *walk, size_t position);

#endif
