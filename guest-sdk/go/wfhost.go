// Package wfhost is for durable workflows in Go, for the host `wfhost`.
//
// The main package of a program names its workflow, a function from the run's input to its result,
// both anything that JSON can say:
//
//	package main
//
//	import wfhost "github.com/wfhost/wfhost/guest-sdk/go"
//
//	type Input struct{ Name string }
//
//	func init() { wfhost.Workflow(greet) }
//	func main() {}
//
//	func greet(input Input) (string, error) {
//		return wfhost.Agent{Prompt: "greet " + input.Name}.Text()
//	}
//
// Each call here that waits is a step of the run's journal, and is never carried out a second time
// once it is done. Calls block the whole program: what is to happen side by side is started first
// (Agent.Start, StartSleep, StartSignal) and waited for afterwards (Step.Get, All, Any). Goroutines
// take turns only when they wait for each other.
//
// The standard library's clocks, time.Sleep, random numbers, files and output are virtual: the same
// in every execution.
package wfhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	agent "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_agent"
	child "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_child"
	context "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_context"
	log "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_log"
	signal "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_signal"
	sleep "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_sleep"
	host "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wfhost_workflow_types"
	export "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/export_wit_world"
	_ "github.com/wfhost/wfhost/guest-sdk/go/internal/bindings/wit_exports"
	"github.com/wfhost/wfhost/guest-sdk/go/internal/wit/runtime"
	wit "github.com/wfhost/wfhost/guest-sdk/go/internal/wit/types"
)

// Kind says what kind of failure it was.
type Kind string

// The kinds of failure.
const (
	// Failed: the other side answered that it could not do it.
	Failed Kind = "failed"
	// TimedOut: a time limit passed.
	TimedOut Kind = "timed-out"
	// Cancelled: the step or the run was cancelled.
	Cancelled Kind = "cancelled"
	// InvalidOutput: an answer does not fit what was asked for.
	InvalidOutput Kind = "invalid-output"
	// BudgetExceeded: the budget does not allow it.
	BudgetExceeded Kind = "budget-exceeded"
	// Unavailable: nobody could be reached who would do it.
	Unavailable Kind = "unavailable"
	// Rejected: the request itself is wrong, or somebody refused it.
	Rejected Kind = "rejected"
)

// In the order of the WIT package.
var kinds = []Kind{Failed, TimedOut, Cancelled, InvalidOutput, BudgetExceeded, Unavailable, Rejected}

// Failure is why a step or a run did not end well. Returned by a workflow, it is how its run fails;
// any other error fails it with the kind Failed.
type Failure struct {
	Kind    Kind
	Message string
	// Details is for programs; nil if there are none.
	Details json.RawMessage
	// Attempts is how often it was tried; 0 if it never was.
	Attempts uint32
}

// Error gives the message.
func (failure *Failure) Error() string {
	if failure.Message == "" {
		return string(failure.Kind)
	}
	return failure.Message
}

// Is tells whether an error is a failure of this kind, also one that is wrapped.
func (kind Kind) Is(err error) bool {
	var failure *Failure
	return errors.As(err, &failure) && failure.Kind == kind
}

func failureOf(from host.Failure) *Failure {
	failure := &Failure{Kind: kinds[from.Kind], Message: strings.Clone(from.Message), Attempts: from.Attempts}
	if from.Details.IsSome() {
		failure.Details = json.RawMessage(from.Details.Some())
	}
	runtime.Release()
	return failure
}

func hostFailure(err error) host.Failure {
	var failure *Failure
	if !errors.As(err, &failure) {
		return host.Failure{Kind: host.FailureKindFailed, Message: err.Error(), Details: wit.None[string]()}
	}
	// Whatever was wrapped around it says more.
	result := host.Failure{Message: err.Error(), Details: wit.None[string](), Attempts: failure.Attempts}
	for index, kind := range kinds {
		if kind == failure.Kind {
			result.Kind = host.FailureKind(index)
		}
	}
	if failure.Details != nil {
		result.Details = wit.Some(string(failure.Details))
	}
	return result
}

