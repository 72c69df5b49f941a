"""Multi-key commands whose keys lie in several slots: taken apart, and their replies put together.

Keys of one slot stay together in one part, in the order they were given, so a key named twice is
written twice in that order. A part's error is the command's error.
"""

from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint16_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memchr, memset, strlen

from proxy.buffers cimport Buffer, Pool, append, resize
from proxy.model cimport AWAITED, REFUSED, SPLIT, Core, Request, Split
from proxy.requests cimport free_request_node, hold_reply
from proxy.resp cimport SCAN_DONE, ReplyScan, Span, read_number, scan_reply
from proxy.slots cimport SLOTS, key_slot
from proxy.stats cimport refuse

import logging

from proxy.fanout import PartReply
from proxy.reply import INTERNAL_ERROR

log = logging.getLogger("proxy.split")

cdef enum:
    KEPT_KEYS = 4096            # keys an idle scratch may have room for

cdef const char *BAD_PART = b"-ERR a server answered a part of this command with something unexpected\r\n"


cdef void scatter_open(Scatter *scatter) noexcept nogil:
    cdef int slot
    memset(scatter, 0, sizeof(Scatter))
    scatter.part_of_slot = <int *>resize(NULL, SLOTS * sizeof(int))
    for slot in range(SLOTS):
        scatter.part_of_slot[slot] = -1


cdef void scatter_close(Scatter *scatter) noexcept nogil:
    free(scatter.part_of_slot)
    _shrink(scatter)


cdef void _shrink(Scatter *scatter) noexcept nogil:
    free(scatter.next_key)
    free(scatter.first_key)
    free(scatter.last_key)
    free(scatter.parts_keys)
    free(scatter.slot)
    free(scatter.part_of_key)
    scatter.next_key = scatter.first_key = scatter.last_key = scatter.parts_keys = NULL
    scatter.slot = scatter.part_of_key = NULL
    scatter.capacity = 0


cdef void _grow(Scatter *scatter, int keys) noexcept nogil:
    if scatter.capacity > KEPT_KEYS:
        _shrink(scatter)
    if keys > scatter.capacity:
        scatter.next_key = <int *>resize(scatter.next_key, keys * sizeof(int))
        scatter.first_key = <int *>resize(scatter.first_key, keys * sizeof(int))
        scatter.last_key = <int *>resize(scatter.last_key, keys * sizeof(int))
        scatter.parts_keys = <int *>resize(scatter.parts_keys, keys * sizeof(int))
        scatter.slot = <uint16_t *>resize(scatter.slot, keys * sizeof(uint16_t))
        scatter.part_of_key = <uint16_t *>resize(scatter.part_of_key, keys * sizeof(uint16_t))
        scatter.capacity = keys


cdef int scatter_keys(
        Scatter *scatter, const char *data, const Span *args, int first, int count, int step) noexcept nogil:
    """Groups the keys at arguments first, first + step, … by slot; returns how many groups."""
    cdef int i, part, slot, parts = 0
    cdef const Span *key
    _grow(scatter, count)
    for i in range(count):
        key = &args[first + i * step]
        slot = key_slot(data + key.offset, key.size)
        part = scatter.part_of_slot[slot]
        if part < 0:
            part = parts
            parts += 1
            scatter.part_of_slot[slot] = part
            scatter.slot[part] = <uint16_t>slot
            scatter.first_key[part] = i
            scatter.parts_keys[part] = 1
        else:
            scatter.next_key[scatter.last_key[part]] = i
            scatter.parts_keys[part] += 1
        scatter.last_key[part] = i
        scatter.next_key[i] = -1
        scatter.part_of_key[i] = <uint16_t>part
    for i in range(parts):
        scatter.part_of_slot[scatter.slot[i]] = -1
    scatter.parts = parts
    return parts


cdef void write_part(
        Scatter *scatter, int part, Buffer *target, Pool *pool,
        const char *data, const Span *args, int first, int step) noexcept nogil:
    """Appends the command with only this part's keys (and what follows each, as in MSET)."""
    cdef char header[32]
    cdef int i = scatter.first_key[part]
    cdef size_t begin, end
    # "$4\r\nMGET\r\n" and each key stand in the request as they are wanted: they are copied whole.
    cdef size_t name = <size_t>(<const char *>memchr(data, c'\n', args[0].offset) + 1 - data)
    append(target, pool, header, snprintf(
        header, sizeof(header), b"*%d\r\n", 1 + scatter.parts_keys[part] * step))
    append(target, pool, data + name, args[0].offset + args[0].size + 2 - name)
    while i >= 0:
        begin = args[first + i * step - 1].offset + args[first + i * step - 1].size + 2
        end = args[first + i * step + step - 1].offset + args[first + i * step + step - 1].size + 2
        append(target, pool, data + begin, end - begin)
        i = scatter.next_key[i]


cdef Split *new_split(Request *whole) noexcept nogil:
    """Makes a request the whole of parts to come."""
    whole.state = SPLIT
    whole.split = <Split *>resize(NULL, sizeof(Split))
    memset(whole.split, 0, sizeof(Split))
    return whole.split


