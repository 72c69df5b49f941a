"""The Redis serialization protocol, scanned where it lies: no byte is copied, no object made.

Both scanners can stop after any byte and go on later, so it never matters how the network cut the
stream up. Source: the Redis serialization protocol specification (RESP2 and RESP3); limits and
error texts of requests: redis-server 7.0, networking.c.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_Size
from libc.stdint cimport INT32_MAX, INT64_MAX, int64_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memchr

from proxy.buffers cimport resize

cdef enum:
    FIRST_ARGS = 16             # room for the arguments of nearly every command
    NUMBER_LENGTH = 21          # the longest 64-bit number and its sign
    KEPT_ARGS = 1024            # room a scan keeps for the next request

REQUEST_FAULTS = {
    FAULT_MULTIBULK_LENGTH: b"invalid multibulk length",
    FAULT_MULTIBULK_COUNT_TOO_BIG: b"too big mbulk count string",
    FAULT_NOT_BULK: b"expected '$', got '%c'",
    FAULT_BULK_LENGTH: b"invalid bulk length",
    FAULT_BULK_COUNT_TOO_BIG: b"too big bulk count string",
    FAULT_INLINE_TOO_BIG: b"too big inline request",
    FAULT_QUERY_TOO_BIG: b"too big request",
    FAULT_NO_CRLF: b"expected CRLF after bulk string",
}


cdef int64_t read_number(const char *data, size_t size, bint *valid) noexcept nogil:
    """A decimal 64-bit number as Redis writes it: no plus sign, no leading zero, no spaces."""
    cdef int64_t value = 0
    cdef size_t i = 0
    cdef bint negative = False
    cdef int digit
    valid[0] = False
    if size == 0 or size > NUMBER_LENGTH - 1:
        return 0
    if data[0] == c'-':
        negative = True
        i = 1
        if size == 1 or data[1] == c'0':
            return 0
    elif data[0] == c'0' and size > 1:
        return 0
    while i < size:
        digit = data[i] - c'0'
        if digit < 0 or digit > 9:
            return 0
        if value > (INT64_MAX - digit) // 10:
            return 0
        value = value * 10 + digit
        i += 1
    valid[0] = True
    return -value if negative else value


cdef void reset_request(RequestScan *scan) noexcept nogil:
    """Makes ready for the next request; a table of arguments that grew large is given back."""
    scan.count = 0
    scan.done = 0
    scan.position = 0
    scan.needed = 0
    if scan.capacity > KEPT_ARGS:
        free_request(scan)


cdef void free_request(RequestScan *scan) noexcept nogil:
    free(scan.args)
    scan.args = NULL
    scan.capacity = 0


cdef inline ScanStatus _fail(RequestScan *scan, RequestFault fault) noexcept nogil:
    scan.fault = fault
    return SCAN_ERROR


cdef void _room_for_argument(RequestScan *scan) noexcept nogil:
    """The table grows as arguments come, never by what the header promises."""
    scan.capacity = scan.capacity * 2 if scan.capacity else FIRST_ARGS
    scan.args = <Span *>resize(scan.args, scan.capacity * sizeof(Span))


cdef ScanStatus scan_request(
        RequestScan *scan, const char *data, size_t size, const RequestLimits *limits) noexcept nogil:
    """Scans a client's request that begins at ``data``; goes on where the last call stopped."""
    cdef const char *end
    cdef const char *line
    cdef size_t left, length
    cdef int64_t number
    cdef bint valid = False
    if scan.count == 0:
        if size == 0:
            return SCAN_MORE
        if data[0] != c'*':
            return _scan_inline(scan, data, size, limits)
        end = <const char *>memchr(data + 1, c'\r', size - 1)
        if end == NULL:
            if size > limits.inline_length:
                return _fail(scan, FAULT_MULTIBULK_COUNT_TOO_BIG)
            return SCAN_MORE
        if end - data > limits.inline_length:
            return _fail(scan, FAULT_MULTIBULK_COUNT_TOO_BIG)
        if end + 1 == data + size:
            return SCAN_MORE
        number = read_number(data + 1, end - data - 1, &valid)
        if not valid or number > limits.arguments or end[1] != c'\n':
            return _fail(scan, FAULT_MULTIBULK_LENGTH)
        scan.position = <uint32_t>(end + 2 - data)
        if number <= 0:
            return SCAN_EMPTY
        scan.count = <int>number
        scan.done = 0
    while scan.done < scan.count:
        line = data + scan.position
        left = size - scan.position
        if left == 0:
            return SCAN_MORE
        if line[0] != c'$':
            scan.offender = line[0]
            return _fail(scan, FAULT_NOT_BULK)
        end = <const char *>memchr(line + 1, c'\r', left - 1)
        if end == NULL:
            if left > limits.inline_length:
                return _fail(scan, FAULT_BULK_COUNT_TOO_BIG)
            return SCAN_MORE
        if end - line > limits.inline_length:
            return _fail(scan, FAULT_BULK_COUNT_TOO_BIG)
        if end + 1 == data + size:
            return SCAN_MORE
        number = read_number(line + 1, end - line - 1, &valid)
        if not valid or number < 0 or number > limits.bulk_length or end[1] != c'\n':
            return _fail(scan, FAULT_BULK_LENGTH)
        length = <size_t>number
        if <size_t>(end + 2 - data) + length + 2 > limits.query_length:
            return _fail(scan, FAULT_QUERY_TOO_BIG)
        if <size_t>(data + size - end) < length + 4:
            scan.needed = <uint32_t>(length + 4 - (data + size - end))
            return SCAN_MORE
        line = end + 2
        if line[length] != c'\r' or line[length + 1] != c'\n':
            return _fail(scan, FAULT_NO_CRLF)
        if <uint32_t>scan.done == scan.capacity:
            _room_for_argument(scan)
        scan.args[scan.done].offset = <uint32_t>(line - data)
        scan.args[scan.done].size = <uint32_t>length
        scan.done += 1
        scan.position = <uint32_t>(line + length + 2 - data)
    scan.needed = 0
    return SCAN_DONE


