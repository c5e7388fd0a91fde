package wfhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Sleep waits for a duration of at most 100 years. The deadline is fixed when it starts and
// survives crashes; a run that sleeps uses no memory.
func Sleep(ctx context.Context, length time.Duration) error {
	_, err := StartSleep(length).Get(ctx)
	return err
}

// SleepUntil waits until a point in time. A time that has passed ends the sleep immediately.
func SleepUntil(ctx context.Context, at time.Time) error {
	_, err := started(host.sleepUntil(uint64(max(at.UnixMilli(), 0))), readNothing).Get(ctx)
	return err
}

// StartSleep starts a sleep without waiting for its end.
func StartSleep(length time.Duration) *Step[struct{}] {
	return started(host.sleepFor(millis(length)), readNothing)
}

func first(timeout []time.Duration) *uint64 {
	if len(timeout) == 0 {
		return nil
	}
	length := millis(timeout[0])
	return &length
}

// Signal waits for a signal of this name and reads its payload; with a timeout, at most for that long.
// Early signals are kept; each signal is consumed by one wait.
func Signal[T any](ctx context.Context, name string, timeout ...time.Duration) (T, error) {
	return StartSignal[T](name, timeout...).Get(ctx)
}

// StartSignal starts to wait for a signal.
func StartSignal[T any](name string, timeout ...time.Duration) *Step[T] {
	return started(host.startSignal(name, first(timeout)), readJSON[T]("signal "+name))
}

// Question is a question to a person.
type Question struct {
	Prompt string
	// Schema is a JSON Schema that the answer has to match, see SchemaOf.
	Schema any
	// Choices, if not empty, are the allowed answers.
	Choices []string
	// Details are information for the person who answers.
	Details any
}

// Ask asks a person and waits for the answer; with a timeout, at most for that long. A refusal is the failure
// Rejected.
func Ask[T any](ctx context.Context, question Question, timeout ...time.Duration) (T, error) {
	return StartAsk[T](question, timeout...).Get(ctx)
}

// StartAsk asks a person without waiting for the answer.
func StartAsk[T any](question Question, timeout ...time.Duration) *Step[T] {
	asked := askRequest{prompt: question.Prompt, choices: question.Choices, timeout: first(timeout)}
	err := errors.Join(
		optional("schema", question.Schema, &asked.schema),
		optional("details", question.Details, &asked.details),
	)
	if err != nil {
		return notStarted[T](err)
	}
	return started(host.startAsk(asked), readJSON[T]("answer"))
}

// Send sends a signal to another run, exactly once. It fails as Rejected if the run does not exist or if
// it has ended.
func Send(run, name string, payload any) error {
	text, err := write("payload", payload)
	if err != nil {
		return err
	}
	if failure := host.send(run, name, text); failure != nil {
		return failure
	}
	return nil
}

// Post appends to the messages of this run, which are read in order with a cursor.
func Post(name string, payload any) error {
	text, err := write("payload", payload)
	if err == nil {
		host.post(name, text)
	}
	return err
}

// ChildOptions are the options of a child.
type ChildOptions struct {
	// ID is the child's id; derived from the parent's id and the step if empty.
	ID string
	// Abandon lets the child continue when this run ends first; otherwise it is cancelled.
	Abandon bool
	// Labels are the child's labels.
	Labels map[string]string
}

// Child runs a module as a durable run of its own and waits for its result.
func Child[T any](ctx context.Context, module string, input any, options ...ChildOptions) (T, error) {
	return StartChild[T](module, input, options...).Get(ctx)
}

// StartChild starts a child run without waiting for its end.
func StartChild[T any](module string, input any, options ...ChildOptions) *Step[T] {
	text, err := write("input", input)
	if err != nil {
		return notStarted[T](err)
	}
	request := childRequest{module: module, input: text}
	for _, given := range options {
		request.id, request.abandon = given.ID, given.Abandon
		for name, value := range given.Labels {
			request.labels = append(request.labels, [2]string{name, value})
		}
		sorted(request.labels)
	}
	return started(host.startChild(request), readJSON[T]("result"))
}

