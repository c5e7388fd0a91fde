;; The workflow of `wfhost demo`: three agent calls with two sleeps between
;; them. Written by hand, so that the binary can show a durable run on a
;; machine without a compiler.
(module
  (import "wfhost:workflow/agent@0.1.0" "run" (func $ask (param i32 i32)))
  (import "wfhost:workflow/sleep@0.1.0" "sleep" (func $sleep (param i64 i32)))
  (import "wfhost:workflow/context@0.1.0" "phase" (func $phase (param i32 i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 16384))

  ;; The host puts texts here; nothing is ever given back.
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))

  ;; A request record at 1024: its prompt is given, all other fields are none.
  (func $agent (param $prompt i32) (param $length i32)
    (i32.store (i32.const 1024) (local.get $prompt))
    (i32.store (i32.const 1028) (local.get $length))
    (call $ask (i32.const 1024) (i32.const 4096)))

  (func (export "run") (param i32 i32) (result i32)
    (call $phase (i32.const 0) (i32.const 5))
    (call $agent (i32.const 16) (i32.const 16))
    (call $sleep (i64.const 700) (i32.const 8192))
    (call $phase (i32.const 48) (i32.const 5))
    (call $agent (i32.const 64) (i32.const 13))
    (call $sleep (i64.const 700) (i32.const 8192))
    (call $agent (i32.const 96) (i32.const 13))
    ;; The result at 12288: ok, and its text.
    (i32.store8 (i32.const 12288) (i32.const 0))
    (i32.store (i32.const 12292) (i32.const 128))
    (i32.store (i32.const 12296) (i32.const 18))
    (i32.const 12288))

  (data (i32.const 0) "think")
  (data (i32.const 16) "think of a story")
  (data (i32.const 48) "write")
  (data (i32.const 64) "write it down")
  (data (i32.const 96) "read it aloud")
  (data (i32.const 128) "\"nothing was lost\""))