cdef ScanStatus _scan_inline(
        RequestScan *scan, const char *data, size_t size, const RequestLimits *limits) noexcept nogil:
    cdef const char *end = <const char *>memchr(data + scan.position, c'\n', size - scan.position)
    if end == NULL:
        if size > limits.inline_length:
            return _fail(scan, FAULT_INLINE_TOO_BIG)
        scan.position = <uint32_t>size
        return SCAN_MORE
    if <size_t>(end - data) > limits.inline_length:
        return _fail(scan, FAULT_INLINE_TOO_BIG)
    scan.position = <uint32_t>(end + 1 - data)
    if end == data or (end == data + 1 and data[0] == c'\r'):
        return SCAN_EMPTY
    return SCAN_INLINE


cdef ScanStatus scan_reply(
        ReplyScan *scan, const char *data, size_t size, size_t *used) noexcept nogil:
    """Scans a server's reply as far as it has come; ``used`` bytes of it need not be seen again.

    At SCAN_DONE they end with the reply's last byte. A counter of values still to come replaces a
    stack, so nesting may be of any depth.
    """
    cdef const char *at = data
    cdef const char *stop = data + size
    cdef const char *end
    cdef int64_t number
    cdef bint valid = False
    cdef char kind
    used[0] = 0
    if scan.elements == 0:
        scan.elements = 1
    while scan.elements > 0:
        if scan.bulk > 0:
            if stop - at < scan.bulk:
                # The closing CRLF is only taken whole, so that it can be checked.
                number = stop - at if stop - at < scan.bulk - 2 else scan.bulk - 2
                scan.bulk -= number
                used[0] = (at - data) + number
                return SCAN_MORE
            at += scan.bulk
            scan.bulk = 0
            if (at - 2)[0] != c'\r' or (at - 1)[0] != c'\n':
                return SCAN_ERROR
            scan.elements -= 1
            continue
        if at == stop:
            used[0] = size
            return SCAN_MORE
        if scan.line:
            end = <const char *>memchr(at, c'\n', stop - at)
            if end == NULL:
                # A carriage return is only taken with the line feed that must follow it.
                used[0] = size - 1 if (stop - 1)[0] == c'\r' else size
                return SCAN_MORE
            if end == at or (end - 1)[0] != c'\r':
                return SCAN_ERROR
            scan.line = False
            at = end + 1
            scan.elements -= 1
            continue
        kind = at[0]
        if kind == c'+' or kind == c'-' or kind == c':' or kind == c',' or kind == c'(' \
                or kind == c'_' or kind == c'#':
            scan.line = True
            at += 1
            continue
        end = <const char *>memchr(at, c'\r', stop - at)
        if end == NULL or end + 1 == stop:
            if stop - at > NUMBER_LENGTH + 2:
                return SCAN_ERROR
            used[0] = at - data
            return SCAN_MORE
        if end[1] != c'\n':
            return SCAN_ERROR
        number = read_number(at + 1, end - at - 1, &valid)
        if not valid or number < -1:
            return SCAN_ERROR
        at = end + 2
        if kind == c'$' or kind == c'=' or kind == c'!':
            if number < 0:
                scan.elements -= 1
            elif number > INT64_MAX - 2:
                return SCAN_ERROR
            else:
                scan.bulk = number + 2
        elif kind == c'*' or kind == c'~' or kind == c'>':
            if number > INT32_MAX:
                return SCAN_ERROR
            scan.elements += (number if number > 0 else 0) - 1
        elif kind == c'%':
            if number > INT32_MAX:
                return SCAN_ERROR
            scan.elements += (2 * number if number > 0 else 0) - 1
        elif kind == c'|':
            # An attribute comes before the value it speaks of and is not a value itself.
            if number > INT32_MAX:
                return SCAN_ERROR
            scan.elements += 2 * number if number > 0 else 0
        else:
            return SCAN_ERROR
    used[0] = at - data
    return SCAN_DONE