// RunInfo is information about this run.
type RunInfo struct {
	// Run is its id.
	Run string
	// Workflow is the name of the workflow.
	Workflow string
	// Digest is the BLAKE3 digest of the module that the run started with.
	Digest string
	// Parent is the run that started this one; empty if none did.
	Parent  string
	Started time.Time
	// Attempt is the attempt at the whole run, from 1.
	Attempt uint32
	Labels  map[string]string
}

// Info is information about this run.
func Info() RunInfo {
	return host.info()
}

// Now is the virtual time of the run: the time of the latest event that the program has observed.
func Now() time.Time {
	return time.UnixMilli(int64(host.now())).UTC()
}

// Random is the next random number of this run. A replay returns the same numbers.
func Random() uint64 {
	return host.random()
}

// Spending is the budget of a run and what has been spent of it, in tokens.
type Spending struct {
	// Total is the limit, if it is Limited.
	Total   uint64
	Limited bool
	// Spent is what this run and its children have spent.
	Spent uint64
}

// Remaining is the remaining budget; limited reports whether there is a limit.
func (spending Spending) Remaining() (left uint64, limited bool) {
	return spending.Total - min(spending.Spent, spending.Total), spending.Limited
}

// Budget is the budget of this run and what has been spent of it.
func Budget() Spending {
	return host.budget()
}

// Patched is for changes of a workflow while runs of it are under way: true for runs that reach this
// place for the first time under code that has it, false for those that passed it before.
func Patched(id string) bool {
	return host.patched(id)
}

// IsCancelled is true once the program has seen that somebody asked the run to stop. There is some
// time to clean up.
func IsCancelled() bool {
	return host.cancelled()
}

// Phase names the current phase of the run, for people.
func Phase(title string) {
	host.phase(title)
}

// Publish publishes state, which can be read at any time: the latest value of a key.
func Publish(key string, value any) error {
	text, err := write("value", value)
	if err == nil {
		host.publish(key, text)
	}
	return err
}

// ContinueAsNew ends this run and continues as a new run of the same module with this input. It
// returns only if the input cannot be written.
func ContinueAsNew(input any) error {
	text, err := write("input", input)
	if err == nil {
		host.continueAs(text)
	}
	return err
}

// Fields stand beside the message of a log line.
type Fields map[string]any

// Log writes to the log of the run, silent while replaying.
var Log = Logger{}

// Logger writes lines with its fields.
type Logger struct {
	fields [][2]string
}

// With gives a logger whose lines have these fields as well.
func (logger Logger) With(fields Fields) Logger {
	all := append([][2]string(nil), logger.fields...)
	for name, value := range fields {
		text, isText := value.(string)
		if !isText {
			if written, err := json.Marshal(value); err == nil {
				text = string(written)
			} else {
				text = fmt.Sprint(value)
			}
		}
		all = append(all, [2]string{name, text})
	}
	sorted(all[len(logger.fields):])
	return Logger{fields: all}
}

// Debugf writes a line.
func (logger Logger) Debugf(format string, arguments ...any) {
	logger.write(levelDebug, format, arguments)
}

// Infof writes a line.
func (logger Logger) Infof(format string, arguments ...any) {
	logger.write(levelInfo, format, arguments)
}

// Warnf writes a line.
func (logger Logger) Warnf(format string, arguments ...any) {
	logger.write(levelWarn, format, arguments)
}

// Errorf writes a line.
func (logger Logger) Errorf(format string, arguments ...any) {
	logger.write(levelError, format, arguments)
}

func (logger Logger) write(level level, format string, arguments []any) {
	host.write(level, fmt.Sprintf(format, arguments...), logger.fields)
}

// Debugf writes to the log of the run.
func Debugf(format string, arguments ...any) { Log.write(levelDebug, format, arguments) }

// Infof writes to the log of the run.
func Infof(format string, arguments ...any) { Log.write(levelInfo, format, arguments) }

// Warnf writes to the log of the run.
func Warnf(format string, arguments ...any) { Log.write(levelWarn, format, arguments) }

// Errorf writes to the log of the run.
func Errorf(format string, arguments ...any) { Log.write(levelError, format, arguments) }

// Go's maps have no order of their own.
func sorted(pairs [][2]string) {
	slices.SortFunc(pairs, func(one, other [2]string) int {
		return slices.Compare(one[:], other[:])
	})
}