// Workflow names the workflow of the program. It is called by an `init` function, once.
func Workflow[I, O any](run func(input I) (O, error)) {
	export.Workflow = func(text string) export.Result {
		defer func() {
			if reason := recover(); reason != nil {
				log.Panicked(fmt.Sprint(reason), wit.None[string]())
				panic(reason)
			}
		}()
		fail := func(err error) export.Result {
			return wit.Err[string](hostFailure(err))
		}
		var input I
		if err := json.Unmarshal([]byte(text), &input); err != nil {
			return fail(&Failure{Kind: Rejected, Message: "the input does not fit: " + err.Error()})
		}
		runtime.Release()
		output, err := run(input)
		if err != nil {
			return fail(err)
		}
		result, err := json.Marshal(output)
		if err != nil {
			message := "the result cannot be written as JSON: " + err.Error()
			return fail(&Failure{Kind: InvalidOutput, Message: message})
		}
		return wit.Ok[string, host.Failure](string(result))
	}
}

// Step is an operation that was started. It goes on until it is done or cancelled, whether or not
// anything refers to it.
type Step[T any] struct {
	// Nil once it is done, or if it could not be started.
	step  *host.Step
	id    uint64
	read  func(text string) (T, error)
	value T
	err   error
}

// Steps that were neither waited for nor cancelled: the garbage collector would cancel them.
var open = map[*host.Step]struct{}{}

func started[T any](step *host.Step, read func(text string) (T, error)) *Step[T] {
	open[step] = struct{}{}
	return &Step[T]{step: step, id: step.Id(), read: read}
}

func readJSON[T any](text string) (T, error) {
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return value, &Failure{Kind: InvalidOutput, Message: "what came does not fit: " + err.Error()}
	}
	return value, nil
}

func readNothing(string) (struct{}, error) {
	return struct{}{}, nil
}

// ID is its number within the run; 0 if it could not be started.
func (step *Step[T]) ID() uint64 {
	return step.id
}

// Get waits until it is done. It may be called again and gives the same.
func (step *Step[T]) Get() (T, error) {
	if step.step != nil {
		result := step.step.Get()
		if result.IsErr() {
			step.err = failureOf(result.Err())
		} else {
			step.value, step.err = step.read(result.Ok())
			runtime.Release()
		}
		step.drop()
	}
	return step.value, step.err
}

// Cancel lets go of it. If it is not done, it is cancelled, and Get gives a failure of that kind.
func (step *Step[T]) Cancel() {
	if step.step != nil {
		step.err = &Failure{Kind: Cancelled, Message: "the program cancelled it"}
		step.drop()
	}
}

func (step *Step[T]) drop() {
	delete(open, step.step)
	step.step.Drop()
	step.step = nil
}

func (step *Step[T]) waitable() *host.Step {
	return step.step
}

// Waitable is a step of any type.
type Waitable interface {
	waitable() *host.Step
}

// Any waits for one of the steps and gives the index of the one that was done first. A step whose
// result is there already, because Get or Cancel was called, goes before all others.
func Any(steps ...Waitable) int {
	waiting := make([]*host.Step, 0, len(steps))
	for index, step := range steps {
		inner := step.waitable()
		if inner == nil {
			return index
		}
		waiting = append(waiting, inner)
	}
	return int(host.WaitAny(waiting))
}

