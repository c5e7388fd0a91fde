package wfhost

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// Step is an operation that was started. It goes on until it is done, is cancelled, or the run ends,
// whether or not anything refers to it.
type Step[T any] struct {
	*operation
	read  func(text string) (T, error)
	value T
	err   error
	taken bool
}

// An operation of the host, as goroutines wait for it.
type operation struct {
	// Nil if it could not be started.
	step   hostStep
	number uint64
	// Under which the host's set has it; 0 until it is waited for.
	tag     uint64
	done    chan struct{}
	text    string
	failure error
}

// Operations that have not ended: the garbage collector would cancel what nothing refers to.
var open = map[*operation]struct{}{}

// How many steps were begun in this execution.
var begun uint64

func started[T any](step hostStep, read func(text string) (T, error)) *Step[T] {
	begun++
	begin := &operation{step: step, number: step.id(), done: make(chan struct{})}
	open[begin] = struct{}{}
	return &Step[T]{operation: begin, read: read}
}

func notStarted[T any](err error) *Step[T] {
	ended := &operation{done: make(chan struct{}), failure: err}
	close(ended.done)
	return &Step[T]{operation: ended}
}

// ID is the number of the step within the run; 0 if it could not be started.
func (step *Step[T]) ID() uint64 {
	return step.number
}

// Get waits until it is done. If the context ends first, the step is cancelled. It may be called again
// and gives the same.
func (step *Step[T]) Get(ctx context.Context) (T, error) {
	step.wait(ctx)
	if !step.taken {
		step.taken = true
		if step.err = step.failure; step.err == nil {
			step.value, step.err = step.read(step.text)
		}
	}
	return step.value, step.err
}

// Done is closed when it is done, for select. Its result is not taken from the host before somebody
// waits for it, so this counts as waiting.
func (step *Step[T]) Done() <-chan struct{} {
	step.enter()
	return step.done
}

// Cancel gives it up. If it is not done, whoever does it is told to stop, and Get gives a failure of
// that kind.
func (step *Step[T]) Cancel() {
	step.end("", &Failure{Kind: Cancelled, Message: "the program cancelled it"})
}

func (operation *operation) isDone() bool {
	select {
	case <-operation.done:
		return true
	default:
		return false
	}
}

func (operation *operation) wait(ctx context.Context) {
	if operation.isDone() {
		return
	}
	if err := ctx.Err(); err != nil {
		operation.end("", contextEnded(err))
		return
	}
	operation.enter()
	deadline, limited := ctx.Deadline()
	if !limited {
		select {
		case <-operation.done:
		case <-ctx.Done():
			operation.end("", contextEnded(ctx.Err()))
		}
		return
	}
	limit := limitOf(deadline)
	defer limit.Cancel()
	select {
	case <-operation.done:
	case <-ctx.Done():
		operation.end("", contextEnded(ctx.Err()))
	case <-limit.Done():
		operation.end("", limitPassed(limit))
	}
}

// The host keeps the time, so that the limit survives crashes.
func limitOf(deadline time.Time) *Step[struct{}] {
	return started(host.sleepUntil(uint64(max(deadline.UnixMilli(), 0))), readNothing)
}

func limitPassed(limit *Step[struct{}]) error {
	// One that the host does not take, as it is further away than any, is no limit that passed.
	if limit.failure != nil {
		return limit.failure
	}
	return contextEnded(context.DeadlineExceeded)
}

func contextEnded(err error) *Failure {
	if errors.Is(err, context.DeadlineExceeded) {
		return &Failure{Kind: TimedOut, Message: "the time limit passed", cause: err}
	}
	return &Failure{Kind: Cancelled, Message: "the program cancelled it", cause: err}
}

// The first end counts.
func (operation *operation) end(text string, failure error) {
	if operation.isDone() {
		return
	}
	operation.text, operation.failure = text, failure
	delete(open, operation)
	waits.forget(operation)
	operation.step.drop()
	close(operation.done)
}

// What goroutines wait for.
var waits = waiting{steps: map[uint64]*operation{}}

type waiting struct {
	steps map[uint64]*operation
	// Those of them that are not in the host's set: it is asked only when there are several.
	outside []*operation
	set     hostSet
	last    uint64
	// Whether the goroutine that waits for the host is there.
	driven bool
	// How often anything was begun to be waited for, or a goroutine let others run.
	activity uint64
}

