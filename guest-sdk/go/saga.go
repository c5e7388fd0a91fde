package wfhost

import (
	"context"
	"encoding/json"
	"sync"
)

// Sagas that have not ended. The run does not end before them.
var sagas sync.WaitGroup

// Saga has the completed steps of a block of Compensate, with their compensations.
type Saga struct {
	done []undo
	// Undoes what is done when the rest is undone already; nil before.
	late func()
}

type undo struct {
	name string
	undo func(ctx context.Context) error
}

// Compensate runs a block, and compensates its completed steps, in the reverse order, if it fails or its context
// ends. The failure then has a member `saga` in its details, with the names of what was `undone` and
// `not_undone`. Compensations have a context that does not end, and the run does not end before they are complete.
//
//	err := wfhost.Compensate(ctx, func(ctx context.Context, trip *wfhost.Saga) error {
//		flight, err := wfhost.Do(ctx, trip, "flight", book("flight"), cancel)
//		...
//	})
func Compensate(ctx context.Context, block func(ctx context.Context, saga *Saga) error) error {
	sagas.Add(1)
	defer sagas.Done()
	saga := &Saga{}
	err := block(ctx, saga)
	if err == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	undone, notUndone := saga.undoAll(ctx)
	saga.late = func() {
		sagas.Add(1)
		go func() {
			defer reportPanic()
			defer sagas.Done()
			saga.undoAll(ctx)
		}()
	}
	if len(undone)+len(notUndone) == 0 {
		return err
	}
	return explain(err, undone, notUndone)
}

// Do does something within a saga; undoing is called with its result if the block fails later. Nothing
// new is begun when the run was asked to stop.
func Do[T any](
	ctx context.Context, saga *Saga, name string,
	action func(ctx context.Context) (T, error), undoing func(ctx context.Context, value T) error,
) (T, error) {
	if host.cancelled() {
		var none T
		return none, &Failure{Kind: Cancelled, Message: "the run was asked to stop"}
	}
	value, err := action(ctx)
	if err == nil {
		saga.Undo(name, func(ctx context.Context) error { return undoing(ctx, value) })
	}
	return value, err
}

// Undo registers a compensation before its step. It has to succeed also when there is
// nothing to compensate.
func (saga *Saga) Undo(name string, undoing func(ctx context.Context) error) {
	saga.done = append(saga.done, undo{name, undoing})
	// A step in a goroutine, beside the one that failed.
	if saga.late != nil {
		saga.late()
	}
}

type notUndone struct {
	Step    string `json:"step"`
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
}

func (saga *Saga) undoAll(ctx context.Context) ([]string, []notUndone) {
	names, failed := []string{}, []notUndone{}
	for len(saga.done) > 0 {
		last := saga.done[len(saga.done)-1]
		saga.done = saga.done[:len(saga.done)-1]
		stopping := host.cancelled()
		err := last.undo(ctx)
		if Cancelled.Is(err) && !stopping && host.cancelled() {
			// It was the request to stop that ended it, and there is but one.
			err = last.undo(ctx)
		}
		if err == nil {
			names = append(names, last.name)
			continue
		}
		Errorf("`%s` could not be undone: %s", last.name, err)
		failure := failureOf(err)
		failed = append(failed, notUndone{last.name, failure.Kind, failure.Message})
	}
	return names, failed
}

// The failure, with what was undone in its details.
func explain(err error, undone []string, failed []notUndone) error {
	failure := failureOf(err)
	failure.cause = err
	members := map[string]json.RawMessage{}
	if len(failure.Details) > 0 && json.Unmarshal(failure.Details, &members) != nil {
		members = map[string]json.RawMessage{"details": failure.Details}
	}
	// Of null.
	if members == nil {
		members = map[string]json.RawMessage{}
	}
	// A saga within this one has undone its part before.
	var all struct {
		Undone    []string    `json:"undone"`
		NotUndone []notUndone `json:"not_undone"`
	}
	_ = json.Unmarshal(members["saga"], &all)
	all.Undone = append([]string{}, append(all.Undone, undone...)...)
	all.NotUndone = append([]notUndone{}, append(all.NotUndone, failed...)...)
	members["saga"], _ = json.Marshal(all)
	failure.Details, _ = json.Marshal(members)
	return failure
}