cdef void begin_split(Request *whole, int merge, Scatter *scatter, int keys) noexcept nogil:
    cdef Split *split = new_split(whole)
    cdef int i
    split.merge = merge
    split.keys = keys
    if merge == MERGE_ARRAY:
        split.order = <uint16_t *>resize(NULL, keys * sizeof(uint16_t))
        for i in range(keys):
            split.order[i] = scatter.part_of_key[i]


cdef void add_part(Request *whole, Request *part) noexcept nogil:
    cdef Split *split = whole.split
    part.whole = whole
    if split.last_part == NULL:
        split.parts = part
    else:
        split.last_part.next = part
    split.last_part = part
    split.count += 1
    split.pending += 1


cdef void drop_split(Request *whole) noexcept nogil:
    """Frees what holds the parts together."""
    if whole.split.combine != NULL:
        _forget_combine(whole.split)
    free(whole.split.order)
    free(whole.split)
    whole.split = NULL


cdef void _forget_combine(Split *split) noexcept with gil:
    Py_DECREF(<object>split.combine)


cdef void _free_parts(Core *core, Request *whole) noexcept nogil:
    cdef Request *part = whole.split.parts
    cdef Request *after
    while part != NULL:
        after = part.next
        free_request_node(core, part)
        part = after


cdef void merge_parts(Core *core, Request *whole) noexcept nogil:
    """Makes the command's reply of its parts' replies, all of which have come; frees the parts."""
    cdef Split *split = whole.split
    cdef Request *part = split.parts
    cdef bint good
    if split.combine != NULL:
        _combine(core, whole)
        _free_parts(core, whole)
        drop_split(whole)
        return
    while part != NULL and not part.flags & REFUSED:
        part = part.next
    if part != NULL:
        hold_reply(core, whole, part.reply, part.reply_size)
        refuse(whole, part.reply, part.reply_size)
    else:
        if split.merge == MERGE_ARRAY:
            good = _merge_arrays(core, whole)
        elif split.merge == MERGE_SUM:
            good = _merge_sums(core, whole)
        else:
            hold_reply(core, whole, split.parts.reply, split.parts.reply_size)
            good = True
        if not good:
            whole.reply_size = 0
            refuse(whole, BAD_PART, strlen(BAD_PART))
            hold_reply(core, whole, BAD_PART, strlen(BAD_PART))
    _free_parts(core, whole)
    drop_split(whole)


cdef void _combine(Core *core, Request *whole) noexcept with gil:
    """Has Python code make one reply of the parts', or say what else is to be asked: then it is AWAITED."""
    cdef Request *part = whole.split.parts
    replies = []
    try:
        while part != NULL:
            replies.append(PartReply(
                part.upstream.server.name.decode() if part.upstream != NULL else "",
                part.reply[:part.reply_size]))
            part = part.next
        reply = (<object>whole.split.combine)(replies)
    except ValueError as error:
        log.warning("merging replies: %s", error)
        reply = <bytes>BAD_PART
    except Exception:
        log.exception("merging replies")
        reply = INTERNAL_ERROR
    if not isinstance(reply, bytes):
        whole.state = AWAITED
        core.tokens += 1
        whole.position = core.tokens
        (<dict>core.awaited)[whole.position] = <size_t>whole
        (<list>core.further).append((whole.position, reply))
        core.goes_on = True
        return
    if reply[:1] == b"-":
        refuse(whole, reply, len(reply))
    hold_reply(core, whole, reply, len(reply))


cdef bint _merge_sums(Core *core, Request *whole) noexcept nogil:
    cdef Request *part = whole.split.parts
    cdef int64_t total = 0
    cdef bint valid = False
    cdef char text[32]
    while part != NULL:
        if part.reply_size < 4 or part.reply[0] != c':':
            return False
        total += read_number(part.reply + 1, part.reply_size - 3, &valid)
        if not valid:
            return False
        part = part.next
    hold_reply(core, whole, text, snprintf(text, sizeof(text), b":%lld\r\n", <long long>total))
    return True


cdef bint _merge_arrays(Core *core, Request *whole) noexcept nogil:
    """Takes the values from the parts' arrays in the order of the keys."""
    cdef Split *split = whole.split
    cdef Request *part
    cdef Request **parts = <Request **>resize(NULL, split.count * sizeof(Request *))
    cdef size_t *cursors = <size_t *>resize(NULL, split.count * sizeof(size_t))
    cdef ReplyScan scan
    cdef char text[32]
    cdef const char *end
    cdef size_t used = 0, i, n = 0
    cdef bint good = True
    part = split.parts
    while part != NULL:
        end = <const char *>memchr(part.reply, c'\n', part.reply_size)
        if end == NULL or part.reply[0] != c'*':
            good = False
        else:
            cursors[n] = end + 1 - part.reply
        parts[n] = part
        n += 1
        part = part.next
    if good:
        hold_reply(core, whole, text, snprintf(text, sizeof(text), b"*%u\r\n", split.keys))
        for i in range(split.keys):
            n = split.order[i]
            part = parts[n]
            memset(&scan, 0, sizeof(scan))
            if scan_reply(&scan, part.reply + cursors[n], part.reply_size - cursors[n], &used) != SCAN_DONE:
                good = False
                break
            hold_reply(core, whole, part.reply + cursors[n], used)
            cursors[n] += used
    free(parts)
    free(cursors)
    return good