class ProtocolError(ValueError):
    """Bytes that are not RESP. ``str()`` of it is Redis's wording without the error code."""


def fault_text(int fault, bytes offender=b"") -> bytes:
    """Redis's wording for what is wrong with a request; C prints no more than what is before a NUL."""
    text = REQUEST_FAULTS[fault]
    return (text % offender).partition(b"\0")[0] if fault == FAULT_NOT_BULK else text


cdef class RequestScanner:
    """Cuts a client's byte stream into commands, for tests and tools."""

    cdef RequestScan scan
    cdef RequestLimits limits
    cdef bytes rest

    def __init__(self, *, uint32_t inline_length=65536, uint32_t arguments=1048576,
                 uint32_t bulk_length=536870912, uint32_t query_length=1073741824):
        self.rest = b""
        self.limits = RequestLimits(inline_length, arguments, bulk_length, query_length)

    def __dealloc__(self):
        free_request(&self.scan)

    def feed(self, bytes data: bytes) -> list:
        """The commands that ``data`` completes: lists of arguments, or bytes for an inline line.

        Raises ProtocolError as soon as the stream cannot be RESP; it must not be fed after that.
        """
        cdef const char *start
        cdef size_t offset = 0, size
        cdef ScanStatus status
        cdef int i
        found = []
        self.rest += data
        start = PyBytes_AsString(self.rest)
        size = PyBytes_Size(self.rest)
        while True:
            status = scan_request(&self.scan, start + offset, size - offset, &self.limits)
            if status == SCAN_MORE:
                break
            if status == SCAN_ERROR:
                raise ProtocolError(
                    fault_text(self.scan.fault, bytes([<unsigned char>self.scan.offender])).decode("latin-1"))
            if status == SCAN_DONE:
                found.append([
                    start[offset + self.scan.args[i].offset:
                          offset + self.scan.args[i].offset + self.scan.args[i].size]
                    for i in range(self.scan.count)])
            elif status == SCAN_INLINE:
                found.append(start[offset:offset + self.scan.position])
            offset += self.scan.position
            reset_request(&self.scan)
        self.rest = self.rest[offset:]
        return found


cdef class ReplyScanner:
    """Cuts a server's byte stream into replies, for tests and tools."""

    cdef ReplyScan scan
    cdef bytes rest
    cdef list parts

    def __init__(self):
        self.rest = b""
        self.parts = []

    def feed(self, bytes data: bytes) -> list:
        """The replies that ``data`` completes, each as its bytes. Raises ProtocolError."""
        cdef const char *start
        cdef size_t offset = 0, size, used = 0
        cdef ScanStatus status
        found = []
        self.rest += data
        start = PyBytes_AsString(self.rest)
        size = PyBytes_Size(self.rest)
        while offset < size:
            status = scan_reply(&self.scan, start + offset, size - offset, &used)
            if status == SCAN_ERROR:
                raise ProtocolError("not a reply")
            self.parts.append(start[offset:offset + used])
            offset += used
            if status == SCAN_MORE:
                break
            found.append(b"".join(self.parts))
            self.parts.clear()
        self.rest = self.rest[offset:]
        return found


def split_inline(bytes line: bytes) -> list | None:
    """The arguments of an inline command; None when its quotes are not balanced.

    Redis's rules (sds.c, sdssplitargs): double quotes with C escapes and \\xHH, single quotes with
    \\' only, and a closing quote must be followed by a space or the end. Vertical tabs and form feeds
    are spaces there and between words, but do not end a word without quotes.
    """
    args = []
    escapes = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
    text = line.split(b"\0", 1)[0]
    spaces, ends = b" \t\n\v\f\r", b" \t\n\r"
    i, size = 0, len(text)
    while True:
        while i < size and text[i] in spaces:
            i += 1
        if i == size:
            return args
        word = bytearray()
        while i < size and text[i] not in ends:
            quote = text[i]
            i += 1
            if quote not in b"\"'":
                word.append(quote)
                continue
            while True:
                if i == size:
                    return None
                c = text[i]
                i += 1
                if c == quote:
                    if i < size and text[i] not in spaces:
                        return None
                    break
                if c == 0x5c and i < size:
                    if quote == 0x27:
                        if text[i] == 0x27:
                            c = 0x27
                            i += 1
                    elif text[i] == ord("x") and _is_hex(text[i + 1:i + 3]):
                        c = int(text[i + 1:i + 3], 16)
                        i += 3
                    else:
                        c = escapes.get(text[i], text[i])
                        i += 1
                word.append(c)
            break
        args.append(bytes(word))


def _is_hex(digits: bytes) -> bool:
    return len(digits) == 2 and all(c in b"0123456789abcdefABCDEF" for c in digits)
