// Package runtime is what the generated bindings need. It is that of
// go.bytecodealliance.org/pkg/wit (see ../LICENSE) but for `cabi_realloc`.
package runtime

import (
	"fmt"
	"runtime"
	"unsafe"
)

type Handle struct {
	value int32
}

func (h *Handle) Use() int32 {
	if h.value == 0 {
		panic("nil handle")
	}
	return h.value
}

func (h *Handle) Take() int32 {
	if h.value == 0 {
		panic("nil handle")
	}
	value := h.value
	h.value = 0
	return value
}

func (h *Handle) Set(value int32) {
	if value == 0 {
		panic("nil handle")
	}
	if h.value != 0 {
		panic("handle already set")
	}
	h.value = value
}

func (h *Handle) TakeOrNil() int32 {
	value := h.value
	h.value = 0
	return value
}

func MakeHandle(value int32) *Handle {
	if value == 0 {
		panic("nil handle")
	}
	return &Handle{value}
}

func Allocate(pinner *runtime.Pinner, size, align uintptr) unsafe.Pointer {
	pointer := allocateRaw(size, align)
	pinner.Pin(pointer)
	return pointer
}

func allocateRaw(size, align uintptr) unsafe.Pointer {
	if size == 0 {
		return nil
	}

	if size%align != 0 {
		panic(fmt.Sprintf("size %v is not compatible with alignment %v", size, align))
	}

	switch align {
	case 1:
		return unsafe.Pointer(unsafe.SliceData(make([]uint8, size)))
	case 2:
		return unsafe.Pointer(unsafe.SliceData(make([]uint16, size/align)))
	case 4:
		return unsafe.Pointer(unsafe.SliceData(make([]uint32, size/align)))
	case 8:
		return unsafe.Pointer(unsafe.SliceData(make([]uint64, size/align)))
	default:
		panic(fmt.Sprintf("unsupported alignment: %v", align))
	}
}

//go:linkname sbrk runtime.sbrk
func sbrk(n uintptr) unsafe.Pointer

// Where the host writes what it gives. It is not the garbage collector's: that would look at the
// clock, and no function of the host may be called while it hands something over. It is also needed
// before the Go runtime is there. What was written stays until Release, so it is copied before that.
var next, limit uintptr

// The largest piece, which is used again.
var start, size uintptr = 0, 32 << 10

// Release says that nothing refers to what the host has written.
func Release() {
	next, limit = start, start
	if start != 0 {
		limit += size
	}
}

// Unpin is called by the generated code when an exported function has its arguments.
func Unpin() {}

//go:wasmexport cabi_realloc
func cabiRealloc(oldPointer unsafe.Pointer, oldSize, align, newSize uintptr) unsafe.Pointer {
	if oldPointer != nil || oldSize != 0 {
		panic("the host never lets a block grow")
	}
	pointer := (next + align - 1) &^ (align - 1)
	if pointer+newSize > limit {
		for size = 2 * size; size < newSize+align; {
			size = 2 * size
		}
		start = uintptr(sbrk(size))
		limit = start + size
		pointer = (start + align - 1) &^ (align - 1)
	}
	next = pointer + newSize
	return unsafe.Pointer(pointer)
}
