package wfhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Sleep waits for a length of time, of at most 100 years. The deadline is fixed when it begins and
// survives crashes; a run that sleeps uses no memory.
func Sleep(ctx context.Context, length time.Duration) error {
	_, err := StartSleep(length).Get(ctx)
	return err
}

// SleepUntil waits until a point in time. One that has passed is over at once.
func SleepUntil(ctx context.Context, at time.Time) error {
	_, err := started(host.sleepUntil(uint64(max(at.UnixMilli(), 0))), readNothing).Get(ctx)
	return err
}

// StartSleep begins a sleep without waiting for its end.
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

// Signal waits for a signal of this name and reads its payload; with a timeout, at most so long.
// Signals that come early are kept; each is taken by one wait.
func Signal[T any](ctx context.Context, name string, timeout ...time.Duration) (T, error) {
	return StartSignal[T](name, timeout...).Get(ctx)
}

// StartSignal begins to wait for a signal.
func StartSignal[T any](name string, timeout ...time.Duration) *Step[T] {
	return started(host.startSignal(name, first(timeout)), readJSON[T]("signal "+name))
}

// Question is what a person is asked.
type Question struct {
	Prompt string
	// Schema is a JSON Schema that the answer has to fit, see SchemaOf.
	Schema any
	// Choices: if there are any, the answer is one of them.
	Choices []string
	// Details are what one has to know to answer.
	Details any
}

// Ask asks a person and waits for the answer; with a timeout, at most so long. A refusal is the failure
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

// Send sends a signal to another run, exactly once. It fails as Rejected if there is no such run or if
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

// Post appends to the messages of this run, which outsiders read in order.
func Post(name string, payload any) error {
	text, err := write("payload", payload)
	if err == nil {
		host.post(name, text)
	}
	return err
}

// ChildOptions are what is said of a child besides its input.
type ChildOptions struct {
	// ID is the child's id; made from the parent's id and the step if empty.
	ID string
	// Abandon lets it go on when this run ends first; otherwise it is cancelled.
	Abandon bool
	// Labels are by which people find it.
	Labels map[string]string
}

// Child runs a module as a durable run of its own and waits for its result.
func Child[T any](ctx context.Context, module string, input any, options ...ChildOptions) (T, error) {
	return StartChild[T](module, input, options...).Get(ctx)
}

// StartChild begins a child run without waiting for its end.
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
	return host.info()
}

// Now is the time of the run: when the latest thing happened that the program has seen.
func Now() time.Time {
	return time.UnixMilli(int64(host.now())).UTC()
}

// Random is the next random number of this run. A replay gets the same ones.
func Random() uint64 {
	return host.random()
}

// Spending is what a run may use and has used, in tokens.
type Spending struct {
	// Total is the limit, if it is Limited.
	Total   uint64
	Limited bool
	// Spent is what this run and its children have used.
	Spent uint64
}

// Remaining is what is left; limited tells whether there is a limit.
func (spending Spending) Remaining() (left uint64, limited bool) {
	return spending.Total - min(spending.Spent, spending.Total), spending.Limited
}

// Budget is what this run may use and has used.
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

// Phase names what is being done now, for people who watch.
func Phase(title string) {
	host.phase(title)
}

// Publish sets state that outsiders can read at any time. The latest value of a key holds.
func Publish(key string, value any) error {
	text, err := write("value", value)
	if err == nil {
		host.publish(key, text)
	}
	return err
}

// ContinueAsNew ends this run and goes on as a fresh one of the same module with this input. It
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