// All waits for all steps and gives their results in their order. The first failure in that order
// is returned; the others go on.
func All[T any](steps []*Step[T]) ([]T, error) {
	results := make([]T, 0, len(steps))
	for _, step := range steps {
		result, err := step.Get()
		if err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	return results, nil
}

// Retry is when and how often a failed attempt is repeated.
type Retry struct {
	// MaxAttempts counts all attempts, the first one included.
	MaxAttempts uint32
	// Initial is the delay before the second attempt.
	Initial time.Duration
	// Factor makes each further delay longer.
	Factor float32
	// Max is the longest delay.
	Max time.Duration
	// Jitter is the fraction, 0 to 1, that each delay is varied by.
	Jitter float32
	// Fatal are kinds of failure that are not worth another attempt.
	Fatal []string
}

// Limits are the time limits of a call; 0 is none but that of the host.
type Limits struct {
	Attempt, Total, Heartbeat time.Duration
}

// Cache allows an answer of an earlier run that asked the same under the same version.
type Cache struct {
	Version string
	// Age is the greatest age of the answer; 0 is any.
	Age time.Duration
}

// Agent is a call of an agent: a model, a coding agent, a service, a person. What is left empty is
// up to the configuration of the host.
type Agent struct {
	Prompt string
	// Input is structured data beside the prompt.
	Input any
	// Providers may answer: attempt n goes to the n-th.
	Providers []string
	Model     string
	// Schema is a JSON Schema that the answer has to fit.
	Schema any
	// Session goes on with an earlier conversation: Reply.Session of its last answer.
	Session   string
	Workspace string
	// Label is what people see.
	Label string
	// Group is for calls that share a limit of concurrency.
	Group string
	Retry *Retry
	// Once has one call made, whatever happens: no second attempt and no correction of an answer that
	// does not fit the schema. If the host dies during it, the call fails and the details of the failure
	// have the reason "unknown-outcome". It goes before Retry.
	Once   bool
	Limits *Limits
	Cache  *Cache
	// Options is an object that is passed to the provider as it is.
	Options any
}

// Reply is an answer with all that is known about it.
type Reply struct {
	Output   json.RawMessage `json:"output"`
	Session  string          `json:"session"`
	Model    string          `json:"model"`
	Provider string          `json:"provider"`
	Usage    *Usage          `json:"usage"`
}

// Usage is what an answer consumed.
type Usage struct {
	InputTokens  uint64 `json:"input_tokens"`
	OutputTokens uint64 `json:"output_tokens"`
	CachedTokens uint64 `json:"cached_tokens"`
	// CostMicros is in millionths of a US dollar.
	CostMicros uint64 `json:"cost_micros"`
}

// Text is the answer as text: a JSON string as it is, other JSON as it is written.
func (reply *Reply) Text() string {
	var text string
	if json.Unmarshal(reply.Output, &text) == nil {
		return text
	}
	return string(reply.Output)
}

// Decode reads the answer into a value. If the agent answered with text, the text is read as JSON.
func (reply *Reply) Decode(into any) error {
	err := json.Unmarshal(reply.Output, into)
	var text string
	if err != nil && json.Unmarshal(reply.Output, &text) == nil {
		err = json.Unmarshal([]byte(text), into)
	}
	if err != nil {
		return &Failure{Kind: InvalidOutput, Message: "the answer does not fit: " + err.Error()}
	}
	return nil
}

// Text asks and waits for the answer as text.
func (call Agent) Text() (string, error) {
	return call.Start().Get()
}

// Reply asks and waits for the answer with all that is known about it.
func (call Agent) Reply() (*Reply, error) {
	return startAgent(call, readJSON[*Reply]).Get()
}

// Decode asks, waits, and reads the answer into a value.
func (call Agent) Decode(into any) error {
	reply, err := call.Reply()
	if err != nil {
		return err
	}
	return reply.Decode(into)
}

// Start asks without waiting for the answer.
func (call Agent) Start() *Step[string] {
	return startAgent(call, func(text string) (string, error) {
		reply, err := readJSON[*Reply](text)
		if err != nil {
			return "", err
		}
		return reply.Text(), nil
	})
}

func startAgent[T any](call Agent, read func(text string) (T, error)) *Step[T] {
	request, err := call.request()
	if err != nil {
		return &Step[T]{err: err}
	}
	return started(agent.Start(request), read)
}

func (call Agent) request() (agent.Request, error) {
	request := agent.Request{
		Prompt: call.Prompt, Providers: call.Providers, Model: text(call.Model),
		Session: text(call.Session), Workspace: text(call.Workspace), Label: text(call.Label),
		Group: text(call.Group),
	}
	err := errors.Join(
		optional("input", call.Input, &request.Input),
		optional("schema", call.Schema, &request.Schema),
		optional("options", call.Options, &request.Options),
	)
	if err != nil {
		return request, err
	}
	request.Retry, request.Limits, request.Cache = wit.None[agent.Retry](), wit.None[agent.Limits](), wit.None[agent.Caching]()
	if retry := call.Retry; retry != nil {
		request.Retry = wit.Some(agent.Retry{
			MaxAttempts: retry.MaxAttempts, Initial: millis(retry.Initial), Factor: retry.Factor,
			Max: millis(retry.Max), Jitter: retry.Jitter, Fatal: retry.Fatal,
		})
	}
	if call.Once {
		// A call that names this kind among the fatal ones is made at most once.
		request.Retry = wit.Some(agent.Retry{
			MaxAttempts: 1, Initial: 1_000, Factor: 2, Max: 60_000, Fatal: []string{"unknown-outcome"},
		})
	}
	if limits := call.Limits; limits != nil {
		request.Limits = wit.Some(agent.Limits{
			Attempt: length(limits.Attempt), Total: length(limits.Total), Heartbeat: length(limits.Heartbeat),
		})
	}
	if cache := call.Cache; cache != nil {
		request.Cache = wit.Some(agent.Caching{Version: cache.Version, Ttl: length(cache.Age)})
	}
	return request, nil
}

// Sleep waits for a length of time. The deadline is fixed when it begins and survives crashes; a run
// that sleeps uses no memory.
func Sleep(length time.Duration) error {
	_, err := StartSleep(length).Get()
	return err
}

// SleepUntil waits until a point in time. One that has passed is over at once.
func SleepUntil(at time.Time) error {
	_, err := started(sleep.Start(uint64(max(at.UnixMilli(), 0))), readNothing).Get()
	return err
}

// StartSleep begins a sleep without waiting for its end.
func StartSleep(length time.Duration) *Step[struct{}] {
	return started(sleep.StartFor(millis(length)), readNothing)
}

// Signal waits for a signal of this name and reads its payload; with a timeout, at most so long.
func Signal[T any](name string, timeout ...time.Duration) (T, error) {
	return StartSignal[T](name, timeout...).Get()
}

// StartSignal begins to wait for a signal.
func StartSignal[T any](name string, timeout ...time.Duration) *Step[T] {
	return started(signal.Start(name, first(timeout)), readJSON[T])
}

// Question is what a person is asked.
type Question struct {
	Prompt string
	// Schema is a JSON Schema that the answer has to fit.
	Schema any
	// Choices: if there are any, the answer is one of them.
	Choices []string
	// Details are what one has to know to answer.
	Details any
}

// Ask asks a person and waits for the answer; with a timeout, at most so long.
func Ask[T any](question Question, timeout ...time.Duration) (T, error) {
	return StartAsk[T](question, timeout...).Get()
}

// StartAsk asks a person without waiting for the answer.
func StartAsk[T any](question Question, timeout ...time.Duration) *Step[T] {
	asked := signal.Question{Prompt: question.Prompt, Choices: question.Choices}
	err := errors.Join(
		optional("schema", question.Schema, &asked.Schema),
		optional("details", question.Details, &asked.Details),
	)
	if err != nil {
		return &Step[T]{err: err}
	}
	return started(signal.StartAsk(asked, first(timeout)), readJSON[T])
}

// Send sends a signal to another run, exactly once.
func Send(run, name string, payload any) error {
	text, err := write("payload", payload)
	if err != nil {
		return err
	}
	if result := signal.Send(run, name, text); result.IsErr() {
		return failureOf(result.Err())
	}
	return nil
}

// Post appends to the messages of this run, which outsiders read in order.
func Post(name string, payload any) error {
	text, err := write("payload", payload)
	if err == nil {
		signal.Post(name, text)
	}
	return err
}

// Child runs a module as a run of its own and waits for its result.
func Child[T any](module string, input any) (T, error) {
	return StartChild[T](module, input).Get()
}

// StartChild begins a child run without waiting for its end. It is cancelled if this run ends first.
func StartChild[T any](module string, input any) *Step[T] {
	text, err := write("input", input)
	if err != nil {
		return &Step[T]{err: err}
	}
	return started(child.Start(module, text, wit.None[child.Options]()), readJSON[T])
}

// RunInfo is what is known about this run.
type RunInfo struct {
	// Run is its id.
	Run string
	// Workflow is the name of the workflow.
	Workflow string
	// Digest is the BLAKE3 digest of the module that the run began with.
	Digest string
	// Parent is the run that started this one; empty if none did.
	Parent  string
	Started time.Time
	// Attempt is how often the run as a whole was begun again; 1 is the first time.
	Attempt uint32
	Labels  map[string]string
}

// Info is what is known about this run.
func Info() RunInfo {
	info := context.Info()
	labels := make(map[string]string, len(info.Labels))
	for _, label := range info.Labels {
		labels[strings.Clone(label.F0)] = strings.Clone(label.F1)
	}
	defer runtime.Release()
	return RunInfo{
		Run: strings.Clone(info.Run), Workflow: strings.Clone(info.Workflow),
		Digest: strings.Clone(info.Digest), Parent: strings.Clone(info.Parent.SomeOr("")),
		Started: time.UnixMilli(int64(info.Started)).UTC(), Attempt: info.Attempt, Labels: labels,
	}
}

// Now is the time of the run: when the latest thing happened that the program has seen.
func Now() time.Time {
	return time.UnixMilli(int64(context.Now())).UTC()
}

// Random is the next random number of this run. A replay gets the same ones.
func Random() uint64 {
	return context.Random()
}

// Budget is what this run may use and has used, in tokens; limited tells whether there is a limit.
func Budget() (total uint64, limited bool, spent uint64) {
	budget := context.Budget()
	return budget.Total.SomeOr(0), budget.Total.IsSome(), budget.Spent
}

// Patched is for changes of a workflow while runs of it are under way: true for runs that reach this
// place for the first time under code that has it, false for those that passed it before.
func Patched(id string) bool {
	return context.Patched(id)
}

// IsCancelled is true once the program has seen that somebody asked the run to stop. There is some
// time to clean up.
func IsCancelled() bool {
	return context.Cancelled()
}

// Phase names what is being done now, for people who watch.
func Phase(title string) {
	context.Phase(title)
}

// Publish sets state that outsiders can read at any time. The latest value of a key holds.
func Publish(key string, value any) error {
	text, err := write("value", value)
	if err == nil {
		context.Publish(key, text)
	}
	return err
}

// ContinueAsNew ends this run and goes on as a fresh one of the same module with this input. It
// returns only if the input cannot be written.
func ContinueAsNew(input any) error {
	text, err := write("input", input)
	if err == nil {
		context.ContinueAsNew(text)
	}
	return err
}

// Debugf writes to the log of the run.
func Debugf(format string, arguments ...any) { logf(log.LevelDebug, format, arguments) }

// Infof writes to the log of the run.
func Infof(format string, arguments ...any) { logf(log.LevelInfo, format, arguments) }

// Warnf writes to the log of the run.
func Warnf(format string, arguments ...any) { logf(log.LevelWarn, format, arguments) }

// Errorf writes to the log of the run.
func Errorf(format string, arguments ...any) { logf(log.LevelError, format, arguments) }

func logf(level log.Level, format string, arguments []any) {
	log.Write(level, fmt.Sprintf(format, arguments...), nil)
}

func write(what string, value any) (string, error) {
	text, err := json.Marshal(value)
	if err != nil {
		message := fmt.Sprintf("the %s cannot be written as JSON: %v", what, err)
		return "", &Failure{Kind: Rejected, Message: message}
	}
	return string(text), nil
}

func optional(what string, value any, into *wit.Option[string]) error {
	*into = wit.None[string]()
	if value == nil {
		return nil
	}
	text, err := write(what, value)
	if err == nil {
		*into = wit.Some(text)
	}
	return err
}

func text(value string) wit.Option[string] {
	if value == "" {
		return wit.None[string]()
	}
	return wit.Some(value)
}

// A length in the host's unit, rounded up: whoever asks for a little time gets some.
func millis(length time.Duration) uint64 {
	return uint64((max(length, 0) + time.Millisecond - 1) / time.Millisecond)
}

func length(value time.Duration) wit.Option[uint64] {
	if value == 0 {
		return wit.None[uint64]()
	}
	return wit.Some(millis(value))
}

func first(timeout []time.Duration) wit.Option[uint64] {
	if len(timeout) == 0 {
		return wit.None[uint64]()
	}
	return wit.Some(millis(timeout[0]))
}
