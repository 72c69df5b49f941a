/* libFuzzer targets for the request and the reply scanner (proxy/resp.pyx).
 *
 * The scanners' generated C is included and driven directly: they use nothing of Python, so its
 * symbols may stay unresolved. Every input is scanned twice, once whole and once cut into pieces,
 * each time from a block of exactly the right size so that reading one byte too far is caught.
 * Any difference between the two ends the run.
 *
 * Build with -DREQUESTS or -DREPLIES; see run.py.
 */
#include "../../proxy/resp.c"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *plain_resize(void *memory, size_t size) {
    memory = realloc(memory, size);
    if (memory == NULL) abort();
    return memory;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    __pyx_f_5proxy_7buffers_resize = plain_resize;
    return 0;
}

/* What a scan found, as a stream of numbers. */
struct found { uint64_t hash; uint32_t count; };

static void note(struct found *found, uint64_t value) {
    found->hash = (found->hash ^ value) * 0x100000001b3ULL + 0x9e3779b97f4a7c15ULL;
    found->count++;
}

static void check(int good, const char *what) {
    if (!good) { fprintf(stderr, "broken: %s\n", what); abort(); }
}

#ifdef REQUESTS

/* Scans data[0:size], of which `visible` bytes have come at first and `step` more come each time. */
static struct found scan_all(const uint8_t *data, size_t size, size_t visible, size_t step) {
    struct __pyx_t_5proxy_4resp_RequestScan scan;
    struct __pyx_t_5proxy_4resp_RequestLimits limits = {64, 64, 4096, 8192};
    struct found found = {0, 0};
    size_t offset = 0;
    memset(&scan, 0, sizeof scan);
    for (;;) {
        size_t length = visible - offset;
        char *block = malloc(length ? length : 1);
        memcpy(block, data + offset, length);
        int status = __pyx_f_5proxy_4resp_scan_request(&scan, block, length, &limits);
        check(scan.position <= length, "scanned more than there is");
        if (status == __pyx_e_5proxy_4resp_SCAN_DONE) {
            note(&found, scan.count);
            for (int32_t i = 0; i < scan.count; i++) {
                check((size_t)scan.args[i].offset + scan.args[i].size + 2 <= scan.position, "argument out of bounds");
                note(&found, scan.args[i].offset);
                note(&found, scan.args[i].size);
            }
        }
        free(block);
        if (status == __pyx_e_5proxy_4resp_SCAN_MORE) {
            if (visible == size) break;
            visible = visible + step < size ? visible + step : size;
            continue;
        }
        note(&found, (uint64_t)(status + 8));
        if (status == __pyx_e_5proxy_4resp_SCAN_ERROR) { note(&found, scan.fault); break; }
        check(scan.position > 0, "a request of no bytes");
        offset += scan.position;
        note(&found, offset);
        __pyx_f_5proxy_4resp_reset_request(&scan);
    }
    __pyx_f_5proxy_4resp_free_request(&scan);
    return found;
}

#else

static struct found scan_all(const uint8_t *data, size_t size, size_t visible, size_t step) {
    struct __pyx_t_5proxy_4resp_ReplyScan scan;
    struct found found = {0, 0};
    size_t offset = 0;
    memset(&scan, 0, sizeof scan);
    for (;;) {
        size_t length = visible - offset, used = 0;
        char *block = malloc(length ? length : 1);
        memcpy(block, data + offset, length);
        int status = length == 0 ? __pyx_e_5proxy_4resp_SCAN_MORE
                                 : __pyx_f_5proxy_4resp_scan_reply(&scan, block, length, &used);
        free(block);
        check(used <= length, "used more than there is");
        check(scan.bulk >= 0 && scan.elements >= 0, "a negative count");
        if (status == __pyx_e_5proxy_4resp_SCAN_ERROR) { note(&found, 1); break; }
        offset += used;
        if (status == __pyx_e_5proxy_4resp_SCAN_MORE) {
            if (visible == size) break;
            visible = visible + step < size ? visible + step : size;
            continue;
        }
        check(used > 0, "a reply of no bytes");
        note(&found, offset);
    }
    return found;
}

#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t first = data[0] % (size - 1), step = data[1] % 7 + 1;
    data += 2, size -= 2;
    struct found whole = scan_all(data, size, size, 1);
    struct found pieces = scan_all(data, size, first < size ? first : size, step);
    check(whole.hash == pieces.hash && whole.count == pieces.count, "the cut of the stream mattered");
    return 0;
}
