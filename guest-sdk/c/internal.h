/* What the parts of the SDK share. */
#ifndef WFHOST_INTERNAL_H
#define WFHOST_INTERNAL_H

#include <stdarg.h>

#include "wfhost.h"

void *wf_allocate(size_t size);
/* Bytes with a zero byte at their end. */
const char *wf_copy(const void *bytes, size_t length);
const char *wf_format_list(const char *format, va_list list);
/* A policy, its zeros being the defaults. */
wf_retry wf_whole_retry(wf_retry retry);
/* How many steps were begun in this execution. */
uint64_t wf_steps_begun(void);

#endif
