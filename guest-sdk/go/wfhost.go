// Package wfhost is for durable workflows in Go, for the host `wfhost`.
//
// The main package of a program names its workflow, a function from the run's input to its result,
// both anything that JSON can say:
//
//	package main
//
//	import (
//		"context"
//
//		wfhost "github.com/wfhost/wfhost/guest-sdk/go"
//	)
//
//	type Input struct{ Name string }
//
//	func init() { wfhost.Workflow(greet) }
//	func main() {}
//
//	func greet(ctx context.Context, input Input) (string, error) {
//		return wfhost.Agent{Prompt: "greet " + input.Name}.Text(ctx)
//	}
//
// What is asked of the world is a step of the run's journal, and never carried out a second time once
// it is done. Goroutines, channels, sync and select work as usual: a goroutine that waits for a step
// lets the others go on, and the host is waited for when all of them wait. Which step was first is
// recorded, and the same in every replay.
//
// Contexts cancel steps: one that is waited for under a context that ends is cancelled. Deadlines of
// contexts are durable while a step is waited for.
//
// The standard library's clocks, random numbers, files and output are virtual: the same in every
// execution. time.Sleep holds up all goroutines; Sleep does not.
package wfhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Kind says what kind of failure it was.
type Kind string

// The kinds of failure.
const (
	// Failed: the other side answered that it could not do it.
	Failed Kind = "failed"
	// TimedOut: a time limit expired.
	TimedOut Kind = "timed-out"
	// Cancelled: the step or the run was cancelled.
	Cancelled Kind = "cancelled"
	// InvalidOutput: an answer does not match the schema of the request.
	InvalidOutput Kind = "invalid-output"
	// BudgetExceeded: it would exceed the budget.
	BudgetExceeded Kind = "budget-exceeded"
	// Unavailable: no provider could be reached.
	Unavailable Kind = "unavailable"
	// Rejected: the request is invalid, or it was refused.
	Rejected Kind = "rejected"
)

// In the order of the WIT package.
var kinds = []Kind{Failed, TimedOut, Cancelled, InvalidOutput, BudgetExceeded, Unavailable, Rejected}

// Failure is the failure of a step or a run. If a workflow returns it, also wrapped, the
// run fails with it; any other error fails the run with the kind Failed.
type Failure struct {
	Kind    Kind
	Message string
	// Details is for programs; nil if there are none.
	Details json.RawMessage
	// Attempts is the number of attempts; 0 if none was made.
	Attempts uint32
	cause    error
}

// Error gives the message.
func (failure *Failure) Error() string {
	if failure.Message == "" {
		return string(failure.Kind)
	}
	return failure.Message
}

// Unwrap gives the error of the context that cancelled it, if one did.
func (failure *Failure) Unwrap() error {
	return failure.cause
}

// IsOutcomeUnknown reports whether it is unknown if the call was carried out: the host died during one
// that may be made once.
func (failure *Failure) IsOutcomeUnknown() bool {
	return failure.reason() == "unknown-outcome"
}

func (failure *Failure) reason() string {
	var details struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(failure.Details, &details) != nil {
		return ""
	}
	return details.Reason
}

// Is reports whether an error is a failure of this kind, also if it is wrapped.
func (kind Kind) Is(err error) bool {
	return err != nil && failureOf(err).Kind == kind
}

// Any error as a failure. What was wrapped around one says more than its own message.
func failureOf(err error) *Failure {
	var failure *Failure
	switch {
	case errors.As(err, &failure):
		whole := *failure
		whole.Message = err.Error()
		return &whole
	case errors.Is(err, context.DeadlineExceeded):
		return &Failure{Kind: TimedOut, Message: err.Error(), cause: err}
	case errors.Is(err, context.Canceled):
		return &Failure{Kind: Cancelled, Message: err.Error(), cause: err}
	default:
		return &Failure{Kind: Failed, Message: err.Error()}
	}
}

// Workflow names the workflow of the program. It is called by an `init` function, once.
//
// When the workflow returns its context ends, and the run with it; compensations of sagas that are
// still under way in goroutines are waited for.
func Workflow[I, O any](run func(ctx context.Context, input I) (O, error)) {
	export = func(text string) (string, *Failure) {
		var input I
		if err := json.Unmarshal([]byte(text), &input); err != nil {
			return "", &Failure{Kind: Rejected, Message: "the input does not fit: " + err.Error()}
		}
		output, err := execute(func(ctx context.Context) (O, error) { return run(ctx, input) })
		if err != nil {
			return "", failureOf(err)
		}
		result, err := json.Marshal(output)
		if err != nil {
			message := "the result cannot be written as JSON: " + err.Error()
			return "", &Failure{Kind: InvalidOutput, Message: message}
		}
		return string(result), nil
	}
}

// The workflow, from its input to its result, both JSON.
var export func(input string) (string, *Failure)

func execute[O any](run func(ctx context.Context) (O, error)) (O, error) {
	defer reportPanic()
	ctx, end := context.WithCancel(context.Background())
	defer sagas.Wait()
	defer end()
	return run(ctx)
}

// reportPanic says why the program is about to trap. It is deferred where goroutines begin.
func reportPanic() {
	if reason := recover(); reason != nil {
		host.panicked(fmt.Sprint(reason))
		panic(reason)
	}
}

func write(what string, value any) (string, error) {
	text, err := json.Marshal(value)
	if err != nil {
		message := fmt.Sprintf("the %s cannot be written as JSON: %v", what, err)
		return "", &Failure{Kind: Rejected, Message: message}
	}
	return string(text), nil
}

// What may be left out: nil is nothing.
func optional(what string, value any, into **string) error {
	if value == nil {
		return nil
	}
	text, err := write(what, value)
	if err == nil {
		*into = &text
	}
	return err
}

func readJSON[T any](what string) func(text string) (T, error) {
	return func(text string) (T, error) {
		var value T
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return value, &Failure{Kind: InvalidOutput, Message: "the " + what + " does not fit: " + err.Error()}
		}
		return value, nil
	}
}

func readNothing(string) (struct{}, error) {
	return struct{}{}, nil
}
