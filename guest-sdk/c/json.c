/* Texts, results and JSON: needs nothing of the host. */
#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *wf_allocate(size_t size) {
  void *memory = malloc(size ? size : 1);
  if (!memory) wf_panic("out of memory: %zu bytes", size);
  return memory;
}

const char *wf_copy(const void *bytes, size_t length) {
  char *text = wf_allocate(length + 1);
  if (length) memcpy(text, bytes, length);
  text[length] = 0;
  return text;
}

const char *wf_format_list(const char *format, va_list list) {
  va_list again;
  va_copy(again, list);
  int length = vsnprintf(NULL, 0, format, list);
  char *text = wf_allocate(length < 0 ? 1 : (size_t)length + 1);
  text[0] = 0;
  if (length >= 0) vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  return text;
}

const char *wf_format(const char *format, ...) {
  va_list list;
  va_start(list, format);
  const char *text = wf_format_list(format, list);
  va_end(list);
  return text;
}

/* Results. */

wf_result wf_ok(const char *json) {
  wf_result result = {.json = json ? json : "null"};
  return result;
}

wf_result wf_fail(wf_kind kind, const char *format, ...) {
  va_list list;
  va_start(list, format);
  wf_result result = {.kind = kind, .message = wf_format_list(format, list)};
  va_end(list);
  return result;
}

const char *wf_kind_name(wf_kind kind) {
  static const char *const names[] = {"failed",          "timed-out",   "cancelled", "invalid-output",
                                      "budget-exceeded", "unavailable", "rejected"};
  return kind <= WF_REJECTED ? names[kind] : "failed";
}

/* Writing. */

const char *wf_json_string(const char *from) {
  if (!from) return "null";
  char *json = wf_allocate(strlen(from) * 6 + 3), *to = json;
  *to++ = '"';
  for (; *from; from++) {
    unsigned char c = (unsigned char)*from;
    if (c == '"' || c == '\\') {
      *to++ = '\\';
      *to++ = (char)c;
    } else if (c == '\n') {
      *to++ = '\\';
      *to++ = 'n';
    } else if (c < 0x20) {
      to += snprintf(to, 7, "\\u%04x", c);
    } else {
      *to++ = (char)c;
    }
  }
  *to++ = '"';
  *to = 0;
  return json;
}

/* Reading. */

static const char *skip_space(const char *at) {
  while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r') at++;
  return at;
}

/* Behind a string that begins at `at`. */
static const char *skip_string(const char *at) {
  for (at++; *at && *at != '"'; at++) {
    if (*at == '\\' && at[1]) at++;
  }
  return *at ? at + 1 : at;
}

/* Behind a value. The host hands over valid JSON only. */
static const char *skip_value(const char *at) {
  if (*at == '"') return skip_string(at);
  if (*at == '{' || *at == '[') {
    int depth = 0;
    while (*at) {
      if (*at == '"') {
        at = skip_string(at);
        continue;
      }
      if (*at == '{' || *at == '[') depth++;
      if (*at == '}' || *at == ']') depth--;
      at++;
      if (depth == 0) break;
    }
    return at;
  }
  while (*at && !strchr(",}] \t\n\r", *at)) at++;
  return at;
}

static unsigned hexadecimal(const char *at) {
  unsigned value = 0;
  for (int i = 0; i < 4; i++) {
    char c = at[i];
    unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') : ((unsigned)(c | 0x20) - 'a' + 10) & 15;
    if (!c) return 0xfffd;
    value = value << 4 | digit;
  }
  return value;
}

static char *put_utf8(char *to, unsigned c) {
  if (c < 0x80) {
    *to++ = (char)c;
  } else if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
    *to++ = (char)(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    *to++ = (char)(0xe0 | c >> 12);
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  } else {
    *to++ = (char)(0xf0 | c >> 18);
    *to++ = (char)(0x80 | (c >> 12 & 0x3f));
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    *to++ = (char)(0x80 | (c & 0x3f));
  }
  return to;
}

const char *wf_json_bytes(const char *json, size_t *length) {
  if (!json) return NULL;
  json = skip_space(json);
  if (*json != '"') return NULL;
  const char *end = skip_string(json);
  char *text = wf_allocate((size_t)(end - json) + 1), *to = text;
  for (const char *at = json + 1; at < end && *at != '"'; at++) {
    if (*at != '\\') {
      *to++ = *at;
      continue;
    }
    switch (*++at) {
      case 'n': *to++ = '\n'; break;
      case 't': *to++ = '\t'; break;
      case 'r': *to++ = '\r'; break;
      case 'b': *to++ = '\b'; break;
      case 'f': *to++ = '\f'; break;
      case 'u': {
        if (end - at < 5) break;
        unsigned c = hexadecimal(at + 1);
        at += 4;
        /* Two halves make one character; a half alone is none. */
        if (c >= 0xd800 && c < 0xdc00 && end - at >= 7 && at[1] == '\\' && at[2] == 'u') {
          unsigned low = hexadecimal(at + 3);
          if (low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            at += 6;
          }
        }
        to = put_utf8(to, c >= 0xd800 && c < 0xe000 ? 0xfffd : c);
        break;
      }
      default: *to++ = *at;
    }
  }
  *to = 0;
  if (length) *length = (size_t)(to - text);
  return text;
}

