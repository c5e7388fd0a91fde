package wfhost

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// What became of one of several functions.
type ended[T any] struct {
	index int
	value T
	err   error
}

// Has a function run in a goroutine, at once until it waits: Go would begin the last one first, and goes on with this
// one now and then for the sake of fairness.
func begin(function func()) {
	var began atomic.Bool
	go func() {
		defer reportPanic()
		began.Store(true)
		function()
	}()
	for !began.Load() {
		yield()
	}
}

// Has functions run in goroutines, under a context that ends with the caller's use of them.
func contest[T any](ctx context.Context, functions []func(ctx context.Context) (T, error)) (<-chan ended[T], func()) {
	inner, cancel := context.WithCancel(ctx)
	results := make(chan ended[T], len(functions))
	for index, function := range functions {
		begin(func() {
			value, err := function(inner)
			results <- ended[T]{index, value, err}
		})
	}
	return results, func() {
		cancel()
		// They see it now, and cancel their steps.
		yield()
	}
}

// Race returns the result of the function that ends first, with its index. The context of the others
// ends, which cancels the steps that they wait for. Without any functions it never ends.
func Race[T any](ctx context.Context, functions ...func(ctx context.Context) (T, error)) (int, T, error) {
	results, cancel := contest(ctx, functions)
	defer cancel()
	first := <-results
	return first.index, first.value, first.err
}

// Success is one of a Quorum.
type Success[T any] struct {
	Index int
	Value T
}

// Quorum returns the results of the first count functions that succeed, in the order in which they did;
// the context of the others ends. It fails as soon as there can be no count successes any more, with
// all failures in the details.
func Quorum[T any](ctx context.Context, count int, functions ...func(ctx context.Context) (T, error)) ([]Success[T], error) {
	total := len(functions)
	if total < count {
		message := fmt.Sprintf("%d successes are asked for, of %d tries", count, total)
		return nil, &Failure{Kind: Rejected, Message: message}
	}
	results, cancel := contest(ctx, functions)
	defer cancel()
	type failed struct {
		Index   int    `json:"index"`
		Kind    Kind   `json:"kind"`
		Message string `json:"message"`
	}
	var successes []Success[T]
	var failures []failed
	for len(successes) < count {
		end := <-results
		if end.err == nil {
			successes = append(successes, Success[T]{end.index, end.value})
			continue
		}
		failure := failureOf(end.err)
		failures = append(failures, failed{end.index, failure.Kind, failure.Message})
		if total-len(failures) < count {
			message := fmt.Sprintf(
				"%d of %d tries failed, %d have to succeed: %s", len(failures), total, count, failure.Message)
			details, _ := json.Marshal(map[string]any{"failures": failures})
			return nil, &Failure{Kind: failure.Kind, Message: message, Details: details}
		}
	}
	return successes, nil
}

// FirstOK returns the result of the first function that succeeds; the context of the others ends.
// It fails only if all functions fail.
func FirstOK[T any](ctx context.Context, functions ...func(ctx context.Context) (T, error)) (T, error) {
	successes, err := Quorum(ctx, 1, functions...)
	if err != nil {
		var none T
		return none, err
	}
	return successes[0].Value, nil
}

// Map calls a function for each item, at most limit (at least one) at the same time, and gives the
// results in the order of the items. The first failure ends the context of those under way and begins
// no more.
func Map[T, R any](ctx context.Context, items []T, limit int, function func(ctx context.Context, item T) (R, error)) ([]R, error) {
	return MapSeq(ctx, slices.Values(items), limit, function)
}

// MapSeq is Map for items that are taken when it is their turn.
func MapSeq[T, R any](ctx context.Context, items iter.Seq[T], limit int, function func(ctx context.Context, item T) (R, error)) ([]R, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer yield()
	defer cancel()
	next, stop := iter.Pull(items)
	defer stop()
	done := make(chan ended[R])
	results := []R{}
	running := 0
	for more := true; ; {
		for more && running < max(limit, 1) {
			var item T
			if item, more = next(); !more {
				break
			}
			index := len(results)
			var none R
			results = append(results, none)
			running++
			begin(func() {
				value, err := function(ctx, item)
				select {
				case done <- ended[R]{index, value, err}:
				case <-ctx.Done():
				}
			})
		}
		if running == 0 {
			return results, nil
		}
		select {
		case end := <-done:
			if end.err != nil {
				return nil, end.err
			}
			results[end.index] = end.value
			running--
		case <-ctx.Done():
			return nil, contextEnded(ctx.Err())
		}
	}
}

// Whether there is another attempt after one (from 1) failed so: the rules of the host.
func (retry Retry) allowsAnother(attempt uint32, failure *Failure) bool {
	// What would come again.
	final := failure.Kind == Cancelled || failure.Kind == Rejected || failure.Kind == BudgetExceeded
	reason := failure.reason()
	fatal := slices.ContainsFunc(retry.Fatal, func(fatal string) bool {
		return strings.EqualFold(fatal, string(failure.Kind)) || (reason != "" && strings.EqualFold(fatal, reason))
	})
	return attempt < retry.MaxAttempts && !final && !fatal
}

// The delay after an attempt (from 1), varied by a random number.
func (retry Retry) delay(attempt uint32, random uint64) time.Duration {
	longest := retry.Max.Seconds()
	grown := retry.Initial.Seconds() * math.Pow(max(float64(retry.Factor), 0), float64(attempt-1))
	// Nothing times infinity is no number, and means no delay.
	capped := min(grown, longest)
	if math.IsNaN(grown) {
		capped = 0
	}
	// 53 bits, as many as a float holds, make a number from -1 to 1.
	unit := 2*float64(random>>11)/(1<<53) - 1
	varied := capped * (1 + min(max(float64(retry.Jitter), 0), 1)*unit)
	return time.Duration(math.Ceil(min(varied, longest) * float64(time.Second)))
}

// Again runs a block until it succeeds, as often and with such delays as the policy says; it is told
// which attempt it is, from 1. The delays are durable. Cancelled, Rejected and BudgetExceeded end it
// at once. For a single call of an agent see Agent.Retry, which the host keeps.
func Again[T any](ctx context.Context, policy Retry, block func(ctx context.Context, attempt uint32) (T, error)) (T, error) {
	policy = policy.whole()
	for attempt := uint32(1); ; attempt++ {
		value, err := block(ctx, attempt)
		if err == nil {
			return value, nil
		}
		if !policy.allowsAnother(attempt, failureOf(err)) {
			return value, err
		}
		Infof("attempt %d failed: %s", attempt, err)
		if err := Sleep(ctx, policy.delay(attempt, host.random())); err != nil {
			return value, err
		}
	}
}

// Rounds runs a block again and again until it says that it is done, with a result. Each round gets the
// state that the one before made. After about steps steps the run continues as new: a fresh run of the
// same module begins with the state as its input, so that each journal stays short.
func Rounds[S, T any](ctx context.Context, steps uint64, state S, block func(ctx context.Context, state S) (next S, result T, done bool, err error)) (T, error) {
	for {
		next, result, done, err := block(ctx, state)
		if err != nil || done {
			return result, err
		}
		if begun >= steps {
			return result, ContinueAsNew(next)
		}
		state = next
	}
}
