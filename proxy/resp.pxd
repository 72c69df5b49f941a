"""The Redis serialization protocol, scanned where it lies: no byte is copied, no object made."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint8_t

cdef enum ScanStatus:
    SCAN_ERROR = -1     # the bytes are not RESP; nothing after them can be trusted
    SCAN_MORE = 0       # whole so far, but not finished
    SCAN_DONE = 1       # a whole command or reply
    SCAN_EMPTY = 2      # requests: an empty line or array, to be passed over
    SCAN_INLINE = 3     # requests: a whole inline command

cdef enum RequestFault:
    FAULT_NONE
    FAULT_MULTIBULK_LENGTH
    FAULT_MULTIBULK_COUNT_TOO_BIG
    FAULT_NOT_BULK
    FAULT_BULK_LENGTH
    FAULT_BULK_COUNT_TOO_BIG
    FAULT_INLINE_TOO_BIG
    FAULT_QUERY_TOO_BIG
    FAULT_NO_CRLF

cdef struct Span:
    uint32_t offset     # from the request's first byte
    uint32_t size

cdef struct RequestLimits:
    uint32_t inline_length
    uint32_t arguments
    uint32_t bulk_length
    uint32_t query_length

cdef struct RequestScan:
    Span *args
    uint32_t capacity
    int32_t count       # arguments announced; 0 before the header is read
    int32_t done        # arguments found so far
    uint32_t position   # bytes scanned; at SCAN_DONE, SCAN_EMPTY and SCAN_INLINE the request's size
    uint32_t needed     # bytes of the request known to be still on their way, at least
    uint8_t fault
    char offender       # at FAULT_NOT_BULK: the byte found in place of '$'

cdef struct ReplyScan:
    int64_t elements    # values still to come; 0 between replies
    int64_t bulk        # bytes of the open bulk string still to come, its CRLF included
    uint8_t line        # inside a simple string, error or number whose end has not come yet

cdef ScanStatus scan_request(
    RequestScan *scan, const char *data, size_t size, const RequestLimits *limits) noexcept nogil
cdef void reset_request(RequestScan *scan) noexcept nogil
cdef void free_request(RequestScan *scan) noexcept nogil
cdef ScanStatus scan_reply(
    ReplyScan *scan, const char *data, size_t size, size_t *used) noexcept nogil
cdef int64_t read_number(const char *data, size_t size, bint *valid) noexcept nogil