// Somebody waits for it, so its outcome is taken from the host from here on.
func (operation *operation) enter() {
	if operation.tag != 0 || operation.isDone() {
		return
	}
	waits.activity++
	waits.last++
	operation.tag = waits.last
	waits.steps[operation.tag] = operation
	waits.outside = append(waits.outside, operation)
	if !waits.driven {
		waits.driven = true
		go waits.drive()
	}
}

func (waits *waiting) forget(operation *operation) {
	if operation.tag == 0 {
		return
	}
	delete(waits.steps, operation.tag)
	for index, outside := range waits.outside {
		if outside == operation {
			waits.outside = append(waits.outside[:index], waits.outside[index+1:]...)
			return
		}
	}
	waits.set.remove(operation.tag)
}

// Waits for the host whenever all other goroutines wait, until nothing is waited for.
func (waits *waiting) drive() {
	defer reportPanic()
	for {
		waits.letOthersRun()
		if len(waits.steps) == 0 {
			waits.driven = false
			return
		}
		waits.advance()
	}
}

// Lets the other goroutines run until all of them wait. There is one thread, and nothing is preempted,
// so a turn is over when those that can run have done so; it may be cut short now and then for the sake
// of fairness, so several in which nothing happened are needed.
func (waits *waiting) letOthersRun() {
	for quiet := 0; quiet < 3; {
		before := waits.activity
		runtime.Gosched()
		if quiet++; waits.activity != before {
			quiet = 0
		}
	}
}

// Lets other goroutines run for a turn, and whoever waits for the host know that this one goes on after it.
func yield() {
	waits.activity++
	runtime.Gosched()
}

func (waits *waiting) advance() {
	var done *operation
	if len(waits.steps) == 1 && len(waits.outside) == 1 {
		done = waits.outside[0]
	} else {
		if waits.set == nil {
			waits.set = host.newSet()
		}
		for _, operation := range waits.outside {
			waits.set.add(operation.step, operation.tag)
		}
		waits.outside = waits.outside[:0]
		done = waits.steps[waits.set.next()]
		// Done ones are no members any more.
		waits.outside = append(waits.outside, done)
	}
	text, failure := done.step.get()
	if failure != nil {
		done.end("", failure)
	} else {
		done.end(text, nil)
	}
}

// Waitable is a step of any type.
type Waitable interface {
	isDone() bool
	enter()
	ended() <-chan struct{}
}

func (operation *operation) ended() <-chan struct{} {
	return operation.done
}

// Any waits for one of the steps and gives the index of the one that was done first, or the error of
// the context if that ends before. The steps go on.
func Any(ctx context.Context, steps ...Waitable) (int, error) {
	first := make(chan int, len(steps))
	over := make(chan struct{})
	defer close(over)
	for index, step := range steps {
		if step.isDone() {
			return index, nil
		}
		step.enter()
		go func() {
			select {
			case <-step.ended():
				first <- index
			case <-over:
			}
		}()
	}
	if err := ctx.Err(); err != nil {
		return 0, contextEnded(err)
	}
	var passed <-chan struct{}
	var limit *Step[struct{}]
	if deadline, limited := ctx.Deadline(); limited {
		limit = limitOf(deadline)
		defer limit.Cancel()
		passed = limit.Done()
	}
	select {
	case index := <-first:
		return index, nil
	case <-ctx.Done():
		return 0, contextEnded(ctx.Err())
	case <-passed:
		return 0, limitPassed(limit)
	}
}

// All waits for all steps and gives their results in their order. The first failure in that order
// is returned; the others go on.
func All[T any](ctx context.Context, steps []*Step[T]) ([]T, error) {
	// All of them are waited for at once, so that none is held up by another.
	for _, step := range steps {
		step.enter()
	}
	results := make([]T, 0, len(steps))
	for _, step := range steps {
		result, err := step.Get(ctx)
		if err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	return results, nil
}

// A duration in the host's unit, rounded up, so that a short one does not become zero.
func millis(length time.Duration) uint64 {
	whole := max(length, 0) / time.Millisecond
	if max(length, 0)%time.Millisecond > 0 {
		whole++
	}
	return uint64(whole)
}
