package plugin

import (
	"encoding/json"
	"strings"
	"time"

	export "github.com/wfhost/wfhost/guest-sdk/go/internal/plugin/export_wfhost_plugin_agent"
	"github.com/wfhost/wfhost/guest-sdk/go/internal/plugin/wfhost_plugin_http"
	"github.com/wfhost/wfhost/guest-sdk/go/internal/plugin/wfhost_plugin_progress"
	types "github.com/wfhost/wfhost/guest-sdk/go/internal/plugin/wfhost_plugin_types"
	_ "github.com/wfhost/wfhost/guest-sdk/go/internal/plugin/wit_exports"
	"github.com/wfhost/wfhost/guest-sdk/go/internal/wit/runtime"
	wit "github.com/wfhost/wfhost/guest-sdk/go/internal/wit/types"
)

// What the host hands over is its own memory until Release: everything is copied before that. Nothing else runs in
// between, as goroutines change only where one waits.

func text(value string) wit.Option[string] {
	if value == "" {
		return wit.None[string]()
	}
	return wit.Some(value)
}

func usageTo(usage *Usage) wit.Option[types.Usage] {
	if usage == nil {
		return wit.None[types.Usage]()
	}
	return wit.Some(types.Usage{
		InputTokens: usage.InputTokens, OutputTokens: usage.OutputTokens,
		CachedTokens: usage.CachedTokens, CostMicros: usage.CostMicros,
	})
}

func failureTo(failure *Failure) types.Failure {
	result := types.Failure{
		Message: failure.Message, Details: wit.None[string](), Auth: failure.Auth,
		RetryAfter: wit.None[uint64](), Usage: usageTo(failure.Usage),
	}
	for index, kind := range kinds {
		if kind == failure.Kind {
			result.Kind = types.FailureKind(index)
		}
	}
	if failure.Details != nil {
		if details, err := json.Marshal(failure.Details); err == nil {
			result.Details = wit.Some(string(details))
		}
	}
	if failure.RetryAfter > 0 {
		result.RetryAfter = wit.Some(uint64(failure.RetryAfter.Milliseconds()))
	}
	return result
}

func raw(from wit.Option[string]) json.RawMessage {
	if from.IsNone() {
		return nil
	}
	return json.RawMessage(strings.Clone(from.Some()))
}

func callFrom(from types.Call) *Call {
	call := &Call{
		Message: strings.Clone(from.Message), Prompt: strings.Clone(from.Prompt), Input: raw(from.Input),
		Schema: raw(from.Schema), Options: raw(from.Options), Model: strings.Clone(from.Model.SomeOr("")),
		Session: strings.Clone(from.Session.SomeOr("")), Key: strings.Clone(from.Key), Run: strings.Clone(from.Run),
		Step: from.Step, Attempt: from.Attempt, Heartbeat: raw(from.Heartbeat),
	}
	for _, exchange := range from.History {
		said, answered := strings.Clone(exchange.Said), strings.Clone(exchange.Answered)
		call.History = append(call.History, Exchange{said, answered})
	}
	return call
}

type wasmResponse struct{ *wfhost_plugin_http.Response }

func (response wasmResponse) status() int { return int(response.Status()) }
func (response wasmResponse) close()      { response.Drop() }

func (response wasmResponse) headers() [][2]string {
	given := response.Headers()
	defer runtime.Release()
	headers := make([][2]string, 0, len(given))
	for _, pair := range given {
		headers = append(headers, [2]string{strings.Clone(pair.F0), string(pair.F1)})
	}
	return headers
}

func (response wasmResponse) read() ([]byte, error) {
	result := response.Read()
	defer runtime.Release()
	if result.IsErr() {
		return nil, refused(result.Err())
	}
	if piece := result.Ok(); piece.IsSome() {
		return append([]byte{}, piece.Some()...), nil
	}
	return nil, nil
}

// Why there is no response, or no more of it.
func refused(err wfhost_plugin_http.Error) *Failure {
	switch err.Tag() {
	case wfhost_plugin_http.ErrorDenied:
		return Failf(Rejected, "the host denies the request: %s", err.Denied())
	case wfhost_plugin_http.ErrorInvalid:
		return Failf(Rejected, "the request cannot be sent: %s", err.Invalid())
	default:
		return Failf(Unavailable, "the service gives no answer: %s", err.Broken())
	}
}

func send(method, url string, header [][2]string, body []byte, timeout time.Duration) (hostResponse, error) {
	request := wfhost_plugin_http.Request{
		Method: method, Url: url, Body: wit.None[[]uint8](), Timeout: wit.None[uint64](),
		Headers: make([]wit.Tuple2[string, []uint8], 0, len(header)),
	}
	for _, pair := range header {
		request.Headers = append(request.Headers, wit.Tuple2[string, []uint8]{F0: pair[0], F1: []byte(pair[1])})
	}
	if body != nil {
		request.Body = wit.Some(body)
	}
	if timeout > 0 {
		request.Timeout = wit.Some(uint64(max(timeout.Milliseconds(), 1)))
	}
	result := wfhost_plugin_http.Send(request)
	defer runtime.Release()
	if result.IsErr() {
		return nil, refused(result.Err())
	}
	return wasmResponse{result.Ok()}, nil
}

func init() {
	host.chunk = wfhost_plugin_progress.Chunk
	host.line = wfhost_plugin_progress.Line
	host.transcript = wfhost_plugin_progress.Transcript
	host.heartbeat = wfhost_plugin_progress.Heartbeat
	host.cancelled = wfhost_plugin_progress.Cancelled
	host.send = send
	export.Agent = func(given types.Call) export.Result {
		call := callFrom(given)
		runtime.Release()
		output, reply, failure := answer(call)
		if failure != nil {
			return wit.Err[types.Reply](failureTo(failure))
		}
		return wit.Ok[types.Reply, types.Failure](types.Reply{
			Output: output, Session: text(reply.Session), Model: text(reply.Model), Usage: usageTo(reply.Usage),
		})
	}
}