const char *wf_json_text(const char *json) { return wf_json_bytes(json, NULL); }

/* Of an object or an array; before its first member. */
wf_json_iterator wf_json_each(const char *json) {
  wf_json_iterator iterator = {.at = ""};
  if (!json) return iterator;
  json = skip_space(json);
  if (*json != '{' && *json != '[') return iterator;
  iterator.is_object = *json == '{';
  iterator.at = skip_space(json + 1);
  return iterator;
}

bool wf_json_next(wf_json_iterator *iterator) {
  const char *at = iterator->at;
  if (!*at || *at == ']' || *at == '}') return false;
  iterator->key = NULL;
  if (iterator->is_object) {
    iterator->key = wf_json_text(at);
    at = skip_space(skip_string(at));
    if (*at != ':') return false;
    at = skip_space(at + 1);
  }
  const char *end = skip_value(at);
  iterator->value = wf_copy(at, (size_t)(end - at));
  at = skip_space(end);
  iterator->at = *at == ',' ? skip_space(at + 1) : at;
  return true;
}

const char *wf_json_get(const char *json, const char *key) {
  wf_json_iterator member = wf_json_each(json);
  while (member.is_object && wf_json_next(&member)) {
    if (strcmp(member.key, key) == 0) return member.value;
  }
  return NULL;
}

size_t wf_json_count(const char *json) {
  size_t count = 0;
  for (wf_json_iterator item = wf_json_each(json); wf_json_next(&item);) count++;
  return count;
}

const char *wf_json_at(const char *json, size_t index) {
  wf_json_iterator item = wf_json_each(json);
  while (!item.is_object && wf_json_next(&item)) {
    if (index-- == 0) return item.value;
  }
  return NULL;
}

double wf_json_number(const char *json, double otherwise) {
  if (!json) return otherwise;
  json = skip_space(json);
  if (*json != '-' && (*json < '0' || *json > '9')) return otherwise;
  char *end;
  double value = strtod(json, &end);
  return *skip_space(end) ? otherwise : value;
}

bool wf_json_bool(const char *json, bool otherwise) {
  if (!json) return otherwise;
  json = skip_space(json);
  if (strncmp(json, "true", 4) == 0) return true;
  if (strncmp(json, "false", 5) == 0) return false;
  return otherwise;
}

uint64_t wf_json_whole(const char *json, uint64_t otherwise) {
  if (!json) return otherwise;
  json = skip_space(json);
  uint64_t value = 0;
  const char *at = json;
  for (; *at >= '0' && *at <= '9'; at++) {
    uint64_t digit = (uint64_t)(*at - '0');
    if (value > (UINT64_MAX - digit) / 10) return otherwise;
    value = value * 10 + digit;
  }
  return at == json || *skip_space(at) ? otherwise : value;
}

const char *wf_json_array(const char *const *items, size_t count) {
  size_t length = 3;
  for (size_t i = 0; i < count; i++) length += strlen(items[i]) + 1;
  char *json = wf_allocate(length), *to = json;
  *to++ = '[';
  for (size_t i = 0; i < count; i++) {
    if (i) *to++ = ',';
    size_t bytes = strlen(items[i]);
    memcpy(to, items[i], bytes);
    to += bytes;
  }
  *to++ = ']';
  *to = 0;
  return json;
}

const char *wf_json_object(const char *key, ...) {
  const char *json = "{";
  va_list list;
  va_start(list, key);
  for (const char *name = key; name; name = va_arg(list, const char *)) {
    const char *value = va_arg(list, const char *);
    json = wf_format("%s%s%s:%s", json, json[1] ? "," : "", wf_json_string(name), value ? value : "null");
  }
  va_end(list);
  return wf_format("%s}", json);
}

const char *wf_json_from_number(double value) {
  /* JSON has neither infinities nor what is no number. */
  if (!isfinite(value)) return "null";
  const char *text = wf_format("%.15g", value);
  return strtod(text, NULL) == value ? text : wf_format("%.17g", value);
}
