package wfhost

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// SchemaOf gives the JSON Schema of a type as encoding/json reads it: an object for a struct, whose
// members have to be there unless they are pointers or have `omitempty` or `omitzero`. The tag `doc`
// describes a member, the tag `enum` lists the texts that it may be, separated by commas:
//
//	type Review struct {
//		Verdict string   `json:"verdict" enum:"accept,reject"`
//		Notes   []string `json:"notes,omitempty" doc:"what has to be changed"`
//	}
//
// The members of an embedded pointer to a struct are promoted, and do not have to be there. A type that contains
// itself is anything where it does.
func SchemaOf[T any]() map[string]any {
	return schemaOf(reflect.TypeFor[T](), nil)
}

var timeType = reflect.TypeFor[time.Time]()

func schemaOf(kind reflect.Type, within []reflect.Type) map[string]any {
	if kind == timeType {
		return map[string]any{"type": "string", "format": "date-time"}
	}
	if containsItself(kind, within) {
		return map[string]any{}
	}
	if kind.Name() != "" || kind.Kind() == reflect.Struct {
		within = append(within, kind)
	}
	switch kind.Kind() {
	case reflect.Pointer:
		inner := schemaOf(kind.Elem(), within)
		return map[string]any{"anyOf": []any{inner, map[string]any{"type": "null"}}}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		if kind.Elem().Kind() == reflect.Uint8 {
			// Bytes are base64, raw JSON is anything.
			if kind.Name() == "RawMessage" {
				return map[string]any{}
			}
			return map[string]any{"type": "string"}
		}
		return map[string]any{"type": "array", "items": schemaOf(kind.Elem(), within)}
	case reflect.Array:
		items := schemaOf(kind.Elem(), within)
		return map[string]any{"type": "array", "items": items, "minItems": kind.Len(), "maxItems": kind.Len()}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(kind.Elem(), within)}
	case reflect.Struct:
		properties, required := map[string]any{}, []string{}
		members(kind, within, properties, &required)
		return map[string]any{"type": "object", "properties": properties, "required": required}
	default:
		return map[string]any{}
	}
}

// Whether a type is within itself. Where there is a struct on the way, it is the struct that is not written again.
func containsItself(kind reflect.Type, within []reflect.Type) bool {
	for _, outer := range slices.Backward(within) {
		if outer == kind {
			return true
		}
		if outer.Kind() == reflect.Struct && kind.Kind() != reflect.Struct {
			return false
		}
	}
	return false
}

func members(kind reflect.Type, within []reflect.Type, properties map[string]any, required *[]string) {
	for index := range kind.NumField() {
		field := kind.Field(index)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" && field.Type.Kind() == reflect.Struct {
			members(field.Type, within, properties, required)
			continue
		}
		if field.Anonymous && name == "" && field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() == reflect.Struct {
			// It may be nil. One that is not exported cannot be read.
			if inner := field.Type.Elem(); field.IsExported() && !slices.Contains(within, inner) {
				members(inner, append(within, inner), properties, &[]string{})
			}
			continue
		}
		if !field.IsExported() || (name == "-" && options == "") {
			continue
		}
		if name == "" {
			name = field.Name
		}
		schema := schemaOf(field.Type, within)
		if doc := field.Tag.Get("doc"); doc != "" {
			schema["description"] = doc
		}
		if enum := field.Tag.Get("enum"); enum != "" {
			schema["enum"] = strings.Split(enum, ",")
		}
		properties[name] = schema
		if field.Type.Kind() != reflect.Pointer && !strings.Contains(options, "omit") {
			*required = append(*required, name)
		}
	}
}
