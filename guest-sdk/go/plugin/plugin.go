// Package plugin is for agents as components: a plugin answers the agent calls of workflows, for the host `wfhost`.
//
// The main package of a program names its agent, a function from a call to the answer:
//
//	package main
//
//	import "github.com/wfhost/wfhost/guest-sdk/go/plugin"
//
//	func init() { plugin.Agent(run) }
//	func main() {}
//
//	func run(call *plugin.Call) (any, error) {
//		plugin.Line("asking")
//		response, err := plugin.Post("https://api.example.com/v1/summaries", map[string]any{"text": call.Message}).Send()
//		if err != nil {
//			return nil, err
//		}
//		var answer struct{ Summary string }
//		err = response.JSON(&answer)
//		return plugin.Reply{Output: answer.Summary, Model: "example"}, err
//	}
//
// A plugin runs once for each attempt at a call, in a sandbox of its own. The standard library's files, environment
// and clocks are those that the host's configuration grants; the network is reached by Request, or by an http.Client
// of the package pluginhttp. What is not granted is denied when it is used.
package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// Kind says what kind of failure it was: it decides whether there is another attempt.
type Kind string

// The kinds of failure.
const (
	// Failed: it could not be done. Retried, according to the call's policy.
	Failed Kind = "failed"
	// TimedOut: the other side took too long.
	TimedOut Kind = "timed-out"
	// Aborted: the call was cancelled.
	Aborted Kind = "cancelled"
	// InvalidOutput: the answer does not match the schema of the request.
	InvalidOutput Kind = "invalid-output"
	// Unavailable: the other side could not be reached.
	Unavailable Kind = "unavailable"
	// Rejected: the request is invalid, or it was refused. Not retried.
	Rejected Kind = "rejected"
)

// In the order of the WIT package.
var kinds = []Kind{Failed, TimedOut, Aborted, InvalidOutput, Unavailable, Rejected}

// Failure is the failure of an attempt. If the agent returns it, also wrapped, the attempt fails with it; any other
// error fails the attempt with the kind Failed.
type Failure struct {
	Kind    Kind
	Message string
	// Details is for programs: anything that JSON can say; nil if there are none.
	Details any
	// Auth: authentication or billing failed, which disables the provider for the run.
	Auth bool
	// RetryAfter is how long the other side asks to wait; 0 if it does not.
	RetryAfter time.Duration
	// Usage is what the attempt consumed all the same; nil if nothing is known of that.
	Usage *Usage
}

// Error gives the message.
func (failure *Failure) Error() string {
	if failure.Message == "" {
		return string(failure.Kind)
	}
	return failure.Message
}

// Failf makes a failure of a kind.
func Failf(kind Kind, format string, arguments ...any) *Failure {
	return &Failure{Kind: kind, Message: fmt.Sprintf(format, arguments...)}
}

// Any error as a failure. What was wrapped around one says more than its own message.
func failureOf(err error) *Failure {
	var failure *Failure
	if errors.As(err, &failure) {
		whole := *failure
		whole.Message = err.Error()
		return &whole
	}
	return &Failure{Kind: Failed, Message: err.Error()}
}

// Usage is the usage of an answer.
type Usage struct {
	InputTokens, OutputTokens uint64
	// CachedTokens are input tokens served from the other side's cache.
	CachedTokens uint64
	// CostMicros is in millionths of a US dollar; 0 if it is not known.
	CostMicros uint64
}

// Reply is an answer with what belongs to it.
type Reply struct {
	// Output is the answer: anything that JSON can say.
	Output any
	// Session is the conversation, by an id of the plugin's own.
	Session string
	// Model is the model that answered.
	Model string
	Usage *Usage
}

// Exchange is one request of a conversation and its answer.
type Exchange struct {
	Said, Answered string
}

// Call is one attempt at a call. What was not given is empty or nil.
type Call struct {
	// Message is the whole request as text: the prompt, the input, the required form of the answer, corrections.
	Message string
	Prompt  string
	Input   json.RawMessage
	// Schema is the JSON Schema that the answer has to match.
	Schema  json.RawMessage
	Options json.RawMessage
	Model   string
	// Session is the conversation to continue, by an id that the plugin returned.
	Session string
	// History is the conversation so far, oldest first, if the host keeps conversations.
	History []Exchange
	// Key is the idempotency key: the same for all attempts at this step, and for no other step.
	Key  string
	Run  string
	Step uint64
	// Attempt is the number of the attempt, from 1.
	Attempt uint32
	// Heartbeat is the last one of the previous attempt.
	Heartbeat json.RawMessage
}

// ReadInput reads the input into a value. An input that does not fit is the failure Rejected.
func (call *Call) ReadInput(into any) error {
	return read("input", call.Input, into)
}

// ReadOptions reads the options into a value, which stays as it is if there are none. Options that do not fit are the
// failure Rejected.
func (call *Call) ReadOptions(into any) error {
	if call.Options == nil {
		return nil
	}
	return read("options", call.Options, into)
}

func read(what string, given json.RawMessage, into any) error {
	if given == nil {
		given = json.RawMessage("null")
	}
	if err := json.Unmarshal(given, into); err != nil {
		return Failf(Rejected, "the %s does not fit: %v", what, err)
	}
	return nil
}

// Agent names the agent of the program. It is called by an `init` function, once. The agent returns a Reply, or what
// is to be its output.
func Agent[T any](run func(call *Call) (T, error)) {
	answer = func(call *Call) (output string, reply Reply, failure *Failure) {
		defer func() {
			if panicked := recover(); panicked != nil {
				message := fmt.Sprint("the plugin panicked: ", panicked)
				failure = &Failure{Kind: Failed, Message: message, Details: map[string]string{"stack": string(debug.Stack())}}
			}
		}()
		given, err := run(call)
		if err != nil {
			return "", Reply{}, failureOf(err)
		}
		switch given := any(given).(type) {
		case Reply:
			reply = given
		case *Reply:
			reply = *given
		default:
			reply = Reply{Output: given}
		}
		text, err := json.Marshal(reply.Output)
		if err != nil {
			return "", Reply{}, Failf(InvalidOutput, "the answer cannot be written as JSON: %v", err)
		}
		return string(text), reply, nil
	}
}

// What the export calls: gives the output as JSON, and what belongs to it.
var answer = func(*Call) (string, Reply, *Failure) {
	return "", Reply{}, Failf(Rejected, "the program names no agent: an init function has to call plugin.Agent")
}

// Chunk shows a piece of the answer, as it comes.
func Chunk(text string) {
	host.chunk(text)
}

// Line shows a line about the work.
func Line(text string) {
	host.line(text)
}

// Linef shows a line about the work.
func Linef(format string, arguments ...any) {
	host.line(fmt.Sprintf(format, arguments...))
}

// Transcript adds an event to the transcript of the call.
func Transcript(event any) error {
	text, err := json.Marshal(event)
	if err == nil {
		host.transcript(string(text))
	}
	return err
}

// Heartbeat reports the progress of the work. The next attempt finds the last report in Call.Heartbeat.
func Heartbeat(at any) error {
	text, err := json.Marshal(at)
	if err == nil {
		host.heartbeat(string(text))
	}
	return err
}

// Cancelled reports whether the call was cancelled. A plugin that continues is stopped after a grace period.
func Cancelled() bool {
	return host.cancelled()
}
